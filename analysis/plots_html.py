"""A front as one HTML page: the drawing with a tooltip on every point, and the table beneath."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

from analysis.front import Front
from analysis.store import Trial

_SVG = "http://www.w3.org/2000/svg"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
svg { width: 100%; height: auto; }
svg g[id^="run-"]:hover { filter: drop-shadow(0 0 3px #1b1f24); cursor: help; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87rem; }
caption { text-align: left; padding-bottom: 0.4rem; color: #57606a; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #eceff2; }
th:last-child, td:last-child { text-align: left; font-family: ui-monospace, monospace; }
"""
_HEADS = {
    "number": "trial",
    "natural_accuracy": "natural",
    "verified_accuracy": "verified",
    "falsified_accuracy_bound": "attack bound",
    "density": "density",
    "num_active_parameters": "parameters",
    "inference_flops": "FLOPs",
    "method": "method",
    "run_id": "run",
}


def to_html(front: Front, svg: bytes) -> str:
    """The page: nothing in it is fetched from anywhere."""
    title = f"{front.study.name}: Pareto front"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"{_with_tooltips(front, svg)}\n{_table(front)}\n</html>\n"
    )


def _with_tooltips(front: Front, svg: bytes) -> str:
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    root.set("role", "img")
    root.set("aria-label", "Verified against natural accuracy; the table below has the figures")
    trials = {f"run-{trial.run_id}": trial for trial in front.study.trials}
    for group in root.iter(f"{{{_SVG}}}g"):
        trial = trials.get(group.get("id", ""))
        if trial is not None:
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = _tooltip(trial)
            group.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _tooltip(trial: Trial) -> str:
    shown = ("natural_accuracy", "verified_accuracy", "density", "inference_flops")
    figures = [f"{_HEADS[k]} {_figure(k, trial.metrics[k])}" for k in shown if k in trial.metrics]
    return "\n".join(
        [f"trial {trial.number} ({trial.state}, {trial.method})", *figures, trial.run_id]
    )


def _table(front: Front) -> str:
    rows = front.table()
    keys = list(rows[0])
    head = "".join(f"<th>{escape(_HEADS.get(key, key))}</th>" for key in keys)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(_figure(k, row.get(k, '')))}</td>" for k in keys) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(front.members[0].provenance)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _figure(name: str, value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    if name == "density" or "accuracy" in name:
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}"
