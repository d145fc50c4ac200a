"""Labels beside points of a picture, put where they cover nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from analysis.plot_style import INK, MUTED

_PLACES = (
    (10, 0, "left", "center"),
    (-10, 0, "right", "center"),
    (0, 10, "center", "bottom"),
    (0, -10, "center", "top"),
    (8, 7, "left", "bottom"),
    (8, -7, "left", "top"),
    (-8, 7, "right", "bottom"),
    (-8, -7, "right", "top"),
    (20, 16, "left", "bottom"),
    (20, -16, "left", "top"),
    (-20, 16, "right", "bottom"),
    (-20, -16, "right", "top"),
    (10, 28, "left", "bottom"),
    (-10, 28, "right", "bottom"),
    (10, -28, "left", "top"),
    (-10, -28, "right", "top"),
    (30, -28, "left", "top"),
    (-30, -28, "right", "top"),
    (30, 28, "left", "bottom"),
    (-30, 28, "right", "bottom"),
)
_NUM_NEAR = 8  # of these places; from further away a line leads to the point
_FAR = 60.0  # square pixels that a label further away must spare
HALO = (patheffects.withStroke(linewidth=3.5, foreground="white"),)


@dataclass(frozen=True)
class Point:
    """A point in data units, `half` pixels of mark around it, and what to write beside it.

    `weight` is how bad it is to cover it.
    """

    x: float
    y: float
    half: float
    text: str = ""
    weight: float = 4.0


def label_points(
    axes: Axes, points: Sequence[Point], others: Sequence[Point] = (), size: float = 8.5
) -> None:
    """Put each point's label at the first place around it where it covers least; draws once."""
    canvas = axes.get_figure(root=True).canvas  # type: ignore[union-attr]
    canvas.draw()
    taken = [(_around(axes, point), point.weight) for point in (*points, *others)]
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
            path_effects=HALO,
        )
        blocked = taken[:index] + taken[index + 1 :]
        best: tuple[float, int] | None = None
        for order, (dx, dy, ha, va) in enumerate(_PLACES):
            text.set(position=(dx, dy), ha=ha, va=va)
            box = text.get_window_extent()
            cost = sum(weight * _overlap(box, other) for other, weight in blocked)
            cost += 3.0 * (box.width * box.height - _overlap(box, frame))
            cost += _FAR * (order >= _NUM_NEAR)
            if best is None or cost < best[0]:
                best = (cost, order)
        assert best is not None
        dx, dy, ha, va = _PLACES[best[1]]
        text.set(position=(dx, dy), ha=ha, va=va)
        taken.append((text.get_window_extent(), 4.0))
        if best[1] >= _NUM_NEAR:
            style = {
                "arrowstyle": "-",
                "color": MUTED,
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 0,
            }
            axes.annotate("", (point.x, point.y), xytext=(dx, dy), textcoords="offset points",
                          arrowprops=style, zorder=2.5)  # fmt: skip


def along(axes: Axes, corners: Sequence[tuple[float, float]]) -> list[Point]:
    """Points every few pixels of a line through these corners, which no label should cover."""
    ends = axes.transData.transform(corners)
    places = [
        start + (end - start) * step / count
        for start, end in pairwise(ends)
        for count in [max(1, round(float(abs(end - start).max()) / 4.0))]
        for step in range(count)
    ]
    if not places:
        return []
    return [Point(x, y, 2.0, weight=0.5) for x, y in axes.transData.inverted().transform(places)]


def _around(axes: Axes, point: Point) -> Bbox:
    x, y = axes.transData.transform((point.x, point.y))
    return Bbox.from_extents(x - point.half, y - point.half, x + point.half, y + point.half)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)
