"""Parallel coordinates: what completed trials were set to, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.plot_style import FAINT, INK, MUTED
from analysis.plots import COLOURS
from analysis.recorded import Trial
from analysis.report.drawing import SMALL, TEXT, Drawing, gid, limits, round_ticks, round_values
from analysis.report.hyperparameters import Hyperparameter, short_value, varied
from analysis.report.material import Material
from analysis.report.section import Section
from analysis.report.words import is_logarithmic, listed, name_of, unit_of, value_of

MOST_AXES = 16
_ABSENT = -0.13
_LONGEST = 13  # characters of a label before it is broken or cut
_TITLE = "Settings and what came of them"


@dataclass(frozen=True)
class _Rail:
    """One vertical axis: a height in [0, 1] per trial (None: it has no such setting) and ticks."""

    name: str
    heights: Sequence[float | None]
    ticks: Sequence[tuple[float, str]]
    is_objective: bool = False


def section(material: Material) -> Section:
    """The figure, or why there is none."""
    title = "Settings and results"
    trials = [*material.others, *material.members]
    settings = varied(trials, material.searched)
    if len(trials) < 2 or not settings:
        return Section(
            "parallel",
            title,
            "There are no parallel coordinates: they need two completed trials with different "
            f"settings, and {len(trials)} completed here.",
        )
    rails = [_of_setting(setting) for setting in settings[:MOST_AXES]]
    rails += [rail for name in material.objectives if (rail := _of_objective(trials, name))]
    colour = next(n for n in ("verified_accuracy", *material.objectives)
                   if all(n in t.metrics for t in material.members))  # fmt: skip
    drawing = _draw(material, trials, rails, colour)
    left_out = [setting.name for setting in settings[MOST_AXES:]]
    remarks = [
        "One line per completed trial; strong lines are members of the front, coloured as the rail "
        f"of {name_of(colour)} is. Objectives are on the right. “absent”: the trial's method or "
        "loss has no such setting.",
        *([f"Not drawn, for lack of room: {listed(left_out)}."] if left_out else []),
    ]
    lead = (
        f"The {len(settings)} settings that differed between the completed trials, one rail each. "
        "Follow a line from left to right, or point at it."
    )
    return Section("parallel", title, lead, [drawing], remarks)


def _of_setting(setting: Hyperparameter) -> _Rail:
    if setting.numbers is None:
        levels = setting.levels
        steps = max(len(levels) - 1, 1)
        place = {level: index / steps for index, level in enumerate(levels)}
        heights = [None if text is None else place[text] for text in setting.texts]
        ticks = [(place[level], short_value(level)) for level in levels]
        return _Rail(setting.name, heights, ticks[:: -(-len(ticks) // 12)])
    known = sorted({number for number in setting.numbers if number is not None})
    low, high, log = known[0], known[-1], setting.is_logarithmic
    inside = round_values(low, high, most=5) if log else _even(low, high)
    if len(known) <= 5:
        inside = known
    return _Rail(
        setting.name,
        [None if n is None else _share(n, low, high, log) for n in setting.numbers],
        [(_share(value, low, high, log), f"{value:.3g}") for value in inside],
    )


def _even(low: float, high: float) -> list[float]:
    """A few round values in a range."""
    step = 10.0 ** math.floor(math.log10(high - low))
    for part in (1.0, 0.5, 0.25, 0.2):
        first = math.ceil(low / (step * part) - 1e-9)
        values = [
            k * step * part for k in range(first, math.floor(high / (step * part) + 1e-9) + 1)
        ]
        if len(values) >= 3:
            return values[:: -(-len(values) // 5)]
    return [low, high]


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _of_objective(trials: Sequence[Trial], name: str) -> _Rail | None:
    known = [trial.metrics[name] for trial in trials if name in trial.metrics]
    if not known:
        return None
    low, high = limits(known, name)
    log = is_logarithmic(name)
    inside = round_ticks(low, high, unit_of(name), most=5) if log else _even(low, high)
    heights = [
        _share(max(trial.metrics[name], low), low, high, log) if name in trial.metrics else None
        for trial in trials
    ]
    ticks = [(_share(v, low, high, log), value_of(name, v).replace(".0 %", " %")) for v in inside]
    return _Rail(name, heights, ticks, is_objective=True)


def _draw(
    material: Material, trials: Sequence[Trial], rails: Sequence[_Rail], colour: str
) -> Drawing:
    width = max(8.6, 0.84 * len(rails) + 0.75)
    figure = Figure(figsize=(width, 4.7), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.62 / width, 0.05, 1.0 - 1.05 / width, 0.73))
    axes.set(xlim=(0, len(rails) - 1), ylim=(_ABSENT - 0.04, 1.0))
    axes.set_axis_off()
    axes.set_clip_on(False)
    values = [trial.metrics[colour] for trial in material.members]
    norm = Normalize(*(limits(values, colour)))
    on_front = {trial.run_id for trial in material.members}
    for index, trial in enumerate(trials):
        heights = [rail.heights[index] for rail in rails]
        ys = [_ABSENT if height is None else height for height in heights]
        strong = trial.run_id in on_front
        share = 0.2 + 0.8 * float(norm(trial.metrics[colour])) if strong else 0.0
        axes.plot(
            range(len(rails)), ys, gid=gid(trial), clip_on=False, solid_joinstyle="round",
            color=COLOURS(share) if strong else FAINT, linewidth=material.weight if strong else 0.8,
            alpha=1.0 if strong else 0.75, zorder=3 if strong else 2,
        )  # fmt: skip
    for place, rail in enumerate(rails):
        _rail(axes, place, rail)
        if rail.name == colour and rail.is_objective:
            low, high = limits([t.metrics[colour] for t in trials if colour in t.metrics], colour)
            _strip(axes, place, [float(norm(low + (high - low) * k / 40)) for k in range(41)])
    figure.text(0.06 / width, 0.955, _TITLE, fontsize=TEXT + 1, fontweight="bold", color=INK)
    label = (
        f"Parallel coordinates of {len(trials)} completed trials: {len(rails)} settings and "
        "objectives"
    )
    return Drawing("parallel", figure, label)


def _rail(axes: Axes, place: int, rail: _Rail) -> None:
    axes.plot([place, place], [0, 1], color=INK if rail.is_objective else MUTED,
              linewidth=1.6 if rail.is_objective else 1.0, zorder=4, clip_on=False)  # fmt: skip
    name = name_of(rail.name) if rail.is_objective else rail.name
    axes.text(place, 1.05, _broken(name), ha="center", va="bottom", fontsize=SMALL, color=INK,
              fontweight="bold" if rail.is_objective else "normal", linespacing=1.15)  # fmt: skip
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
    for height, text in rail.ticks:
        axes.plot([place - 0.03, place], [height] * 2, color=MUTED, linewidth=1.0, clip_on=False)
        axes.text(place - 0.06, height, _cut(text), ha="right", va="center", fontsize=SMALL,
                  color=INK, zorder=5, bbox=box)  # fmt: skip
    if None in rail.heights:
        axes.text(place, _ABSENT, "absent", ha="center", va="center", fontsize=SMALL, color=MUTED,
                  zorder=5, bbox={**box, "alpha": 1.0})  # fmt: skip


def _strip(axes: Axes, place: int, shares: Sequence[float]) -> None:
    """Paint a rail with the colours that its heights have as lines."""
    for index, share in enumerate(shares[:-1]):
        heights = [index / (len(shares) - 1), (index + 1) / (len(shares) - 1)]
        colour = COLOURS(0.2 + 0.8 * min(max(share, 0.0), 1.0))
        axes.plot([place, place], heights, color=colour, linewidth=6, zorder=4.5, clip_on=False,
                  solid_capstyle="butt")  # fmt: skip


def _broken(name: str) -> str:
    """A name in short lines: broken after dots, and at blanks and underscores where it is long."""
    lines: list[str] = []
    for part in name.replace(".", ".\n").replace(" ", "\n").split("\n"):
        head, *rest = part.replace("_", "_\n").split("\n") if len(part) > _LONGEST else [part]
        lines.append(head)
        for word in rest:
            if len(lines[-1]) + len(word) <= _LONGEST:
                lines[-1] += word
            else:
                lines.append(word)
    return "\n".join(lines)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
