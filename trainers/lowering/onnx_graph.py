"""What is known of an ONNX graph while its nodes are read one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from trainers.bounds.program import Step
from trainers.bounds.rounded import STEPS, Rounded
from trainers.errors import UnsupportedLayer
from trainers.lowering.integers import Array, Coded


@dataclass(frozen=True)
class Grid:
    """Multiples of `scale` about `zero_point`: what value number `value` is once it is rounded.

    Without a scale it depends on the batch.
    """

    value: int
    scale: float | None
    zero_point: int = 0


@dataclass(frozen=True)
class Sums:
    """Sums of products of a rounded value with integer weights, which no scale has met yet."""

    value: int
    weight: Coded


class Graph:
    """The steps that were read so far, and what each name of the file stands for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.values: dict[str, int] = {}  # activations
        self.constants: dict[str, Array] = {}
        self.coded: dict[str, Coded] = {}  # constants that the file dequantises
        self.integers: dict[str, Grid] = {}  # activations in 8 bits, and their zero points
        self.sums: dict[str, Sums] = {}
        self.scales: dict[str, tuple[int, Array]] = {}  # of a rounded value, times a constant
        self.zero_points: dict[str, int] = {}  # of a rounded value
        self.steps: list[Step] = []
        self.samples: list[Tensor] = []  # one of each value, for its shape
        self.grids: dict[int, Grid] = {}  # values that are rounded
        self.never_negative: set[int] = set()
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.uses.update(output.name for output in model.graph.output)
        self.node = onnx.NodeProto()
        self._read_input(model)
        for tensor in model.graph.initializer:
            self.constants[tensor.name] = array_of(tensor)

    def _read_input(self, model: onnx.ModelProto) -> None:
        if model.functions or model.graph.sparse_initializer or len(model.graph.input) != 1:
            raise UnsupportedLayer(
                f"the file has {len(model.graph.input)} inputs and {len(model.functions)} "
                "functions: only networks of one input, made of nodes alone, are read"
            )
        (given,) = model.graph.input
        tensor = given.type.tensor_type
        shape = [d.dim_value for d in tensor.shape.dim][1:]
        if not shape or min(shape) < 1 or tensor.elem_type != TensorProto.FLOAT:
            raise UnsupportedLayer(
                f"input {given.name} has the shape (batch, {shape}) and type {tensor.elem_type}: "
                "float32 examples of a fixed shape were expected"
            )
        if given.name in {tensor.name for tensor in model.graph.initializer}:
            raise UnsupportedLayer(
                f"input {given.name} has a value in the file: an input without one was expected"
            )
        self.values[given.name] = 0
        self.samples.append(torch.zeros(1, *shape, dtype=torch.float64))

    # Reading the parts of the node at hand --------------------------------------------------------

    def refuse(self, what: str, rule: str) -> UnsupportedLayer:
        """An error that names the node."""
        name = self.node.name or (self.node.output[0] if self.node.output else "")
        return UnsupportedLayer(f"{self.node.op_type} {name}: {what} cannot be verified; {rule}")

    def options(self, **known: Any) -> dict[str, Any]:
        """The node's attributes over the defaults that are given; others are refused."""
        given = {a.name: helper.get_attribute_value(a) for a in self.node.attribute}
        for name, value in given.items():
            if name not in known:
                raise self.refuse(f"its option {name}={value}", f"known are {', '.join(known)}")
        return {**known, **given}

    def require(self, options: dict[str, Any], **needed: Any) -> None:
        """Refuse options that have other values than are needed."""
        for name, value in needed.items():
            if options[name] != value:
                raise self.refuse(f"its option {name}={options[name]}", f"it must be {value}")

    def has(self, place: int) -> bool:
        """Whether there is an input `place`."""
        return place < len(self.node.input) and bool(self.node.input[place])

    def name(self, place: int) -> str:
        """The name of input `place`, empty where there is none."""
        return self.node.input[place] if self.has(place) else ""

    def value(self, place: int = 0) -> int:
        """The number of the activation that is input `place`."""
        if self.name(place) not in self.values:
            raise self.refuse(
                f"input {self.name(place)}", "an activation was expected in its place"
            )
        return self.values[self.name(place)]

    def constant(self, place: int) -> Array:
        """The constant that is input `place`."""
        if self.name(place) not in self.constants:
            raise self.refuse(f"input {self.name(place)}", "a constant was expected in its place")
        return self.constants[self.name(place)]

    # What the node makes --------------------------------------------------------------------------

    def add(self, op: nn.Module, *inputs: int) -> int:
        """A step; the value that it makes."""
        try:
            self.samples.append(op(*(self.samples[i] for i in inputs)))
        except (RuntimeError, UnsupportedLayer) as error:
            raise self.refuse(f"its shape ({error})", "export the network again") from error
        self.steps.append(Step(op, inputs, self.node.output[0]))
        return len(self.steps)

    def make(self, op: nn.Module, *inputs: int) -> int:
        """A step whose value is the node's output."""
        self.values[self.node.output[0]] = made = self.add(op, *inputs)
        return made

    def make_alike(self, op: nn.Module) -> None:
        """A step that keeps its input's multiples of a scale, and its sign."""
        source = self.value()
        made = self.make(op, source)
        if source in self.grids:
            self.grids[made] = replace(self.grids[source], value=made)
        if source in self.never_negative:
            self.never_negative.add(made)

    def round(self, source: int, scale: float | None = None, zero_point: int = 0) -> Grid:
        """A step that rounds to uint8; where it leaves the value."""
        is_positive = source in self.never_negative
        made = self.add(Rounded(scale, -zero_point, STEPS - zero_point, is_positive), source)
        self.grids[made] = Grid(made, scale, zero_point)
        if is_positive:
            self.never_negative.add(made)
        return self.grids[made]


def array_of(tensor: onnx.TensorProto) -> Array:
    """A tensor of the file; one that lies in another file, or is not finite, is refused."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise UnsupportedLayer(f"{tensor.name} lies in another file: save the network as one file")
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnsupportedLayer(
            f"{tensor.name} holds {array[~np.isfinite(array)][0]}: weights must be finite"
        )
    return array
