"""Reads an exported network back from its file: what is verified is what ships.

The file's own bytes give every weight, those in 8 bits as scale * (q - zero point), which float64
holds exactly. Where the file rounds activations to 8 bits, the network read has a step that does
(`trainers.bounds.rounded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trainers.bounds.program import Program
from trainers.errors import UnsupportedLayer
from trainers.lowering import onnx_layers, onnx_rounding
from trainers.lowering.onnx_graph import Graph


@torch.no_grad()
def read_onnx(content: bytes) -> Program:
    """Read an ONNX file of one input and one output, made of the few operators of our exports.

    The network read is in float64 and in evaluation mode.

    Raises UnsupportedLayer, naming the node, for an operator or an option that is not known to
    compute what the network read computes, on whatever processor.
    """
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise UnsupportedLayer(f"this is not a valid ONNX file: {error}") from error
    graph = Graph(model)
    for graph.node in model.graph.node:
        read = _NODES.get(graph.node.op_type)
        if read is None or graph.node.domain not in ("", "ai.onnx"):
            raise graph.refuse(f"this operator {graph.node.domain}", f"known are {_KNOWN}")
        read(graph)
    outputs = [output.name for output in model.graph.output]
    if len(outputs) != 1 or outputs[0] not in graph.values:
        raise UnsupportedLayer(f"the file's outputs are {outputs}: one was expected, the logits")
    return Program(graph.steps, graph.values[outputs[0]]).eval().requires_grad_(False)


_NODES: Mapping[str, Callable[[Graph], None]] = {
    "Add": onnx_layers.add,
    "AveragePool": onnx_layers.average_pool,
    "BatchNormalization": onnx_layers.batch_norm,
    "Cast": onnx_rounding.cast,
    "Constant": onnx_layers.constant,
    "Conv": onnx_layers.conv,
    "DequantizeLinear": onnx_rounding.dequantize,
    "Div": onnx_layers.divide,
    "DynamicQuantizeLinear": onnx_rounding.dynamic_quantize,
    "Flatten": onnx_layers.flatten,
    "Gemm": onnx_layers.gemm,
    "GlobalAveragePool": onnx_layers.global_average_pool,
    "Identity": onnx_layers.identity,
    "MatMul": onnx_layers.matmul,
    "MatMulInteger": onnx_rounding.matmul_integer,
    "Mul": onnx_rounding.multiply,
    "QuantizeLinear": onnx_rounding.quantize,
    "ReduceMean": onnx_layers.reduce_mean,
    "Relu": onnx_layers.relu,
    "Reshape": onnx_layers.reshape,
    "Sub": onnx_layers.subtract,
}
_KNOWN = ", ".join(_NODES)
