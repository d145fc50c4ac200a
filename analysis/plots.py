"""The front as a picture: PNG, or one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from analysis.errors import FrontError
from analysis.front import Front
from analysis.plot_labels import Point, label_points
from analysis.plot_style import (
    FAINT,
    GRID,
    INK,
    MUTED,
    STYLE,
    check_suffix,
    in_percent,
    save_figure,
)
from analysis.plots_html import to_html
from analysis.recorded import Trial

X, Y, COLOUR = "natural_accuracy", "verified_accuracy", "inference_flops"
# Lightness falls all the way, so that few FLOPs are light in grey too.
COLOURS = LinearSegmentedColormap.from_list(
    "gold to plum", ["#f9dc7c", "#e3a43a", "#b4643c", "#6d3450", "#27173d"]
)
MAX_LABELS = 24
LEFT = 0.1


def plot_front(front: Front, path: str | Path) -> Path:
    """Draw verified against natural accuracy, FLOPs as colour and size, to a .png or .html file.

    Members of the front set the view and are labelled by trial number and density; other completed
    and stopped trials in view are faint. FrontError for another suffix or a member without a figure
    that is drawn; TicketError when the file cannot be written.
    """
    path = check_suffix(path)
    for trial in front.members:
        absent = [name for name in (X, Y, COLOUR) if name not in trial.metrics]
        if absent:
            raise FrontError(f"run {trial.run_id} has not recorded {', '.join(absent)}")
    with matplotlib.rc_context(STYLE):
        return save_figure(_draw(front), path, lambda svg: to_html(front, svg))


def _draw(front: Front) -> Figure:
    figure = Figure(figsize=(8.4, 5.4), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((LEFT, 0.115, 0.86 - LEFT, 0.725))
    members = front.members
    others, stopped = _background(front)
    _frame(axes, members)  # one failed training must not press the front into a corner
    visible = []
    for trials, marker, what in (
        (others, "o", "completed, not on the front"),
        (stopped, "x", "stopped early"),
    ):
        if trials:
            shown = [trial for trial in trials if _in_view(axes, trial)]
            _faint(axes, shown, marker, f"{what} ({len(shown)} of {len(trials)} in view)")
            visible += shown
    norm = _flops_norm(members)
    for trial in sorted(members, key=lambda t: -t.metrics[COLOUR]):
        share = float(norm(trial.metrics[COLOUR]))
        axes.scatter(
            [trial.metrics[X]],
            [trial.metrics[Y]],
            s=70 + 190 * share,
            c=[COLOURS(share)],
            edgecolors=INK,
            linewidths=0.9,
            zorder=3,
            gid=f"run-{trial.run_id}",
        )
    _colour_bar(figure, norm)
    _titles(figure, front)
    if others or stopped:
        figure.legend(
            loc="lower right",
            bbox_to_anchor=(0.86, 0.0),
            ncols=2,
            frameon=False,
            fontsize=8.5,
            labelcolor=MUTED,
            handlelength=1,
            handletextpad=0.3,
        )
    _label(axes, front, visible)
    return figure


def _background(front: Front) -> tuple[list[Trial], list[Trial]]:
    """Completed trials off the front, and stopped ones, that have both accuracies."""
    on_front = {run.run_id for trial in front.members for run in trial.runs}
    drawable = [t for t in front.study.trials if X in t.metrics and Y in t.metrics]
    others = [t for t in drawable if t.state == "completed" and t.run_id not in on_front]
    return others, [t for t in drawable if t.state == "stopped"]


def _frame(axes: Axes, trials: Sequence[Trial]) -> None:
    for name, limits in ((X, axes.set_xlim), (Y, axes.set_ylim)):
        values = [trial.metrics[name] for trial in trials]
        margin = max(0.14 * (max(values) - min(values)), 0.012)
        limits(min(values) - margin, max(values) + margin)
    axes.set_xlabel("natural accuracy", loc="left")
    axes.set_ylabel("verified accuracy", loc="bottom")
    for axis in (axes.xaxis, axes.yaxis):
        in_percent(axis)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _faint(axes: Axes, trials: Sequence[Trial], marker: str, label: str) -> None:
    style: dict[str, Any] = {"marker": marker, "color": FAINT}
    if marker == "o":
        style = {"marker": marker, "facecolors": "none", "edgecolors": FAINT}
    axes.scatter([], [], s=26, linewidths=1.0, label=label, **style)
    for trial in trials:
        x, y = trial.metrics[X], trial.metrics[Y]
        axes.scatter([x], [y], s=26, linewidths=1.0, zorder=2, gid=f"run-{trial.run_id}", **style)


def _in_view(axes: Axes, trial: Trial) -> bool:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return left <= trial.metrics[X] <= right and bottom <= trial.metrics[Y] <= top


def _flops_norm(members: Sequence[Trial]) -> LogNorm:
    flops = [max(trial.metrics[COLOUR], 1.0) for trial in members]
    low, high = min(flops), max(flops)
    return LogNorm(low, high) if high > 1.05 * low else LogNorm(low / 2, high * 2)


def _colour_bar(figure: Figure, norm: LogNorm) -> None:
    place = figure.add_axes((0.89, 0.2, 0.018, 0.54))
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), cax=place)
    bar.outline.set_visible(False)
    place.yaxis.set_major_formatter(EngFormatter(sep=" "))
    place.yaxis.set_minor_locator(NullLocator())
    place.set_yticks(_ticks(norm))
    place.tick_params(length=0, labelsize=8.5)
    place.set_title("FLOPs per\nexample", fontsize=8.5, color=INK, loc="left", pad=8)


def _ticks(norm: LogNorm) -> list[float]:
    """1, 2 and 5 times powers of ten; the geometric middle where the range has fewer than two."""
    assert norm.vmin is not None and norm.vmax is not None
    low, high = norm.vmin, norm.vmax
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_values = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    inside = [value for value in round_values if low <= value <= high]
    return inside if len(inside) > 1 else [float(f"{math.sqrt(low * high):.3g}")]


def _titles(figure: Figure, front: Front) -> None:
    done = front.study.count("completed")
    title = f"{front.study.name}: {len(front.members)} of {done} completed trials on the front"
    figure.text(LEFT, 0.95, title, fontsize=13.5, fontweight="bold", color=INK)
    figure.text(LEFT, 0.908, front.members[0].provenance, fontsize=8.5, color=MUTED)
    notes = [*map(str, front.where), "labels: trial number and density"]
    figure.text(LEFT, 0.873, "  ·  ".join(notes), fontsize=8.5, color=MUTED)


def _label(axes: Axes, front: Front, faint: Sequence[Trial]) -> None:
    names = front.labels()
    texts = [
        f"#{names[t.run_id]}" + _density(t) if i < MAX_LABELS else ""
        for i, t in enumerate(front.members)
    ]
    points = [
        Point(t.metrics[X], t.metrics[Y], 11.0, text)
        for t, text in zip(front.members, texts, strict=True)
    ]
    label_points(axes, points, [Point(t.metrics[X], t.metrics[Y], 4.0, weight=1.0) for t in faint])


def _density(trial: Trial) -> str:
    density = trial.metrics.get("density")
    return "" if density is None else f"  {100 * density:.2g} %"
