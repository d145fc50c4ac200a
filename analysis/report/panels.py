"""The front, two objectives at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from analysis import pareto
from analysis.plot_labels import Point, along, label_points
from analysis.plot_style import FAINT, INK, MUTED
from analysis.recorded import Trial, is_accuracy
from analysis.report.drawing import SMALL, Drawing, gid, new_axes, set_axis
from analysis.report.material import Material, evenly
from analysis.report.section import Section
from analysis.report.solid import draw_solid
from analysis.report.words import counted, name_of, title_of
from spaces.base import ConfigError

_PAIRS = (
    ("natural_accuracy", "verified_accuracy"),
    ("inference_flops", "verified_accuracy"),
    ("inference_flops", "natural_accuracy"),
    ("density", "verified_accuracy"),
    ("density", "natural_accuracy"),
)
VERIFIED = "verified_accuracy"
_MOST_LABELS, _MOST_INTERVALS, _MANY = 14, 12, 25
_PALE = "#d5dade"


def section(material: Material) -> Section:
    """Panels for pairs of objectives, and the front in three dimensions."""
    pairs = [*_PAIRS]
    known = {name for pair in _PAIRS for name in pair}
    other = _accuracy(material.objectives)
    pairs += [(name, other) for name in material.objectives if name not in (*known, other)]
    drawings = [_panel(material, x, y) for x, y in pairs if _has(material.members, x, y)]
    remarks = [
        "Filled: members of the front, the darker the more FLOPs; bars: 95 % intervals (Wilson) "
        "for other examples drawn like these. Circles: other completed trials; crosses: trials "
        "stopped early, measured before their training ended. The stepped line joins the members "
        "that are best in these two figures alone. Members set the view.",
        *_hidden(material),
    ]
    solid = draw_solid(material)
    if not drawings:
        return Section(
            "front",
            "The front",
            "There is no picture of the front: its members have not recorded natural or verified "
            "accuracy.",
        )
    parts: list[Any] = [*drawings, *([] if solid is None else [solid])]
    lead = (
        "Every figure shows the same trials. Point at one, or tap it, to see its settings and to "
        "find it in all other figures; the spatial figure turns by dragging and by the arrow keys."
    )
    return Section("front", "The front", lead, parts, remarks)


def _accuracy(objectives: Sequence[str]) -> str:
    """What other objectives are drawn against: verified accuracy, unless they go with another."""
    aims = [name for name in objectives if is_accuracy(name)]
    return aims[0] if aims and VERIFIED not in aims else VERIFIED


def _hidden(material: Material) -> list[str]:
    hidden = material.num_others - len(material.others)
    late = material.front.study.count("stopped") - len(material.stopped)
    if not hidden and not late:
        return []
    return [
        f"Not drawn, to keep the page light: {counted(hidden, 'completed trial')} off the front "
        f"and {counted(late, 'stopped trial')}, left out at even distances."
    ]


def _has(trials: Sequence[Trial], *names: str) -> list[Trial]:
    return [trial for trial in trials if all(name in trial.metrics for name in names)]


def _panel(material: Material, x: str, y: str) -> Drawing:
    members = _has(material.members, x, y)
    figure, axes = new_axes(f"{title_of(y)} against {name_of(x)}")
    with_intervals = len(members) <= _MOST_INTERVALS
    set_axis(axes, "x", x, _extent(members, x, with_intervals))
    set_axis(axes, "y", y, _extent(members, y, with_intervals))
    faint = []
    for trials, marker in ((material.others, "o"), (material.stopped, "x")):
        shown = [trial for trial in _has(trials, x, y) if _in_view(axes, trial, x, y)]
        for trial in shown:
            axes.plot(
                trial.metrics[x], trial.metrics[y], marker, markersize=5, color=FAINT,
                markeredgewidth=1.0, zorder=2, gid=gid(trial), markerfacecolor="none",
            )  # fmt: skip
        faint += shown
    border = _steps(axes, members, x, y)
    if with_intervals:
        _intervals(axes, members, x, y)
    for trial in members:
        axes.plot(
            trial.metrics[x], trial.metrics[y], "o", markersize=9, zorder=3, gid=gid(trial),
            markerfacecolor=material.inks.fill(trial), markeredgecolor=INK, markeredgewidth=0.9,
        )  # fmt: skip
    most = _MOST_LABELS if len(members) <= _MANY else _MOST_LABELS // 2
    named = evenly(sorted(members, key=lambda trial: trial.metrics[x]), most)
    points = [
        Point(t.metrics[x], t.metrics[y], 8.0, material.name_of(t) if t in named else "")
        for t in members
    ]
    others = [Point(t.metrics[x], t.metrics[y], 4.0, weight=1.0) for t in faint]
    label_points(axes, points, [*others, *along(axes, border)], SMALL)
    label = (
        f"{title_of(y)} against {name_of(x)}: {counted(len(members), 'member')} of the front, "
        f"{counted(len(faint), 'other trial')} in view; the table above has the figures"
    )
    return Drawing(f"front-{y}-{x}".replace("_", "-"), figure, label, is_way_in=(x, y) == _PAIRS[0])


def _in_view(axes: Axes, trial: Trial, x: str, y: str) -> bool:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return left <= trial.metrics[x] <= right and bottom <= trial.metrics[y] <= top


def _extent(members: Sequence[Trial], name: str, with_intervals: bool) -> list[float]:
    """The values that the view must hold: an interval that leaves it looks like a grid line."""
    intervals = [trial.interval(name) for trial in members] if with_intervals else []
    ends = [end for interval in intervals if interval is not None for end in interval]
    return [*(trial.metrics[name] for trial in members), *ends]


def _steps(axes: Axes, members: Sequence[Trial], x: str, y: str) -> list[tuple[float, float]]:
    """Draw the border of what the members reach in two figures; returns its corners.

    None where a figure has no better side.
    """
    try:
        ways = [pareto.direction_of(x), pareto.direction_of(y)]
    except ConfigError:
        return []
    values = [[trial.metrics[x], trial.metrics[y]] for trial in members]
    kept = pareto.nondominated(values, ways)
    best = sorted(value for value, keep in zip(values, kept, strict=True) if keep)
    # Between two of them, only what the one that asks for less of x can do has been reached.
    corners = [(best[0][0], best[0][1])]
    for (x1, y1), (x2, y2) in pairwise(best):
        corners += [(x2, y1) if ways[0] == "minimize" else (x1, y2), (x2, y2)]
    axes.plot(*zip(*corners, strict=True), color=MUTED, linewidth=0.9, zorder=1.5)
    return corners


def _intervals(axes: Axes, members: Sequence[Trial], x: str, y: str) -> None:
    view = axes.get_xlim(), axes.get_ylim()
    for trial in members:
        for name, xs, ys in (
            (x, trial.interval(x), (trial.metrics[y],) * 2),
            (y, (trial.metrics[x],) * 2, trial.interval(y)),
        ):
            if "accuracy" in name and xs is not None and ys is not None:
                axes.plot(xs, ys, color=_PALE, linewidth=1.0, zorder=1)
    axes.set(xlim=view[0], ylim=view[1])
