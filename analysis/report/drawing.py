"""What the figures of a report share: their size, ink and axes.

A figure is as wide as a column of a paper, so that two stand side by side on a desk's screen and
one fills a telephone's; a wide one scrolls there. Marks of trials carry the gid `run-<run id>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from analysis.plot_style import GRID, INK, in_percent
from analysis.plots import COLOURS
from analysis.recorded import Trial
from analysis.report.words import is_logarithmic, name_of, size, unit_of

WIDTH, HEIGHT = 4.15, 3.2  # inches
TEXT, SMALL = 10.0, 9.5  # points; nothing in a figure is smaller


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name, and what it shows in a sentence for those who do not see it.

    `is_way_in`: the keyboard reaches the marks of the front's members here. `svg` is what the page
    shows in the place of the figure.
    """

    name: str
    figure: Figure
    label: str
    is_way_in: bool = False
    svg: str | None = None


def new_axes(
    title: str, *, width: float = WIDTH, height: float = HEIGHT, left: float = 0.78
) -> tuple[Figure, Axes]:
    """A figure of inches with a title and one set of axes, whose left margin is in inches."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    bottom, top = 0.58 / height, 1.0 - 0.42 / height
    axes = figure.add_axes((left / width, bottom, 1.0 - (left + 0.3) / width, top - bottom))
    figure.text(0.06 / width, 1.0 - 0.2 / height, title, fontsize=TEXT + 1, fontweight="bold",
                color=INK, va="center")  # fmt: skip
    # Fixed, so that no tick, however long, pushes the label over the edge.
    across = blended_transform_factory(figure.transFigure, axes.transAxes)
    axes.yaxis.set_label_coords(0.15 / width, 0.5, transform=across)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def set_axis(axes: Axes, which: str, metric_name: str, values: Sequence[float]) -> None:
    """Label, limits, scale and ticks of the `x` or `y` axis, so that all values show."""
    axis: Axis = getattr(axes, f"{which}axis")
    low, high = limits(values, metric_name)
    getattr(axes, f"set_{which}lim")(low, high)
    axis.set_label_text(name_of(metric_name), fontsize=TEXT)
    if is_logarithmic(metric_name):
        log_ticks(axes, which, unit_of(metric_name))
        return
    if unit_of(metric_name) == "fraction":
        in_percent(axis)
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def log_ticks(axes: Axes, which: str, unit: str) -> None:
    """A logarithmic axis with few round ticks, also when it spans less than a factor of ten."""
    axis: Axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis.set_major_locator(FixedLocator(round_ticks(low, high, unit)))
    axis.set_minor_locator(NullLocator())
    if unit == "fraction":
        axis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    elif unit == "B":
        axis.set_major_formatter(lambda value, _: size(value))
    else:
        axis.set_major_formatter(EngFormatter(unit="s" if unit == "s" else "", sep=" "))


def round_ticks(low: float, high: float, unit: str, most: int = 6) -> list[float]:
    """`round_values` of a metric with this unit: those of many bytes are round in KiB."""
    step = 1024.0 if unit == "B" and high >= 2048.0 else 1.0
    return [step * value for value in round_values(low / step, high / step, most)]


def round_values(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high` for a logarithmic axis, two or more where possible."""
    for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        values = LogLocator(base=10, subs=subs).tick_values(low, high)
        inside = [float(value) for value in values if low <= value <= high]
        if len(inside) >= 3:
            return inside[:: -(-len(inside) // most)]
    steps = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in steps if low <= value <= high]


def limits(values: Sequence[float], metric_name: str) -> tuple[float, float]:
    """The ends of an axis that shows all of the values with some room around them."""
    low, high = min(values), max(values)
    if is_logarithmic(metric_name):
        low, high = max(low, 1e-12), max(high, 1e-12)
        factor = max((high / low) ** 0.08, 1.06)
        return low / factor, high * factor
    room = max(0.1 * (high - low), 0.01 if unit_of(metric_name) == "fraction" else 0.02 * abs(high))
    low, high = low - room, high + room
    if unit_of(metric_name) == "fraction":
        return max(low, -0.015), min(high, 1.015)
    return low, high if high > low else low + 1.0


def flops_norm(trials: Sequence[Trial]) -> Normalize:
    """How FLOPs become a place on the colour map."""
    flops = [
        max(t.metrics["inference_flops"], 1.0) for t in trials if "inference_flops" in t.metrics
    ]
    low, high = (min(flops), max(flops)) if flops else (1.0, 1.0)
    return LogNorm(low, high) if high > 1.05 * low else LogNorm(low / 2, high * 2)


@dataclass(frozen=True)
class Inks:
    """The colour of each member of the front: the darker, the more FLOPs."""

    shares: Mapping[str, float]

    @classmethod
    def of(cls, members: Sequence[Trial]) -> Inks:
        """Colours for these trials; one that has not recorded FLOPs is in the middle."""
        norm = flops_norm(members)
        flops = {t.run_id: t.metrics.get("inference_flops") for t in members}
        return cls({k: 0.5 if v is None else float(norm(max(v, 1.0))) for k, v in flops.items()})

    def fill(self, trial: Trial) -> str:
        """The colour of a mark."""
        return to_hex(COLOURS(self.shares[trial.run_id]))

    def line(self, trial: Trial) -> str:
        """The colour of a line, which must not be as light as a mark with a border may."""
        return to_hex(COLOURS(0.25 + 0.75 * self.shares[trial.run_id]))


def gid(trial: Trial) -> str:
    """The id of a trial's marks in a figure."""
    return f"run-{trial.run_id}"


def legend(axes: Axes, **options: object) -> None:
    """A legend without a frame, in readable text."""
    settings = {"frameon": False, "fontsize": SMALL, "labelcolor": INK, "handlelength": 1.4}
    axes.legend(**{**settings, **options})
