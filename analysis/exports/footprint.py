"""What a ticket's compacted network needs, and the least that any coding of it can take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.exports.routes import Source
from analysis.manifest import Footprint, LayerWidth
from trainers import cost
from trainers.bounds.program import Program
from trainers.compaction import live_units
from trainers.lowering.memory import memory_plan
from trainers.wiring import Wiring

VECTOR_WIDTH = 16
"""float32 values in a vector of AVX-512; AVX2 has 8, NEON 4."""
_FRACTION = 23
"""Bits of a float32's fraction."""


def footprint(source: Source, vector_width: int = VECTOR_WIDTH) -> Footprint:
    """Sizes, operations and widths of the compacted network of a ticket, counted, not measured.

    `vector_width`: how many float32 values a vector of the target holds.
    """
    shape = source.ticket.input_shape
    plan = memory_plan(source.program, shape)
    return Footprint(
        entropy_bound_bytes=entropy_bound_bytes(source.program),
        compacted_flops=cost.dense_flops(source.program, shape),
        flash_bytes=plan.flash_bytes,
        ram_bytes=plan.ram_bytes,
        vector_width=vector_width,
        widths=_widths(source.model, vector_width),
    )


def entropy_bound_bytes(program: Program) -> int:
    """What no lossless coding of masks and float32 values can be smaller than, on average.

    log2 (n choose k) bits for the mask of a layer that keeps k of n weights, when all such masks
    are as likely (Shannon 1948). For each value that is not zero, the entropy of its sign and
    exponent as they are distributed in the layer, and all 23 bits of its fraction.
    """
    bits = 0.0
    for layer in (step.op for step in program.steps):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            values = torch.cat([p.flatten() for p in (layer.weight, layer.bias) if p is not None])
            kept = int(torch.count_nonzero(layer.weight))
            bits += _log2_choose(layer.weight.numel(), kept) + _bits(values[values != 0.0])
    return math.ceil(bits / 8)


def _bits(values: Tensor) -> float:
    """Sign and exponent by their entropy, fractions in full."""
    heads = values.detach().cpu().float().numpy().view(np.uint32) >> _FRACTION
    counts = np.unique(heads, return_counts=True)[1]
    entropy = -float((counts * np.log2(counts / len(values))).sum()) if len(values) else 0.0
    return entropy + _FRACTION * len(values)


def _log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def _widths(model: nn.Module, vector_width: int) -> tuple[LayerWidth, ...]:
    """Units of each group of layers, and those that are left by compaction."""
    wiring = Wiring.of(model)
    live: dict[str, Any] = live_units(model, wiring)
    return tuple(
        LayerWidth(
            name=group.name.removesuffix(".weight"),
            units=group.size,
            live=int(live[group.name].sum()),
            padded=-(-int(live[group.name].sum()) // vector_width) * vector_width,
        )
        for group in wiring.groups
    )
