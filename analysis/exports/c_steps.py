"""The elementwise steps of a loop in C, and where it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator

from torch import nn

from analysis.exports.c_text import Array, Position, array, literal
from trainers.bounds.program import Add, Affine, Flatten
from trainers.lowering.fusion import Fusion
from trainers.lowering.layout import Layout
from trainers.lowering.memory import Loop
from trainers.lowering.storage import StoredConstant


class Steps:
    """Writes the steps of one loop; a value is the variable v<number>, an operand a<number>.

    `arrays` are the constants that the function `name` has, by their names.
    """

    def __init__(self, fusion: Fusion, loop: Loop, name: str) -> None:
        self.fusion, self.loop, self.name = fusion, loop, name
        self.draft, self.steps = loop.draft, loop.draft.fused.steps
        self.arrays: dict[str, str] = {}

    def add_array(self, kind: str, values: Array) -> str:
        """Give the function a constant array, once; returns its name."""
        name = f"{self.name}_{kind}"
        self.arrays.setdefault(name, array(name, values))
        return name

    @property
    def phases(self) -> int:
        """Columns are gone through in so many turns that each turn keeps to one plane."""
        layouts = [p.layout for p in (*self.loop.operands.values(), self.loop.writes)]
        phases = math.lcm(*(layout.strides[1] for layout in layouts))
        return min(phases, self.draft.shape[2])

    @property
    def are_alike(self) -> bool:
        """Whether every element of a channel goes through exactly the same."""
        constants = (c for pair in self.loop.constants.values() for c in pair if c is not None)
        return not self.loop.operands and all(c.per != "element" for c in constants)

    def in_line(self, kernel: int, channel: str) -> Iterator[str]:
        """The steps on line[t]."""
        names = {kernel: f"v{kernel}"}
        yield f"const float v{kernel} = line[t];"
        result = yield from self._steps(self.steps, names, Position(channel, "0", "0"))
        yield f"line[t] = {result};"

    def element(self, kernel_value: Iterable[str], position: Position, done: bool) -> Iterator[str]:
        """One element: operands, what the kernel makes, the steps unless `done`, the result."""
        names = {value: f"v{value}" for value in self.loop.operands}
        for value, place in self.loop.operands.items():
            yield f"const float v{value} = a{value}[{self._index(place.layout, position)}];"
        yield from kernel_value
        if self.draft.fused.kernel is not None:
            names[self.draft.fused.kernel] = f"v{self.draft.fused.kernel}"
        result = yield from self._steps(() if done else self.steps, names, position)
        yield f"out[{self._index(self.loop.writes.layout, position)}] = {result};"

    def _steps(
        self, steps: Iterable[int], names: dict[int, str], position: Position
    ) -> Generator[str, None, str]:
        """Steps on variables by value; returns the last one's variable."""
        result = next(reversed(names.values()))
        for value in steps:
            op, inputs = self.fusion.op(value), [names[i] for i in self.fusion.inputs(value)]
            if isinstance(op, Flatten):
                names[value] = inputs[0]
            else:
                names[value] = f"v{value}"
                yield f"const float v{value} = {self._step(op, inputs, value, position)};"
            result = names[value]
        return result

    def _step(self, op: nn.Module, inputs: list[str], value: int, position: Position) -> str:
        if isinstance(op, nn.ReLU):
            return f"{inputs[0]} < 0.0f ? 0.0f : {inputs[0]}"
        if isinstance(op, Add):
            return f"{inputs[0]} + {inputs[1]}"
        assert isinstance(op, Affine), "there is no other kind of elementwise step"
        scale, shift = self.loop.constants[value]
        text = inputs[0]
        if scale is not None:
            text += f" * {self._constant(scale, f'scale{value}', position)}"
        if shift is not None:
            text += f" + {self._constant(shift, f'shift{value}', position)}"
        return text

    def _constant(self, constant: StoredConstant, kind: str, position: Position) -> str:
        if constant.per == "all":
            number = literal(constant.values[0])
            return f"({number})" if number.startswith("-") else number
        name = self.add_array(kind, constant.values)
        if constant.per == "channel":
            return f"{name}[{position.channel}]"
        return f"{name}[{position.index(Layout.plain(self.draft.shape))}]"

    def _index(self, layout: Layout, position: Position) -> str:
        same = layout.shape == self.draft.shape
        return position.index(layout if same else Layout.plain(self.draft.shape))
