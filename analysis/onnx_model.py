"""model.onnx: writing it, and comparing its outputs with the weights it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from analysis.errors import TicketError
from analysis.manifest import OnnxCheck
from analysis.quiet import quiet
from analysis.version import library_version
from trainers.lowering.onnx_writer import INPUT, OUTPUT
from trainers.lowering.runtime import ORT_ERRORS

RELATIVE_TOLERANCE = 1e-5
BATCH_SIZES = (1, 7)


def onnx_bytes(model: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    """An eval-mode network on the CPU as ONNX: float32 `x` of any batch size in, `logits` out.

    The same network gives the same bytes, in every process and folder. TicketError when it cannot
    be exported.
    """
    x_BCHW = torch.zeros(2, *input_shape)
    batch = torch.export.Dim("batch")
    try:
        with quiet():
            program = torch.onnx.export(
                model,
                (x_BCHW,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            assert program is not None
            return _without_notes(program.model_proto)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TicketError(
            f"the network cannot be exported to ONNX ({reason}): export with --no-onnx, or use "
            "operations that torch.onnx supports"
        ) from error


def check_onnx(
    path: Path, model: nn.Module, x_BCHW: Tensor, batch_sizes: Sequence[int] = BATCH_SIZES
) -> OnnxCheck:
    """Compare ONNX Runtime with PyTorch on real examples, in batches of each of the sizes.

    The largest absolute difference of the logits may be 1e-5, or 1e-5 of the largest logit when
    that is above 1. TicketError beyond that, or when the file cannot be run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    differences, largest = [torch.zeros(())], 1.0
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        for x in (x for size in batch_sizes for x in x_BCHW.cpu().split(size)):
            (found,) = session.run([OUTPUT], {INPUT: x.numpy()})
            with torch.no_grad():
                expected_BK = model(x)
            differences.append((torch.from_numpy(found) - expected_BK).abs().max())
            largest = max(largest, float(expected_BK.abs().max()))
    except ORT_ERRORS as error:
        raise TicketError(f"{path} cannot be run by ONNX Runtime ({error})") from error
    difference = float(torch.stack(differences).max())  # NaN stays NaN, and fails below
    tolerance = RELATIVE_TOLERANCE * largest
    if not difference <= tolerance:
        raise TicketError(
            f"{path} and the weights disagree: their logits differ by up to {difference:.3g}, but "
            f"at most {tolerance:.3g} is allowed. Export the ticket again"
        )
    return OnnxCheck(
        max_abs_difference=difference,
        tolerance=tolerance,
        num_examples=len(x_BCHW),
        batch_sizes=tuple(batch_sizes),
        onnxruntime=library_version("onnxruntime"),
    )


def _without_notes(model: onnx.ModelProto) -> bytes:
    """Without what the exporter notes on each part: among it are paths of this machine's files."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    for value in graph.value_info:
        value.ClearField("metadata_props")
    return bytes(model.SerializeToString())
