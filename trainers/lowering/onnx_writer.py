"""A simplified network as an ONNX model: the same bytes for the same network, one node per step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from trainers.bounds.program import Add, Flatten, Program, SpatialMean
from trainers.errors import UnsupportedLayer
from trainers.lowering.simplify import StoredAffine

INPUT, OUTPUT = "x", "logits"
OPSET, IR_VERSION = 18, 10
_BATCH = "batch"


def onnx_model(program: Program, input_shape: Sequence[int]) -> onnx.ModelProto:
    """The program (see `simplify`) as ONNX: float32 `x` (batch, *input_shape) in, `logits` out.

    Values are named v1, v2, ... after the steps that make them, weights v1.weight, v1.bias.
    Raises UnsupportedLayer for a step that ONNX has no node for, or that has another shape there.
    """
    writer = _Writer(program)
    x = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [_BATCH, *input_shape])
    classes = _num_classes(program)
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [_BATCH, classes])
    graph = helper.make_graph(
        list(writer.nodes()), "ticket", [x], [logits], initializer=writer.constants
    )
    model = helper.make_model(
        graph,
        producer_name="goldenticket",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        raise UnsupportedLayer(
            f"ONNX gives this network other shapes ({error}): in a pool with ceil_mode the last "
            "window may begin beyond the input, where torch leaves it out; leave ceil_mode out"
        ) from error
    return model


def _num_classes(program: Program) -> int | None:
    """The number of logits, where the last layer says it."""
    for step in reversed(program.steps):
        if isinstance(step.op, nn.Linear | nn.Conv2d):
            return len(step.op.weight)
    return None


class _Writer:
    """Writes nodes, and gathers the constants that they read."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.constants: list[TensorProto] = []

    def nodes(self) -> Iterator[onnx.NodeProto]:
        for number, step in enumerate(self.program.steps, 1):
            inputs = [self._name(i) for i in step.inputs]
            made = self._name(number)
            for kind, reads, makes, attributes in self._nodes_of(step.op, inputs, made, number):
                yield helper.make_node(kind, reads, [makes], name=makes, **attributes)

    def _name(self, value: int) -> str:
        if value == self.program.output:
            return OUTPUT
        return f"v{value}" if value else INPUT

    def _nodes_of(
        self, op: Any, inputs: list[str], made: str, number: int
    ) -> Iterator[tuple[str, list[str], str, Mapping[str, Any]]]:
        (x, *_), prefix = inputs, f"v{number}"
        if isinstance(op, nn.Linear):
            weight = self._constant(f"{prefix}.weight", op.weight)
            bias = self._constant(f"{prefix}.bias", _bias(op))
            yield "Gemm", [x, weight, bias], made, {"transB": 1}
        elif isinstance(op, nn.Conv2d):
            weight = self._constant(f"{prefix}.weight", op.weight)
            bias = self._constant(f"{prefix}.bias", _bias(op))
            yield "Conv", [x, weight, bias], made, _convolution(op)
        elif isinstance(op, nn.ReLU):
            yield "Relu", [x], made, {}
        elif isinstance(op, Add):
            yield "Add", inputs, made, {}
        elif isinstance(op, Flatten):
            yield "Flatten", [x], made, {"axis": 1}
        elif isinstance(op, SpatialMean):
            axes = self._constant(f"{prefix}.axes", np.array([2, 3], dtype=np.int64))
            yield "ReduceMean", [x, axes], made, {"keepdims": int(op.keepdim)}
        elif isinstance(op, nn.AvgPool2d):
            yield "AveragePool", [x], made, _pooling(op)
        elif isinstance(op, StoredAffine):
            scaled = f"{prefix}.scaled"
            yield "Mul", [x, self._constant(f"{prefix}.scale", op.scale_values)], scaled, {}
            yield "Add", [scaled, self._constant(f"{prefix}.shift", op.shift_values)], made, {}
        else:
            raise UnsupportedLayer(f"{type(op).__name__} has no ONNX node here: simplify first")

    def _constant(self, name: str, value: Tensor | np.ndarray) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _bias(layer: Any) -> Tensor:
    bias: Tensor = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return bias


def _convolution(op: nn.Conv2d) -> dict[str, Any]:
    left, right, top, bottom = op._reversed_padding_repeated_twice
    return {
        "kernel_shape": list(op.kernel_size),
        "strides": list(op.stride),
        "pads": [top, left, bottom, right],
        "dilations": list(op.dilation),
        "group": op.groups,
    }


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _pooling(op: nn.AvgPool2d) -> dict[str, Any]:
    if op.divisor_override is not None:
        raise UnsupportedLayer(
            f"AvgPool2d with divisor_override={op.divisor_override} has no ONNX node: leave it out"
        )
    pads = _pair(op.padding)
    return {
        "kernel_shape": list(_pair(op.kernel_size)),
        "strides": list(_pair(op.stride)),
        "pads": [*pads, *pads],
        "ceil_mode": int(op.ceil_mode),
        # Without padding it changes nothing, but ONNX Runtime's 8-bit kernel makes more of it.
        "count_include_pad": int(op.count_include_pad and any(pads)),
    }
