"""What a ticket's compacted network needs, and the least that any coding of it can take."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from analysis.exports.routes import Source
from analysis.manifest import Footprint, LayerWidth
from trainers import cost
from trainers.bounds.program import Program
from trainers.compaction import live_units
from trainers.lowering.memory import memory_plan
from trainers.wiring import Wiring

VECTOR_WIDTH = 16
"""float32 values in a vector of AVX-512; half of it is AVX2's, a quarter NEON's."""
_BITS = 32


def footprint(source: Source) -> Footprint:
    """Sizes, operations and widths of the compacted network of a ticket, counted, not measured."""
    shape = source.ticket.input_shape
    plan = memory_plan(source.program, shape)
    return Footprint(
        entropy_bound_bytes=entropy_bound_bytes(source.program),
        compacted_flops=cost.dense_flops(source.program, shape),
        flash_bytes=plan.flash_bytes,
        ram_bytes=plan.ram_bytes,
        vector_width=VECTOR_WIDTH,
        widths=_widths(source.model),
    )


def entropy_bound_bytes(program: Program) -> int:
    """What no lossless coding of masks and float32 values can be smaller than, on average.

    log2 (n choose k) bits for the mask of a layer that keeps k of n weights, when all such masks
    are as likely (Shannon 1948); 32 bits for each kept weight and each bias that is not zero.
    """
    bits = 0.0
    for layer in (step.op for step in program.steps):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            kept = int(torch.count_nonzero(layer.weight))
            biases = 0 if layer.bias is None else int(torch.count_nonzero(layer.bias))
            bits += _log2_choose(layer.weight.numel(), kept) + _BITS * (kept + biases)
    return math.ceil(bits / 8)


def _log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def _widths(model: nn.Module) -> tuple[LayerWidth, ...]:
    """Units of each group of layers, and those that are left by compaction."""
    wiring = Wiring.of(model)
    live: dict[str, Any] = live_units(model, wiring)
    return tuple(
        LayerWidth(
            name=group.name.removesuffix(".weight"),
            units=group.size,
            live=int(live[group.name].sum()),
            padded=-(-int(live[group.name].sum()) // VECTOR_WIDTH) * VECTOR_WIDTH,
        )
        for group in wiring.groups
    )
