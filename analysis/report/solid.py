"""The front in three dimensions: natural and verified accuracy on the floor, FLOPs upwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plot_style import FAINT, GRID, INK, MUTED
from analysis.recorded import Trial
from analysis.report.drawing import TEXT, WIDTH, Drawing, limits, round_values
from analysis.report.material import Material, summary_of
from analysis.report.scene import FAR, LEFT, NEAR, RIGHT, Line, Mark, Place, Scene, Text, View
from analysis.report.words import amount, counted, is_logarithmic, name_of

AXES = ("natural_accuracy", "verified_accuracy", "inference_flops")
_SIZE = (72.0 * WIDTH, 304.0)  # points


def draw_solid(material: Material) -> Drawing | None:
    """The front in a cube; None when no member has recorded all three figures."""
    members = [t for t in material.members if all(name in t.metrics for name in AXES)]
    if not members:
        return None
    spans = [limits([trial.metrics[name] for trial in members], name) for name in AXES]
    scene = Scene(
        lines=list(_walls(spans)),
        texts=list(_texts(spans)),
        marks=[*_others(material, spans), *(_member(material, t, spans) for t in members)],
    )
    view = View()
    width, height = _SIZE
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    scene.draw(view, axes)
    axes.text(4, 14, _TITLE, fontsize=TEXT + 1, fontweight="bold", color=INK, va="center")
    label = (
        f"The front in three dimensions, natural and verified accuracy and FLOPs: "
        f"{counted(len(members), 'member')}. Arrow keys turn it"
    )
    titles = {trial.run_id: summary_of(trial) for trial in (*members, *material.others)}
    svg = scene.to_svg(view, _SIZE, label, titles)
    heading = (
        f'<text x="4" y="14" dy=".35em" font-size="{TEXT + 1:g}" font-weight="bold" '
        f'fill="{INK}">{_TITLE}</text>\n</svg>'
    )
    return Drawing("front-solid", figure, label, svg=svg.removesuffix("</svg>") + heading)


_TITLE = "The front in three dimensions"
_CLEAR = 0.08


def _member(material: Material, trial: Trial, spans: Sequence[tuple[float, float]]) -> Mark:
    fill = material.inks.fill(trial)
    return Mark(_place(trial, spans), trial.run_id, 4.6, fill, INK, stem=True)


def _others(material: Material, spans: Sequence[tuple[float, float]]) -> Iterator[Mark]:
    for trial in material.others:
        if all(name in trial.metrics for name in AXES):
            place = _place(trial, spans)
            if all(0.0 <= c <= 1.0 for c in place):
                yield Mark(place, trial.run_id, 2.4, "#ffffff", FAINT, False)


def _place(trial: Trial, spans: Sequence[tuple[float, float]]) -> Place:
    x, y, z = (
        _share(trial.metrics[name], name, span) for name, span in zip(AXES, spans, strict=True)
    )
    return x, y, z


def _share(value: float, name: str, span: tuple[float, float]) -> float:
    low, high = span
    if is_logarithmic(name):
        low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-12))
    return (value - low) / (high - low)


def _ticks(axis: int, span: tuple[float, float]) -> list[tuple[float, str]]:
    name = AXES[axis]
    if is_logarithmic(name):
        return [(_share(v, name, span), amount(v)) for v in round_values(*span, most=5)]
    values = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(*span)
    inside = [float(v) for v in values if span[0] <= v <= span[1]]
    return [(_share(v, name, span), f"{100 * v:.4g} %") for v in inside]


def _walls(spans: Sequence[tuple[float, float]]) -> Iterator[Line]:
    """The floor and the two far walls, with a line at every tick; then the axes."""
    for x in (0.0, 1.0, *(tick for tick, _ in _ticks(0, spans[0]))):
        yield Line((x, 0.0, 0.0), (x, 1.0, 0.0), GRID)
    for y in (0.0, 1.0, *(tick for tick, _ in _ticks(1, spans[1]))):
        yield Line((0.0, y, 0.0), (1.0, y, 0.0), GRID)
    for z in (1.0, *(tick for tick, _ in _ticks(2, spans[2]))):
        yield Line((FAR, 0.0, z), (FAR, 1.0, z), GRID)
        yield Line((0.0, FAR, z), (1.0, FAR, z), GRID)
    yield Line((FAR, FAR, 0.0), (FAR, FAR, 1.0), GRID)
    yield Line((RIGHT, RIGHT, 0.0), (RIGHT, RIGHT, 1.0), GRID)
    yield Line((0.0, NEAR, 0.0), (1.0, NEAR, 0.0), MUTED)
    yield Line((NEAR, 0.0, 0.0), (NEAR, 1.0, 0.0), MUTED)
    yield Line((LEFT, LEFT, 0.0), (LEFT, LEFT, 1.0), MUTED)


def _texts(spans: Sequence[tuple[float, float]]) -> Iterator[Text]:
    for tick, text in _ticks(0, spans[0]):
        if _CLEAR < tick < 1.0 - _CLEAR:  # two axes meet at the corners
            yield Text((tick, NEAR, 0.0), text, 13.0)
    for tick, text in _ticks(1, spans[1]):
        if _CLEAR < tick < 1.0 - _CLEAR:
            yield Text((NEAR, tick, 0.0), text, 13.0)
    for tick, text in _ticks(2, spans[2]):
        yield Text((LEFT, LEFT, tick), text, 6.0)
    yield Text((0.5, NEAR, 0.0), name_of(AXES[0]), 46.0, MUTED, centred=True)
    yield Text((NEAR, 0.5, 0.0), name_of(AXES[1]), 46.0, MUTED, centred=True)
    yield Text((LEFT, LEFT, 1.0), "FLOPs", 32.0, MUTED, centred=True)
