"""What all pictures share: ink, fonts, and PNG or one HTML file that needs no network."""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.errors import FrontError
from analysis.files import write_whole

INK, MUTED, FAINT, GRID = "#1b1f24", "#6a737d", "#b9c0c7", "#eceff2"
SVG = "http://www.w3.org/2000/svg"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "goldenticket",
}
CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
svg { width: 100%; height: auto; }
svg g[id^="run-"]:hover { filter: drop-shadow(0 0 3px #1b1f24); cursor: help; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87rem; }
caption { text-align: left; padding-bottom: 0.4rem; color: #57606a; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #eceff2; }
"""


def check_suffix(path: str | Path) -> Path:
    """The path, if it ends in .png or .html; FrontError otherwise."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".html"):
        raise FrontError(f"{path}: the plot's name must end in .png or .html")
    return path


def save_figure(figure: Figure, path: Path, to_page: Callable[[bytes], str]) -> Path:
    """Write a picture, or the page that `to_page` makes of its SVG; the same in, the same out."""
    out = io.BytesIO()
    if path.suffix.lower() == ".png":
        figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
        write_whole(path, out.getvalue())
    else:
        figure.savefig(out, format="svg", metadata={"Date": None})
        write_whole(path, to_page(out.getvalue()).encode())
    return path


def in_percent(axis: Axis) -> None:
    """Ticks at round percentages."""
    axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def svg_image(svg: bytes, label: str) -> ElementTree.Element:
    """A drawing to put into a page, with its `label` for those who do not see it."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    root.set("role", "img")
    root.set("aria-label", label)
    return root


def page(title: str, body: str, css: str = "") -> str:
    """An HTML document; nothing in it is fetched from anywhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{css}</style>\n{body}\n</html>\n"
    )
