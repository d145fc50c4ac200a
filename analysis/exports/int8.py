"""int8.onnx: weights in 8 bits, and activations rounded to 8 bits while it runs.

By onnxruntime.quantization. Networks with convolutions have fixed steps for their activations,
found on training examples; in fully connected ones each batch has its own (the range of its
activations), so that an example's logits depend on the batch it is in, and what is certified
holds for one example at a time. Weights take 7 of the 8 bits (at most 64 in size): processors
without VNNI add pairs of products in 16 bits, which would overflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from torch import Tensor

from analysis.quiet import quiet
from trainers.lowering.onnx_writer import INPUT

_BATCH = 64
_ROUNDED = ("Conv", "Gemm", "Relu", "Add", "AveragePool", "Flatten")


def int8_bytes(compact: bytes, x_BCHW: Tensor) -> bytes:
    """int8.onnx of a compact.onnx; the same bytes in, the same bytes out.

    `x_BCHW`: training examples, which tell the ranges of activations; a network without
    convolutions does not need them.
    """
    source = onnx.load_model_from_string(compact)
    # There is nothing left to simplify; without this mark the quantiser gives advice.
    source.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    static = any(node.op_type == "Conv" for node in source.graph.node)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        if static:
            _quantize_static(source, path, x_BCHW)
        else:
            quantize_dynamic(
                source,
                path,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
        made = onnx.load(path)
    del made.metadata_props[:]
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def _quantize_static(source: onnx.ModelProto, path: Path, x_BCHW: Tensor) -> None:
    constants = {tensor.name for tensor in source.graph.initializer}
    last = source.graph.node[-1].op_type
    quantize_static(
        source,
        path,
        _Examples(x_BCHW),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_ROUNDED),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Normalisation is no sum of activations.
        nodes_to_exclude=[
            node.name
            for node in source.graph.node
            if node.op_type == "Add" and not constants.isdisjoint(node.input)
        ],
        # Logits stay as they are: rounding them would cost every margin a step.
        extra_options={"OpTypesToExcludeOutputQuantization": [last]},
    )


class _Examples(CalibrationDataReader):
    """Calibration examples, batch by batch."""

    def __init__(self, x_BCHW: Tensor) -> None:
        self.batches: Iterator[np.ndarray] = (x.numpy() for x in x_BCHW.cpu().split(_BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}
