"""What a network needs where it ships: operations, memory and, if asked for, time."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from torch import nn

from trainers import cost
from trainers.bounds.program import Program
from trainers.errors import ModelError
from trainers.lowering.memory import memory_plan
from trainers.lowering.simplify import simplify

LATENCIES = {"latency_s": 1, "latency_256_s": 256}
"""Metrics of time, and for how many examples at once."""
_SECONDS = 0.25


def shipping_cost(
    model: nn.Module, input_shape: Sequence[int], *, latency: bool = False
) -> dict[str, float]:
    """compacted_flops, flash_bytes and ram_bytes of a network, and its latencies if asked for.

    Of the compacted network; of the whole one when its forward depends on sizes that compaction
    would change. Raises UnsupportedLayer for a network that cannot be traced.
    """
    program = _shipped(model, input_shape)
    plan = memory_plan(program, input_shape)
    found = {
        "compacted_flops": float(cost.dense_flops(program, input_shape)),
        "flash_bytes": float(plan.flash_bytes),
        "ram_bytes": float(plan.ram_bytes),
    }
    return {**found, **measure_latency(program, input_shape)} if latency else found


def measure_latency(program: Program, input_shape: Sequence[int]) -> dict[str, float]:
    """Median seconds for 1 and for 256 random examples: ONNX Runtime, one CPU thread."""
    # ONNX and its runtime are loaded where they are asked for: every worker imports this module.
    from trainers.lowering.onnx_writer import onnx_model  # noqa: PLC0415
    from trainers.lowering.runtime import OnnxNetwork, interleaved_medians  # noqa: PLC0415

    network = OnnxNetwork(onnx_model(program, input_shape).SerializeToString())
    x_BCHW = np.random.default_rng(0).random((256, *input_shape), dtype=np.float32)
    return {
        name: interleaved_medians({name: network.call(x_BCHW[:batch])}, _SECONDS)[name]
        for name, batch in LATENCIES.items()
    }


def _shipped(model: nn.Module, input_shape: Sequence[int]) -> Program:
    on_cpu = copy.deepcopy(model).cpu()
    try:
        return simplify(on_cpu, input_shape)
    except ModelError:
        return simplify(on_cpu, input_shape, compacted=False)
