"""Labels beside points of a picture, put where they cover nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from analysis.plot_style import INK

_PLACES = (
    (10, 0, "left", "center"),
    (-10, 0, "right", "center"),
    (0, 10, "center", "bottom"),
    (0, -10, "center", "top"),
    (8, 7, "left", "bottom"),
    (8, -7, "left", "top"),
    (-8, 7, "right", "bottom"),
    (-8, -7, "right", "top"),
    (0, 21, "center", "bottom"),
    (0, -21, "center", "top"),
    (22, 14, "left", "bottom"),
    (22, -14, "left", "top"),
)


@dataclass(frozen=True)
class Point:
    """A point in data units, `half` pixels of mark around it, and what to write beside it."""

    x: float
    y: float
    half: float
    text: str = ""


def label_points(
    axes: Axes, points: Sequence[Point], others: Sequence[Point] = (), size: float = 8.5
) -> None:
    """Put each point's label at the first place around it where it covers least; draws once."""
    canvas = axes.get_figure(root=True).canvas  # type: ignore[union-attr]
    canvas.draw()
    marks = [_around(axes, point) for point in points]
    taken = [*marks, *(_around(axes, point) for point in others)]
    frame = axes.get_window_extent()
    for index, point in enumerate(points):
        if not point.text:
            continue
        text = axes.annotate(
            point.text,
            (point.x, point.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            color=INK,
            zorder=4,
            path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
        )
        blocked = taken[:index] + taken[index + 1 :]
        best: tuple[float, int] | None = None
        for order, (dx, dy, ha, va) in enumerate(_PLACES):
            text.set(position=(dx, dy), ha=ha, va=va)
            box = text.get_window_extent()
            cost = sum(_overlap(box, other) for other in blocked)
            cost += box.width * box.height - _overlap(box, frame)
            if best is None or cost < best[0]:
                best = (cost, order)
        assert best is not None
        dx, dy, ha, va = _PLACES[best[1]]
        text.set(position=(dx, dy), ha=ha, va=va)
        taken.append(text.get_window_extent())


def _around(axes: Axes, point: Point) -> Bbox:
    x, y = axes.transData.transform((point.x, point.y))
    return Bbox.from_extents(x - point.half, y - point.half, x + point.half, y + point.half)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)
