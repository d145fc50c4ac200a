"""A drawing as a part of a page: its own ids, marks that the page's script finds, no fonts."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from analysis.plot_style import SVG, svg_image
from analysis.report.drawing import SMALL, Drawing

LEAST_PIXELS = 11.3  # of the smallest text, at any width of the page
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DIGITS = re.compile(r"-?\d+\.\d{3,}")
_NUMBERS = {"d", "x", "y", "width", "height", "transform"}
_XLINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(
    drawing: Drawing, titles: Mapping[str, str], stops: frozenset[str] = frozenset()
) -> str:
    """The drawing as SVG for a page with other drawings in it.

    Groups with the id `run-<run id>` become marks: their attribute `data-run` says which trial,
    their title is what `titles` says of it, and those in `stops` can be reached by the keyboard.
    """
    width, height = drawing.figure.get_size_inches() * 72.0
    least = math.ceil(width * LEAST_PIXELS / SMALL)
    style = f"min-width:{least}px;max-width:{1.75 * width:.0f}px"
    if drawing.svg is not None:
        return drawing.svg.replace("<svg ", f'<svg style="{style}" ', 1)
    out = io.BytesIO()
    drawing.figure.savefig(out, format="svg", metadata={"Date": None})
    root = svg_image(out.getvalue(), drawing.label)
    for parent in root.findall(f"{{{SVG}}}defs"):
        if parent.find(f"{{{SVG}}}style") is not None:
            root.remove(parent)  # it would be about the whole page, which has the same rule once
    has_marks = False
    referenced = _references(root)
    for element in root.iter():
        name = element.get("id", "")
        if name.startswith("run-"):
            _mark(element, name.removeprefix("run-"), titles, stops)
            has_marks = True
        elif name in referenced:
            element.set("id", f"{drawing.name}-{name}")
        elif name:
            del element.attrib["id"]
        _redirect(element, drawing.name)
        _shorten(element)
    _free_styles(root)
    root.set("role", "group" if has_marks else "img")
    root.set("style", style)
    root.attrib.pop("height", None)
    root.attrib.pop("width", None)
    root.set("viewBox", f"0 0 {width:g} {height:g}")
    return ElementTree.tostring(root, encoding="unicode")


def _free_styles(root: ElementTree.Element) -> None:
    """Move the style of a shared shape to where it is used: there the page can change it."""
    shapes = {f"#{path.get('id')}": path for path in root.iter(f"{{{SVG}}}path") if path.get("id")}
    used = [use for use in root.iter(f"{{{SVG}}}use") if use.get("href") in shapes]
    for use in used:
        style = shapes[use.get("href", "")].get("style", "")
        use.set("style", f"{style}; {use.get('style', '')}".strip("; "))
    for use in used:
        shapes[use.get("href", "")].attrib.pop("style", None)


def _shorten(element: ElementTree.Element) -> None:
    """A hundredth of a point is enough, and blanks between groups say nothing."""
    for key in _NUMBERS & element.attrib.keys():
        text = _DIGITS.sub(lambda match: f"{float(match[0]):.2f}", element.attrib[key])
        element.set(key, " ".join(text.split()))
    if not (element.text or "").strip():
        element.text = None
    element.tail = "\n" if element.get("class") == "mark" else None


def _references(root: ElementTree.Element) -> set[str]:
    found: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            found.update(_REFERENCE.findall(value))
            if key in (_XLINK, "href") and value.startswith("#"):
                found.add(value[1:])
    return found


def _redirect(element: ElementTree.Element, prefix: str) -> None:
    for key, value in list(element.attrib.items()):
        if key in (_XLINK, "href") and value.startswith("#"):
            del element.attrib[key]
            element.set("href", f"#{prefix}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))


def _mark(
    group: ElementTree.Element, run_id: str, titles: Mapping[str, str], stops: frozenset[str]
) -> None:
    del group.attrib["id"]
    group.set("data-run", run_id)
    group.set("class", "mark")
    if run_id in titles:
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = titles[run_id]
        group.insert(0, title)
    if run_id in stops:
        group.set("tabindex", "0")
        group.set("role", "img")
        group.set("aria-label", titles.get(run_id, run_id))
