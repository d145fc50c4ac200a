"""Nodes that compute with float32: layers, pooling, arithmetic with constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.bounds.program import Add, Flatten, SpatialMean
from trainers.lowering.integers import Array, check_bias, check_weights
from trainers.lowering.onnx_graph import Graph, array_of
from trainers.lowering.simplify import StoredAffine


def gemm(graph: Graph) -> None:
    """X W^T + b."""
    options = graph.options(alpha=1.0, beta=1.0, transA=0, transB=0)
    graph.require(options, alpha=1.0, beta=1.0, transA=0)
    source = graph.value()
    weight, bias = _weight_and_bias(graph, source, transpose=not options["transB"])
    graph.make(linear(weight, bias), source)


def matmul(graph: Graph) -> None:
    """X W, whose bias may be added later."""
    graph.options()
    source = graph.value()
    if graph.name(1) in graph.coded:
        raise graph.refuse("weights in 8 bits without a bias", "quantise a Gemm")
    weight, _ = _weight_and_bias(graph, source, transpose=True)
    graph.make(linear(weight, None), source)


def conv(graph: Graph) -> None:
    """A convolution over height and width."""
    options = graph.options(
        auto_pad=b"NOTSET",
        dilations=[1, 1],
        group=1,
        kernel_shape=None,
        pads=[0, 0, 0, 0],
        strides=[1, 1],
    )
    graph.require(options, auto_pad=b"NOTSET")
    source = graph.value()
    weight, bias = _weight_and_bias(graph, source)
    if weight.ndim != 4 or options["kernel_shape"] not in (None, list(weight.shape[2:])):
        raise graph.refuse(
            f"weights of shape {weight.shape}", "only kernels over two axes are read"
        )
    layer = nn.utils.skip_init(
        nn.Conv2d,
        weight.shape[1] * options["group"],
        len(weight),
        weight.shape[2:],
        options["strides"],
        _padding(graph, options, weight.shape[2:]),
        options["dilations"],
        options["group"],
        bias=bias is not None,
        dtype=torch.float64,
    )
    graph.make(_with(layer, weight, bias), source)


def average_pool(graph: Graph) -> None:
    """Means over windows."""
    options = graph.options(
        auto_pad=b"NOTSET",
        ceil_mode=0,
        count_include_pad=0,
        dilations=[1, 1],
        kernel_shape=None,
        pads=[0, 0, 0, 0],
        strides=[1, 1],
    )
    graph.require(options, auto_pad=b"NOTSET", dilations=[1, 1])
    top, left, *other_ends = options["pads"]
    if other_ends != [top, left] or len(options["kernel_shape"]) != 2:
        raise graph.refuse(f"its padding {options['pads']}", "pad both ends alike, on two axes")
    source = graph.value()
    if source in graph.grids and options["ceil_mode"] and options["count_include_pad"]:
        raise graph.refuse(
            "in 8 bits, ceil_mode with count_include_pad",
            "ONNX Runtime counts what lies beyond the padding too; leave one of them out",
        )
    pool = nn.AvgPool2d(
        tuple(options["kernel_shape"]),
        tuple(options["strides"]),
        (top, left),
        bool(options["ceil_mode"]),
        bool(options["count_include_pad"]),
    )
    graph.make(pool, source)


def global_average_pool(graph: Graph) -> None:
    """Means over height and width, which stay as axes of one."""
    graph.options()
    graph.make(SpatialMean(keepdim=True), graph.value())


def reduce_mean(graph: Graph) -> None:
    """The same, with or without the axes."""
    options = graph.options(axes=None, keepdims=1, noop_with_empty_axes=0)
    axes = graph.constant(1).tolist() if graph.has(1) else options["axes"]
    source = graph.value()
    if axes is None or sorted(a % 4 for a in axes) != [2, 3] or graph.samples[source].ndim != 4:
        raise graph.refuse(f"a mean over axes {axes}", "means are over height and width")
    graph.make(SpatialMean(keepdim=bool(options["keepdims"])), source)


def flatten(graph: Graph) -> None:
    """Each example as one row."""
    graph.require(graph.options(axis=1), axis=1)
    graph.make_alike(Flatten())


def reshape(graph: Graph) -> None:
    """The same, when the shape says so."""
    options, shape = graph.options(allowzero=0), graph.constant(1).tolist()
    batch_first = -1 if options["allowzero"] else 0
    features = graph.samples[graph.value()].numel()
    if shape not in ([batch_first, features], [-1, features], [0, -1]):
        raise graph.refuse(f"a shape of {shape}", "each example must become one row")
    if shape == [0, -1] and options["allowzero"]:
        raise graph.refuse("a shape of [0, -1] with allowzero", "leave allowzero out")
    graph.make_alike(Flatten())


def relu(graph: Graph) -> None:
    """max(x, 0)."""
    graph.options()
    graph.make_alike(nn.ReLU())
    graph.never_negative.add(graph.values[graph.node.output[0]])


def identity(graph: Graph) -> None:
    """Another name."""
    graph.options()
    graph.values[graph.node.output[0]] = graph.value()


def constant(graph: Graph) -> None:
    """A tensor that is written in the node."""
    value = graph.options(value=None)["value"]
    if value is None:
        raise graph.refuse("a constant without a tensor", "give it as `value`")
    graph.constants[graph.node.output[0]] = array_of(value)


def add(graph: Graph) -> None:
    """Of two activations, or of one and a constant."""
    graph.options()
    if graph.name(0) in graph.values and graph.name(1) in graph.values:
        graph.make(Add(), graph.value(0), graph.value(1))
        return
    place, shift = _value_and_constant(graph)
    source = graph.value(place)
    layer: Any = graph.steps[source - 1].op if source else None
    is_its_bias = isinstance(layer, nn.Linear) and layer.bias is None
    if is_its_bias and tuple(shift.shape) in ((layer.out_features,), (1, layer.out_features)):
        # By the layer's own name: under another one it may be read elsewhere too.
        own = graph.steps[-1].place == graph.name(place)
        if own and source == len(graph.steps) and graph.uses[graph.name(place)] == 1:
            layer.bias = nn.Parameter(shift.reshape(-1))
            graph.values[graph.node.output[0]] = source
            return
    _affine(graph, source, torch.ones(()), shift)


def subtract(graph: Graph) -> None:
    """A constant from an activation, or an activation from a constant."""
    graph.options()
    place, shift = _value_and_constant(graph)
    sign = 1.0 - 2.0 * place
    _affine(graph, graph.value(place), torch.tensor(sign), -sign * shift)


def multiply(graph: Graph) -> None:
    """An activation by a constant."""
    graph.options()
    place, scale = _value_and_constant(graph)
    _affine(graph, graph.value(place), scale, torch.zeros(()))


def divide(graph: Graph) -> None:
    """An activation by a constant."""
    graph.options()
    if graph.name(1) not in graph.constants:
        raise graph.refuse(f"division by {graph.name(1)}", "divide by constants")
    _affine(graph, graph.value(), 1.0 / _tensor(graph.constant(1)), torch.zeros(()))


def batch_norm(graph: Graph) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, with constants."""
    options = graph.options(epsilon=1e-5, momentum=0.9, training_mode=0)
    graph.require(options, training_mode=0)
    source = graph.value()
    shape = (-1, *[1] * (graph.samples[source].ndim - 2))
    scale, shift, mean, variance = (_tensor(graph.constant(i)).view(shape) for i in range(1, 5))
    graph_scale = scale / (variance + options["epsilon"]).sqrt()
    # In two steps, so that what float32 may lose in the difference is counted.
    centred = graph.add(StoredAffine(torch.ones(()).double(), -mean), source)
    _affine(graph, centred, graph_scale, shift)


def linear(weight: Array, bias: Array | None) -> nn.Linear:
    """A layer of float64; weight (outputs, inputs)."""
    layer = nn.utils.skip_init(
        nn.Linear, weight.shape[1], len(weight), bias=bias is not None, dtype=torch.float64
    )
    return _with(layer, weight, bias)


def _with(layer: Any, weight: Array, bias: Array | None) -> Any:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias.reshape(-1)))
    return layer


def _weight_and_bias(
    graph: Graph, source: int, transpose: bool = False
) -> tuple[Array, Array | None]:
    """Weight (outputs, ...) and bias of the node, which reads value `source`, in float64."""
    coded, grid = graph.coded.get(graph.name(1)), graph.grids.get(source)
    if coded is None and grid is None:
        weight, bias = graph.constant(1), graph.constant(2) if graph.has(2) else None
        for array in (weight, bias):
            if array is not None and array.dtype != np.float32:
                raise graph.refuse(f"weights of type {array.dtype}", "use float32")
        weight = weight.T if transpose else weight
        return weight.astype(np.float64), None if bias is None else bias.astype(np.float64)
    if coded is None or grid is None or grid.scale is None:
        raise graph.refuse(
            "that of weights and activations one is in 8 bits and the other is not",
            "what a runtime makes of it differs; quantise both",
        )
    coded = coded.transposed() if transpose else coded
    bias_code = graph.coded.get(graph.name(2))
    check_weights(coded, bias_code, graph.refuse)
    if bias_code is not None:
        check_bias(coded, bias_code, grid.scale, graph.refuse)
    elif graph.has(2):
        raise graph.refuse("a bias that is not in integers", "quantise it to int32")
    return coded.values, None if bias_code is None else bias_code.values


def _padding(graph: Graph, options: dict[str, Any], kernel: tuple[int, ...]) -> Any:
    top, left, bottom, right = options["pads"]
    if (top, left) == (bottom, right):
        return top, left
    totals = [d * (k - 1) for d, k in zip(options["dilations"], kernel, strict=True)]
    same = [t // 2 for t in totals] + [t - t // 2 for t in totals]
    if options["pads"] == same and options["strides"] == [1, 1]:
        return "same"
    raise graph.refuse(f"its padding {options['pads']}", "pad both ends alike")


def _value_and_constant(graph: Graph) -> tuple[int, Tensor]:
    """At which place the activation is, and the constant at the other one."""
    place = 0 if graph.name(0) in graph.values else 1
    array = graph.constant(1 - place)
    if array.dtype != np.float32:
        raise graph.refuse(f"a constant of type {array.dtype}", "use float32")
    return place, _tensor(array)


def _affine(graph: Graph, source: int, scale: Tensor, shift: Tensor) -> None:
    for constant in (scale, shift):
        shape = graph.samples[source].shape
        if torch.broadcast_shapes(constant.shape, shape) != shape:
            raise graph.refuse(
                f"a constant of shape {tuple(constant.shape)}", "it must not widen x"
            )
    graph.make(StoredAffine(scale.double(), shift.double()), source)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array.astype(np.float64))
