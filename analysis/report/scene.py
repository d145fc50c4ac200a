"""Lines, texts and marks in a unit cube, projected to the page without perspective.

Python projects a scene once, as SVG and for the PNG; report.js projects the same SVG again when it
is turned, by the rules of `View`. A coordinate may be NEAR, FAR, LEFT or RIGHT instead of a number:
the side of the cube that is so in the present view.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from matplotlib.axes import Axes

from analysis.plot_style import INK
from analysis.report.drawing import SMALL

Place = tuple[float, float, float]
NEAR, FAR, LEFT, RIGHT = 2.0, 3.0, 4.0, 5.0


@dataclass(frozen=True)
class Line:
    """From one place to another; `width` in points."""

    start: Place
    end: Place
    colour: str
    width: float = 0.8


@dataclass(frozen=True)
class Text:
    """A text that stands `push` points further from the centre than its place.

    It points away from the centre, or is `centred` there.
    """

    place: Place
    text: str
    push: float
    colour: str = INK
    centred: bool = False


@dataclass(frozen=True)
class Mark:
    """A trial: a disc of `radius` points, on a line to the floor where it has a `stem`."""

    place: Place
    run_id: str
    radius: float
    fill: str
    edge: str
    stem: bool


@dataclass(frozen=True)
class View:
    """From where the cube is seen, in degrees, how large it is and where its centre is, in points.

    Angle 0 looks along the second axis with the first to the right; elevation is above the floor.
    """

    angle: float = -28.0
    elevation: float = 24.0
    scale: float = 132.0
    centre: tuple[float, float] = (149.0, 150.0)

    def at(self, place: Place) -> tuple[float, float, float]:
        """Where a place is on the page, and how far behind it."""
        turn, tilt = math.radians(self.angle), math.radians(self.elevation)
        x, y, z = (c - 0.5 for c in self.resolved(place))
        across = x * math.cos(turn) - y * math.sin(turn)
        depth = x * math.sin(turn) + y * math.cos(turn)
        up = z * math.cos(tilt) + depth * math.sin(tilt)
        return self.centre[0] + self.scale * across, self.centre[1] - self.scale * up, depth

    def resolved(self, place: Place) -> Place:
        """The place with sides of the cube in the place of NEAR, FAR, LEFT and RIGHT."""
        sine = math.sin(math.radians(self.angle)) > 0
        cosine = math.cos(math.radians(self.angle)) > 0
        sides = {
            NEAR: (1.0 - sine, 1.0 - cosine),
            FAR: (float(sine), float(cosine)),
            LEFT: (1.0 - cosine, float(sine)),
            RIGHT: (float(cosine), 1.0 - sine),
        }
        x, y, z = place
        return sides[x][0] if x in sides else x, sides[y][1] if y in sides else y, z

    def pushed(self, text: Text) -> tuple[float, float, str]:
        """Where a text stands, and at which end: `start`, `middle` or `end`."""
        x, y, _ = self.at(text.place)
        dx, dy = x - self.centre[0], y - self.centre[1]
        length = math.hypot(dx, dy) or 1.0
        middle = text.centred or abs(dx) < 0.5 * length
        anchor = "middle" if middle else "start" if dx > 0 else "end"
        return x + text.push * dx / length, y + text.push * dy / length, anchor


@dataclass(frozen=True)
class Scene:
    """What is in the cube, from the back to the front: marks are sorted by depth."""

    lines: Sequence[Line] = field(default=())
    texts: Sequence[Text] = field(default=())
    marks: Sequence[Mark] = field(default=())

    def to_svg(
        self, view: View, size: tuple[float, float], label: str, titles: Mapping[str, str]
    ) -> str:
        """As SVG of a size in points, which report.js can turn."""
        width, height = size
        body = [_line_svg(line, view) for line in self.lines]
        body += [_text_svg(text, view) for text in self.texts]
        body += [_mark_svg(mark, view, titles) for mark in self._from_back(view)]
        x, y = view.centre
        return (
            f'<svg class="solid" viewBox="0 0 {width:g} {height:g}" tabindex="0" role="group" '
            f'aria-label="{escape(label)}" data-view="{view.angle:g},{view.elevation:g},'
            f'{view.scale:g},{x:g},{y:g}">\n' + "\n".join(body) + "\n</svg>"
        )

    def draw(self, view: View, axes: Axes) -> None:
        """By matplotlib, on axes that have the size in points, downwards, as their limits."""
        for line in self.lines:
            axes.plot(*_ends(line, view), color=line.colour, linewidth=line.width)
        for text in self.texts:
            x, y, anchor = view.pushed(text)
            ha = {"start": "left", "middle": "center", "end": "right"}[anchor]
            axes.text(x, y, text.text, ha=ha, va="center", fontsize=SMALL, color=text.colour)
        for mark in self._from_back(view):
            x, y, _ = view.at(mark.place)
            if mark.stem:
                axes.plot(*_ends(_stem(mark), view), color=mark.edge, linewidth=0.7)
            axes.plot(x, y, "o", markersize=2 * mark.radius, markerfacecolor=mark.fill,
                      markeredgecolor=mark.edge, markeredgewidth=0.9)  # fmt: skip

    def _from_back(self, view: View) -> list[Mark]:
        return sorted(self.marks, key=lambda mark: -view.at(mark.place)[2])


def _stem(mark: Mark) -> Line:
    return Line(mark.place, (*mark.place[:2], 0.0), mark.edge, 0.7)


def _ends(line: Line, view: View) -> tuple[list[float], list[float]]:
    (x1, y1, _), (x2, y2, _) = view.at(line.start), view.at(line.end)
    return [x1, x2], [y1, y2]


def _line_svg(line: Line, view: View) -> str:
    (x1, x2), (y1, y2) = _ends(line, view)
    return (
        f'<line data-p="{_coded(line.start)}" data-q="{_coded(line.end)}" x1="{x1:.1f}" '
        f'y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{line.colour}" '
        f'stroke-width="{line.width:g}"/>'
    )


def _text_svg(text: Text, view: View) -> str:
    x, y, anchor = view.pushed(text)
    centred = ' data-centred=""' if text.centred else ""
    return (
        f'<text data-p="{_coded(text.place)}" data-push="{text.push:g}"{centred} x="{x:.1f}" '
        f'y="{y:.1f}" dy=".35em" text-anchor="{anchor}" font-size="{SMALL:g}" fill="{text.colour}">'
        f"{escape(text.text)}</text>"
    )


def _mark_svg(mark: Mark, view: View, titles: Mapping[str, str]) -> str:
    x, y, _ = view.at(mark.place)
    stem = _line_svg(_stem(mark), view) if mark.stem else ""
    return (
        f'<g class="mark" data-run="{escape(mark.run_id)}">'
        f"<title>{escape(titles.get(mark.run_id, mark.run_id))}</title>{stem}"
        f'<circle data-p="{_coded(mark.place)}" cx="{x:.1f}" cy="{y:.1f}" r="{mark.radius:g}" '
        f'fill="{mark.fill}" stroke="{mark.edge}" stroke-width="0.9"/></g>'
    )


def _coded(place: Place) -> str:
    return ",".join(f"{round(c, 4):g}" for c in place)
