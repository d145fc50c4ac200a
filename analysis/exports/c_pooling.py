"""One output of a pooling in C."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from analysis.exports.c_text import Position, literal, loop, total
from trainers.lowering.layout import Layout


def mean(value: str, layout: Layout, channel: str) -> Iterator[str]:
    """The mean over height and width."""
    _, height, width = layout.shape
    index = Position(channel, "y", "x").index(layout)
    yield "float sum = 0.0f;"
    yield from loop("y", height, loop("x", width, [f"sum += in[{index}];"]))
    yield f"const float {value} = sum / {literal(height * width)};"


def average_pool(
    value: str, op: nn.AvgPool2d, layout: Layout, position: Position, outputs: tuple[int, int]
) -> Iterator[str]:
    """Torch's rule: a window ends where the padding does, and is then cut off at the input's ends.

    The sum is divided by the size before the cut (count_include_pad), after it, or by a number of
    the layer's own (divisor_override).
    """
    kernel, stride, padding = (
        (size, size) if isinstance(size, int) else size
        for size in (op.kernel_size, op.stride, op.padding)
    )
    places = total([position.row if position.row != "0" else 0]), total(position.columns)
    down, across = (
        _Axis(name, place, layout.shape[i + 1], kernel[i], stride[i], padding[i], outputs[i])
        for i, (name, place) in enumerate(zip("yx", places, strict=True))
    )
    yield from down.bounds()
    yield from across.bounds()
    index = Position(position.channel, "y", "x").index(layout)
    yield "float sum = 0.0f;"
    yield f"for (int y = y0; y < {down.end}; ++y)"
    yield f"    for (int x = x0; x < {across.end}; ++x)"
    yield f"        sum += in[{index}];"
    if op.divisor_override is not None:
        divisor = literal(op.divisor_override)
    elif not (down.is_cut or across.is_cut):
        divisor = literal(down.kernel * across.kernel)
    else:
        sizes = (axis.size(bool(op.count_include_pad)) for axis in (down, across))
        divisor = "(float)({} * {})".format(*sizes)
    yield f"const float {value} = sum / {divisor};"


@dataclass(frozen=True)
class _Axis:
    """Windows along rows or columns: from `name`0 to `end`."""

    name: str
    place: str
    inputs: int
    kernel: int
    stride: int
    padding: int
    outputs: int

    @property
    def is_cut(self) -> bool:
        """Whether any window leaves the input."""
        last = (self.outputs - 1) * self.stride - self.padding + self.kernel
        return self.padding > 0 or last > self.inputs

    @property
    def end(self) -> str:
        """Where the window ends in the input."""
        return f"{self.name}1" if self.is_cut else f"{self.name}0 + {self.kernel}"

    def bounds(self) -> Iterator[str]:
        """Where the window is: as it is (`name`s, `name`e), and in the input (`name`0, `name`1)."""
        name, factor = self.name, "" if self.stride == 1 else f" * {self.stride}"
        start = f"({self.place}){factor}" if " " in self.place else f"{self.place}{factor}"
        if not self.is_cut:
            yield f"const int {name}0 = {start};"
            return
        padded = self.inputs + self.padding
        yield f"const int {name}s = {start} - {self.padding};"
        yield f"const int {name}e = {_least(f'{name}s + {self.kernel}', padded)};"
        yield f"const int {name}0 = {name}s < 0 ? 0 : {name}s;"
        yield f"const int {name}1 = {_least(f'{name}e', self.inputs)};"

    def size(self, with_padding: bool) -> str:
        """How many rows or columns count."""
        if not self.is_cut:
            return str(self.kernel)
        return (
            f"({self.name}e - {self.name}s)" if with_padding else f"({self.name}1 - {self.name}0)"
        )


def _least(expression: str, most: int) -> str:
    return f"{expression} < {most} ? {expression} : {most}"
