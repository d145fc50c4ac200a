"""Small pieces of C: numbers, arrays, index expressions and loops."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.lowering.layout import Layout

Array = np.ndarray[Any, np.dtype[Any]]


def literal(number: float) -> str:
    """A float exactly, in base 16 (C99): 3.0 is 0x1.8p+1f."""
    digits, exponent = float(number).hex().split("p")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return "0.0f" if number == 0 else f"{digits}p{exponent}f"


def array(name: str, values: Array) -> str:
    """A constant of floats or unsigned integers."""
    if values.dtype == np.float32:
        kind, per_line, texts = "float", 6, [literal(v) for v in values.tolist()]
    else:
        kind, per_line, texts = c_type(values), 16, [str(v) for v in values.tolist()]
    rows = (", ".join(texts[i : i + per_line]) for i in range(0, len(texts), per_line))
    return f"static const {kind} {name}[{len(texts)}] = {{\n    " + ",\n    ".join(rows) + "};\n"


def bits(values: Array) -> int:
    """8, 16 or 32."""
    return 8 * values.dtype.itemsize


def c_type(values: Array) -> str:
    """The type of an array of unsigned integers."""
    return f"uint{bits(values)}_t"


def identifier(place: str) -> str:
    """Part of a C name for a place in a network: stage1.conv -> stage1_conv."""
    return re.sub(r"\W+", "_", place, flags=re.ASCII)


def total(terms: Iterable[str | int]) -> str:
    """A sum without its zeros."""
    terms = list(terms)
    number = sum(t for t in terms if isinstance(t, int))
    texts = [t for t in terms if isinstance(t, str) and t]
    return " + ".join([*texts, *([str(number)] if number or not texts else [])])


def times(name: str, factor: int) -> str | int:
    """A product; the name "0" is a loop that there is no need for."""
    if name == "0" or factor == 0:
        return 0
    return name if factor == 1 else f"{name} * {factor}"


@dataclass(frozen=True)
class Position:
    """An element: channel and row by their variables; column `start + step * column`."""

    channel: str
    row: str
    column: str
    start: int = 0
    step: int = 1

    @property
    def columns(self) -> list[str | int]:
        """The column, as terms of a sum."""
        return [times(self.column, self.step), self.start]

    def index(self, layout: Layout) -> str:
        """Where in the layout it is."""
        (down, across), (top, left), (rows, pitch) = layout.strides, layout.border, layout.plane
        row_phase, row = _split(total([times(self.row, 1), top]), down)
        phase: str | int = (self.start + left) % across
        columns = [times(self.column, self.step // across), (self.start + left) // across]
        if self.step % across and self.column != "0":
            phase, column = _split(total([*self.columns, left]), across)
            columns = [column]
        channel = times(self.channel, layout.channel)
        planes = [_scaled(row_phase, across * rows * pitch), _scaled(phase, rows * pitch)]
        return total([channel, *planes, _scaled(row, pitch), *columns])


def _split(expression: str, stride: int) -> tuple[str | int, str | int]:
    """Phase and number of a row or column."""
    if expression.isdigit():
        return int(expression) % stride, int(expression) // stride
    if stride == 1:
        return 0, expression
    return f"({expression}) % {stride}", f"({expression}) / {stride}"


def _scaled(expression: str | int, factor: int) -> str | int:
    if isinstance(expression, int):
        return expression * factor
    if factor == 1:
        return expression
    return f"({expression}) * {factor}" if " + " in expression else f"{expression} * {factor}"


def loop(variable: str, count: int, body: Iterable[str]) -> Iterator[str]:
    """A counted loop around lines."""
    yield f"for (int {variable} = 0; {variable} < {count}; ++{variable}) {{"
    yield from indented(body)
    yield "}"


def indented(lines: Iterable[str]) -> Iterator[str]:
    """Lines one level further in."""
    return (f"    {line}" for line in lines)
