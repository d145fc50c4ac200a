"""Weights and constants as the arrays that a program without torch has in its read-only memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainers.bounds.program import Affine
from trainers.errors import ModelError
from trainers.lowering.layout import Layout, Shape, tap_offsets

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class StoredWeights:
    """A layer's rows of weights, one after another, in the form that takes fewer bytes.

    Compressed sparse rows: the weights that are not zero, for each the offset of what it reads,
    and the number of weights in each row. Dense (`counts` is None): all weights; a convolution has
    the offsets of one row, a linear layer needs none. When all are zero, there are no `values`.
    Offsets of sparse rows count from the start of the layer's input, those of dense rows from the
    first channel of the row's group. Integers are unsigned, of 8, 16 or 32 bits, whichever is the
    least for the array.
    """

    values: Array
    offsets: Array | None
    counts: Array | None
    bias: Array | None

    @property
    def arrays(self) -> list[Array]:
        """What is there, and not empty."""
        found = (self.values, self.offsets, self.counts, self.bias)
        return [array for array in found if array is not None and array.size]

    @property
    def num_bytes(self) -> int:
        """Read-only memory."""
        return sum(array.nbytes for array in self.arrays)


def stored_weights(layer: nn.Linear | nn.Conv2d, layout: Layout, place: str) -> StoredWeights:
    """The weights of a layer that reads activations in `layout`. ModelError: one is not finite."""
    weight_OK = _floats(layer.weight, place).reshape(len(layer.weight), -1)
    bias = None if layer.bias is None else _floats(layer.bias, place)
    if bias is not None and not bias.any():
        bias = None
    if isinstance(layer, nn.Conv2d):
        taps_K = tap_offsets(layer, layout)
        group = np.arange(len(weight_OK)) // (layer.out_channels // layer.groups)
        first_O = group * (layer.in_channels // layer.groups) * layout.channel
        dense = StoredWeights(weight_OK.reshape(-1), _smallest(taps_K), None, bias)
    else:
        taps_K, first_O = np.arange(weight_OK.shape[1]), np.zeros(len(weight_OK), np.int64)
        dense = StoredWeights(weight_OK.reshape(-1), None, None, bias)
    kept_OK = weight_OK != 0.0
    if not kept_OK.any():
        return StoredWeights(weight_OK[kept_OK], None, None, bias)
    offsets = np.broadcast_to(taps_K + first_O[:, None], weight_OK.shape)[kept_OK]
    sparse = StoredWeights(weight_OK[kept_OK], _smallest(offsets), _smallest(kept_OK.sum(1)), bias)
    return dense if dense.num_bytes <= sparse.num_bytes else sparse


@dataclass(frozen=True)
class StoredConstant:
    """A constant of an elementwise step: one number, or one per channel, or one per element."""

    values: Array
    per: str  # "all", "channel" or "element"

    @property
    def num_bytes(self) -> int:
        """Read-only memory; a single number stands in the code."""
        return 0 if self.per == "all" else self.values.nbytes


def stored_constants(
    op: Affine, shape: Sequence[int], channels: Shape, place: str
) -> tuple[StoredConstant | None, StoredConstant | None]:
    """Scale and shift of activations of `shape` (one example's); None where they change nothing.

    `channels` is the same activation seen as channels, height and width.
    """
    scale, shift = op.constants(torch.zeros(1, *shape))

    def stored(constant: Any, neutral: float) -> StoredConstant | None:
        values = np.broadcast_to(_floats(torch.as_tensor(constant), place), (1, *shape))
        values_CE = values.reshape(channels[0], -1)
        return None if (values == neutral).all() else _constant(values_CE)

    return stored(scale, 1.0), stored(shift, 0.0)


def _constant(values_CE: Array) -> StoredConstant:
    if (values_CE == values_CE[0, 0]).all():
        return StoredConstant(values_CE[0, :1].copy(), "all")
    if (values_CE == values_CE[:, :1]).all():
        return StoredConstant(values_CE[:, 0].copy(), "channel")
    return StoredConstant(values_CE.reshape(-1).copy(), "element")


def _floats(tensor: torch.Tensor, place: str) -> Array:
    values: Array = tensor.detach().cpu().to(torch.float32).numpy()
    if not np.isfinite(values).all():
        raise ModelError(
            f"a weight or constant of {place} is {values[~np.isfinite(values)][0]} in float32, "
            "which cannot be shipped: train the network again, or load finite weights"
        )
    return values


def _smallest(numbers: Array) -> Array:
    """The same integers, in the least unsigned type that holds them."""
    greatest = int(numbers.max(initial=0))
    return numbers.astype(np.min_scalar_type(greatest))
