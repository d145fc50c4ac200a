"""Constants that a file holds as integers, and whether arithmetic on them is exact everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.errors import UnsupportedLayer

Array = np.ndarray[Any, np.dtype[Any]]
Refuse = Callable[[str, str], UnsupportedLayer]
"""What is wrong, and the rule: an error that names the node."""

LARGEST_WEIGHT = 64
"""Processors without VNNI add two products of a uint8 and an int8 in 16 bits, which hold
2 * 255 * 64 and no more."""
_LARGEST_ACTIVATION = 255
_BIAS_AGREES = 2.0**-22
"""A float32 product is off by 2**-24; arithmetic.py allows for 9 of these in all."""


@dataclass(frozen=True)
class Coded:
    """scale * (numbers - zero_point): the scale broadcasts to the numbers."""

    numbers: Array
    scale: Array
    zero_point: Array

    @classmethod
    def read(cls, numbers: Array, scale: Array, zero_point: Array, axis: int) -> Coded:
        """Scales of float32 for the whole, or for each place along `axis`."""

        def along(parameter: Array) -> Array:
            shape = [1] * numbers.ndim
            if parameter.ndim == 1 and numbers.ndim:
                shape[axis] = parameter.size
            return parameter.reshape(shape if parameter.size > 1 else [1] * numbers.ndim)

        return cls(numbers, along(scale.astype(np.float64)), along(zero_point))

    @property
    def values(self) -> Array:
        """In float64, exactly: 24 bits times 9 (of a bias, the nearest)."""
        difference = self.numbers.astype(np.int64) - self.zero_point.astype(np.int64)
        values: Array = self.scale * difference
        return values

    def transposed(self) -> Coded:
        """The same matrix, its axes exchanged."""
        return Coded(self.numbers.T, self.scale.T, self.zero_point.T)


def check_weights(weight: Coded, bias: Coded | None, refuse: Refuse) -> None:
    """Sums of products with uint8 activations must be exact in whatever way they are formed.

    `weight` has one row (channel) of inputs for each output.
    """
    if any(size > 1 for size in weight.scale.shape[1:]):
        raise refuse(
            "weights with a scale for each input",
            "give each output its own scale: sums of integers have no other",
        )
    numbers = np.abs(weight.numbers.astype(np.int64))
    if weight.numbers.dtype != np.int8 or weight.zero_point.any():
        raise refuse(
            f"weights of type {weight.numbers.dtype}, zero points {set(weight.zero_point.flat)}",
            "quantise weights to int8 around zero",
        )
    if numbers.max(initial=0) > LARGEST_WEIGHT:
        raise refuse(
            f"8-bit weights up to {numbers.max()}",
            f"quantise with reduce_range=True, to at most {LARGEST_WEIGHT}: processors without "
            "VNNI add pairs of products in 16 bits",
        )
    sums = numbers.reshape(len(numbers), -1).sum(1) * _LARGEST_ACTIVATION
    if bias is not None:
        sums = sums + np.abs(bias.numbers.astype(np.int64))
    if sums.max(initial=0) >= 2**31:
        raise refuse(f"sums up to {sums.max()}", "32 bits hold those below 2147483648")


def check_bias(weight: Coded, bias: Coded, input_scale: float, refuse: Refuse) -> None:
    """A bias is added to integer sums as it is: its scale must be that of the products."""
    expected = weight.scale.reshape(-1) * input_scale
    fits = np.abs(bias.scale.reshape(-1) - expected) <= _BIAS_AGREES * expected
    if bias.numbers.dtype != np.int32 or bias.zero_point.any() or not fits.all():
        raise refuse(
            f"a bias of type {bias.numbers.dtype} whose scale is not that of the products",
            "quantise it to int32 with the scale of the input times that of the weights",
        )
