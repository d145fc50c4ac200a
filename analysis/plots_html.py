"""A front as one HTML page: the drawing with a tooltip on every point, and the table beneath."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

from analysis.front import Front
from analysis.plot_style import SVG, page, svg_image
from analysis.recorded import Trial
from spaces.metrics import metric

_CSS = """
th:last-child, td:last-child { text-align: left; font-family: ui-monospace, monospace; }
"""
_HEADS = {
    "number": "trial",
    "natural_accuracy": "natural",
    "verified_accuracy": "verified",
    "falsified_accuracy_bound": "attack bound",
    "exact_verified_accuracy": "exact",
    "exact_falsified_accuracy_bound": "exact bound",
    "density": "density",
    "num_active_parameters": "parameters",
    "inference_flops": "FLOPs",
    "method": "method",
    "run_id": "run",
}


def to_html(front: Front, svg: bytes) -> str:
    """The page: nothing in it is fetched from anywhere."""
    body = f"{_with_tooltips(front, svg)}\n{_table(front)}"
    return page(f"{front.study.name}: Pareto front", body, _CSS)


def _with_tooltips(front: Front, svg: bytes) -> str:
    label = "Verified against natural accuracy; the table below has the figures"
    root = svg_image(svg, label)
    trials = {f"run-{trial.run_id}": trial for trial in (*front.study.trials, *front.members)}
    for group in root.iter(f"{{{SVG}}}g"):
        trial = trials.get(group.get("id", ""))
        if trial is not None:
            title = ElementTree.Element(f"{{{SVG}}}title")
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
    keys = front.columns()
    head = "".join(f"<th>{escape(_HEADS.get(key, key))}</th>" for key in keys)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(_figure(k, row.get(k, '')))}</td>" for k in keys) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(front.provenance)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _figure(name: str, value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    if name in ("number", "seeds"):
        return f"{value}"
    if metric(name).unit == "fraction":
        return f"{100 * value:.1f} %"
    return f"{value:.3g} s" if metric(name).unit == "s" else f"{value:,.0f}"
