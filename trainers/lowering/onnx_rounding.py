"""Nodes that round activations to 8 bits, and those that compute with the integers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from torch import nn

from trainers.bounds.program import Flatten
from trainers.bounds.rounded import Rounded
from trainers.lowering import onnx_layers
from trainers.lowering.integers import Array, Coded, check_weights
from trainers.lowering.onnx_graph import Graph, Sums
from trainers.lowering.onnx_layers import linear
from trainers.lowering.simplify import StoredAffine


def quantize(graph: Graph) -> None:
    """An activation to uint8, with one scale for all of it."""
    options = graph.options(axis=1, block_size=0, output_dtype=0, precision=0, saturate=1)
    graph.require(options, block_size=0, output_dtype=0, precision=0, saturate=1)
    source, (scale, zero_point) = graph.value(), _scale_and_zero_point(graph)
    grid = graph.grids.get(source)
    if grid is None or (grid.scale, grid.zero_point) != (scale, zero_point):
        if _is_rounded_only(graph, source):
            raise graph.refuse(
                "a rounding of what another has just rounded, with another scale",
                "runtimes make one of the two, with a scale of its own; leave one of them out",
            )
        if zero_point == 0 and source and source not in graph.never_negative:
            # The range begins at zero: rounding cuts off below it, as a ReLU in front would.
            source = graph.add(nn.ReLU(), source)
            graph.never_negative.add(source)
        grid = graph.round(source, scale, zero_point)
    graph.integers[graph.node.output[0]] = grid


def dequantize(graph: Graph) -> None:
    """Back to float32: of rounded activations, or of constants."""
    options = graph.options(axis=1, block_size=0, output_dtype=0)
    graph.require(options, block_size=0)
    name, made = graph.name(0), graph.node.output[0]
    if name in graph.integers:
        grid = graph.integers[name]
        if (grid.scale, grid.zero_point) != _scale_and_zero_point(graph):
            raise graph.refuse("a scale other than that of the rounding", "they must be the same")
        graph.values[made] = grid.value
        return
    numbers, scale = graph.constant(0), graph.constant(1)
    zero_point = graph.constant(2) if graph.has(2) else np.zeros((), numbers.dtype)
    axis = options["axis"] % max(1, numbers.ndim)
    sizes = (1, numbers.shape[axis] if numbers.ndim else 1)
    if scale.dtype != np.float32 or scale.size not in sizes or zero_point.size not in sizes:
        raise graph.refuse(f"scales of type {scale.dtype}, {scale.size} of them", "use float32")
    graph.coded[made] = Coded.read(numbers, scale, zero_point, axis)


def dynamic_quantize(graph: Graph) -> None:
    """An activation to uint8, with the scale that its least and largest values ask for."""
    graph.options()
    grid = graph.round(graph.value())
    integers, scale, zero_point = graph.node.output
    graph.integers[integers] = grid
    graph.scales[scale] = grid.value, np.ones((), np.float32)
    graph.zero_points[zero_point] = grid.value


def matmul_integer(graph: Graph) -> None:
    """Sums of products of an activation in uint8 and weights in int8."""
    graph.options()
    grid = graph.integers.get(graph.name(0))
    if grid is None or graph.zero_points.get(graph.name(2)) != grid.value:
        raise graph.refuse(
            "an activation with another zero point than its own", "use DynamicQuantizeLinear's"
        )
    numbers = graph.constant(1)
    zero_point = graph.constant(3) if graph.has(3) else np.zeros((), numbers.dtype)
    weight = Coded.read(numbers, np.ones((), np.float32), zero_point, 1).transposed()
    check_weights(weight, None, graph.refuse)
    graph.sums[graph.node.output[0]] = Sums(grid.value, weight)


def cast(graph: Graph) -> None:
    """Integer sums to float32."""
    options = graph.options(to=None, saturate=1, round_mode=b"up")
    graph.require(options, to=TensorProto.FLOAT)
    if graph.name(0) not in graph.sums:
        raise graph.refuse(f"input {graph.name(0)}", "only integer sums are cast")
    graph.sums[graph.node.output[0]] = graph.sums[graph.name(0)]


def multiply(graph: Graph) -> None:
    """Scales by one another, sums by their scale, or activations by constants."""
    names = sorted(graph.node.input, key=lambda name: name in graph.scales)
    first, second = names
    made = graph.node.output[0]
    if second not in graph.scales:
        onnx_layers.multiply(graph)
        return
    graph.options()
    value, scale = graph.scales[second]
    if first in graph.constants:
        graph.scales[made] = value, _product(graph, scale, graph.constants[first])
        return
    sums = graph.sums.get(first)
    if sums is None or sums.value != value:
        raise graph.refuse(
            f"{first} times a scale", "sums are multiplied by the scale of their own"
        )
    num_outputs = len(sums.weight.numbers)
    if scale.shape not in ((), (1,), (num_outputs,), (1, num_outputs)):
        raise graph.refuse(f"{scale.size} scales", "one for all, or one for each output")
    weight = sums.weight.values * scale.astype(np.float64).reshape(-1, 1)
    graph.make(linear(weight, None), value)


def _is_rounded_only(graph: Graph, value: int) -> bool:
    """Whether a value comes from a rounding through nothing but what a runtime may leave out."""
    while value:
        step = graph.steps[value - 1]
        if isinstance(step.op, Rounded):
            return True
        if not isinstance(step.op, Flatten) and not _changes_nothing(step.op):
            return False
        (value,) = step.inputs
    return False


def _changes_nothing(op: nn.Module) -> bool:
    if not isinstance(op, StoredAffine):
        return False
    return bool((op.scale_values == 1.0).all()) and not bool(op.shift_values.any())


def _product(graph: Graph, scale: Array, constant: Array) -> Array:
    if constant.dtype != np.float32 or not (scale == 1.0).all():
        raise graph.refuse("a second factor of a scale", "one float32 constant is read")
    return constant


def _scale_and_zero_point(graph: Graph) -> tuple[float, int]:
    """Of an activation: one positive float32, and a place among 0 to 255."""
    scale = graph.constant(1)
    zero_point = graph.constant(2) if graph.has(2) else np.zeros((), np.uint8)
    if zero_point.dtype != np.uint8 or zero_point.size != 1:
        raise graph.refuse(
            f"activations of type {zero_point.dtype}", "quantise them to uint8, as a whole"
        )
    number = float(scale.reshape(-1)[0]) if scale.size == 1 else 0.0
    if scale.dtype != np.float32 or not (np.isfinite(number) and number > 0.0):
        raise graph.refuse(f"a scale of {scale}", "use one positive float32")
    return number, int(zero_point.reshape(-1)[0])
