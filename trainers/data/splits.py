"""Stratified splits that depend on the labels and one seed only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def share_out(total: int, weights: Sequence[int]) -> list[int]:
    """Share `total` out in proportion to `weights`, by largest remainder; ties by index.

    The shares sum to exactly `total`; integer arithmetic throughout. No share exceeds its weight
    when total <= sum(weights).
    """
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -remainders[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def stratified_split(
    y_N: npt.NDArray[np.int64], fractions: Sequence[float], seed: int
) -> list[Indices]:
    """Indices of one part per fraction, then of the rest: disjoint, covering, shuffled.

    Part i has exactly round(fractions[i] * N) examples, shared out among the classes in
    proportion to what the parts before it have left of each.
    """
    rng = np.random.default_rng(seed)
    left = [rng.permutation(np.flatnonzero(y_N == label)) for label in np.unique(y_N)]
    parts = []
    for fraction in fractions:
        sizes = share_out(round(fraction * len(y_N)), [len(members) for members in left])
        taken = [members[:size] for members, size in zip(left, sizes, strict=True)]
        left = [members[size:] for members, size in zip(left, sizes, strict=True)]
        parts.append(taken)
    # The first n examples of a split must be a fair sample of it: sets often come sorted by class.
    return [rng.permutation(np.concatenate(members)) for members in [*parts, left]]
