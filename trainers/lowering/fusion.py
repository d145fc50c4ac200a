"""Which steps of a network become one loop, so that what is between them is never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainers.bounds.program import Add, Affine, Flatten, Program, SpatialMean
from trainers.errors import UnsupportedLayer
from trainers.lowering.layout import Shape
from trainers.models.modes import evaluating

KERNELS = (nn.Linear, nn.Conv2d, nn.AvgPool2d, SpatialMean)
ELEMENTWISE = (nn.ReLU, Affine, Add, Flatten)


@dataclass(frozen=True)
class Fused:
    """One loop: a kernel's outputs, element by element through further steps, into one value.

    `kernel` is the number of the value that a layer makes on the way, None when all begins with
    values that are stored; `steps` are the numbers of the values of the elementwise steps, in
    order; `stored` those of the values that these read from memory. `result` is what is written.
    """

    kernel: int | None
    steps: tuple[int, ...]
    stored: tuple[int, ...]
    result: int


class Fusion:
    """A network's loops in order, and the shapes of its values (those of one example).

    Raises UnsupportedLayer, naming the step, for kinds of step that are neither kernel nor
    elementwise, and for activations that are neither (features) nor (channels, height, width).
    """

    def __init__(self, program: Program, input_shape: Sequence[int]) -> None:
        self.program = program
        self.needed = self._needed()
        self.shapes = self._shapes(input_shape)
        self.stored = self._stored()
        results = sorted(self.stored - {0})
        self.loops = [self._loop(result) for result in results]

    def op(self, value: int) -> nn.Module:
        """The step that makes a value."""
        return self.program.ops[value - 1]

    def inputs(self, value: int) -> tuple[int, ...]:
        """The values that it is made of."""
        return self.program.steps[value - 1].inputs

    def place(self, value: int) -> str:
        """Where in the network this is, for people."""
        return self.program.steps[value - 1].place

    def channels(self, value: int) -> Shape:
        """A value's shape as channels, height and width; features are channels of one pixel."""
        channels, height, width = (*self.shapes[value], 1, 1)[:3]
        return channels, height, width

    def _needed(self) -> list[int]:
        """The values that the output depends on, the input (0) first."""
        needed = {self.program.output}
        for value in range(len(self.program.steps), 0, -1):
            if value in needed:
                self._check_kind(value)
                needed.update(self.inputs(value))
        if self.program.output == 0:
            raise UnsupportedLayer("a network without layers: there is nothing to write")
        return sorted(needed | {0})

    def _check_kind(self, value: int) -> None:
        op = self.op(value)
        if not isinstance(op, KERNELS + ELEMENTWISE):
            raise UnsupportedLayer(
                f"{type(op).__name__} at {self.place(value)} cannot be written as a loop: use "
                "Linear, Conv2d, ReLU, AvgPool2d, Flatten, a mean over height and width, sums and "
                "constants; batch normalisation and dropout are gone after "
                "trainers.lowering.simplify"
            )

    @torch.no_grad()
    def _shapes(self, input_shape: Sequence[int]) -> dict[int, tuple[int, ...]]:
        first = next(self.program.parameters(), torch.zeros(()))
        with evaluating(self.program):
            values = self.program.values(first.new_zeros((1, *input_shape)))
        shapes = {value: tuple(values[value].shape[1:]) for value in self.needed}
        for value, shape in shapes.items():
            flat = value > 0 and isinstance(self.op(value), nn.Linear)
            reads = shapes[self.inputs(value)[0]] if flat else shape
            if len(shape) not in (1, 3) or (flat and len(reads) != 1):
                where = "the input" if value == 0 else f"the output of {self.place(value)}"
                raise UnsupportedLayer(
                    f"{where} has shape {shape} for each example: activations must be (features) "
                    "or (channels, height, width), and Linear reads features: flatten before it"
                )
        return shapes

    def _stored(self) -> set[int]:
        """Values that must be in memory: the others are on the way to exactly one of them."""
        goals: dict[int, set[int]] = {value: set() for value in self.needed}
        goals[self.program.output] = {self.program.output}
        hosted: set[int] = set()  # results that a kernel's loop makes already
        for value in reversed(self.needed):
            goal = goals[value]
            kernel = value > 0 and isinstance(self.op(value), KERNELS)
            if value == 0 or value in goal or len(goal) > 1 or (kernel and goal <= hosted):
                goals[value] = goal = {value}
            if kernel:
                hosted |= goal
            for read in self.inputs(value) if value > 0 else ():
                goals[read] |= {read} if kernel else goal
        return {value for value, goal in goals.items() if value in goal}

    def _loop(self, result: int) -> Fused:
        """Everything between stored values and this one."""
        kernel, steps, stored = None, set[int](), set[int]()
        ahead = [result]
        while ahead:
            value = ahead.pop()
            if value in self.stored and value != result:
                stored.add(value)
            elif isinstance(self.op(value), KERNELS):
                kernel = value
            else:
                steps.add(value)
                ahead += self.inputs(value)
        return Fused(kernel, tuple(sorted(steps)), tuple(sorted(stored)), result)
