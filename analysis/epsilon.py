"""Thinning a front by epsilon-dominance: of members that hardly differ, one stands for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.errors import FrontError
from spaces.constraint import number as parsed
from spaces.metrics import Direction

_ROUNDING = 1e-12  # 0.925 - 0.005 is not quite 0.92


@dataclass(frozen=True)
class Tolerance:
    """How much worse in one objective still counts as equal: `value` itself, or that share."""

    value: float
    relative: bool = False

    @classmethod
    def parse(cls, name: str, text: str | float) -> Tolerance:
        """Read `0.005` (in the metric's unit) or `5%` (of the value); FrontError otherwise."""
        number, relative = str(text).strip(), str(text).strip().endswith("%")
        try:
            value = float(number.removesuffix("%")) / 100.0 if relative else parsed(number)
        except ValueError:
            value = math.nan
        if not 0.0 <= value < math.inf:
            raise FrontError(
                f"epsilon of {name}: {text!r} must be a number that is not negative, in the "
                "metric's unit, for example 0.005, or a percentage of the value, for example 5%"
            )
        return cls(value, relative)

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"


def stand_ins(
    values: Sequence[Sequence[float]],
    directions: Sequence[Direction],
    tolerances: Sequence[Tolerance],
) -> list[int]:
    """For each row of `values` the row that is kept for it: itself, or one that epsilon-dominates.

    A row epsilon-dominates another that is better by no more than the tolerance in any objective
    (Laumanns, Thiele, Deb and Zitzler 2002: f <= g + epsilon, or f <= (1 + epsilon) g, of what is
    minimised). That is no order: it may hold both ways, and a stands for b, b for c, but not a for
    c. So rows are kept one after the other, and each takes out all rows that it epsilon-dominates:
    always the first row, in the given order, that no other one left epsilon-dominates one way.
    No kept row then epsilon-dominates another. One exception is possible from three objectives on,
    where rows may epsilon-dominate each other in a circle, so that no choice could do: the first
    of them is kept.
    """
    covers = _epsilon_dominates(np.asarray(values, np.float64), directions, tolerances)
    one_way = covers & ~covers.T
    left = np.ones(len(values), bool)
    kept_for = np.arange(len(values))
    while left.any():
        free = left & ~one_way[left].any(axis=0)
        row = int(np.flatnonzero(free if free.any() else left)[0])
        taken = left & covers[row]
        kept_for[taken] = row
        left &= ~taken
    return [int(row) for row in kept_for]


def _epsilon_dominates(
    values_NM: np.ndarray, directions: Sequence[Direction], tolerances: Sequence[Tolerance]
) -> np.ndarray:
    """N x N: whether the row's point epsilon-dominates the column's."""
    found = np.ones((len(values_NM), len(values_NM)), bool)
    for column_N, direction, tolerance in zip(values_NM.T, directions, tolerances, strict=True):
        small, large = column_N[:, None], column_N[None, :]
        if direction == "maximize":
            small, large = large, small
        limit = large * (1.0 + tolerance.value) if tolerance.relative else large + tolerance.value
        found &= small <= limit + _ROUNDING * np.abs(limit)
    return found


def parse_tolerances(
    epsilon: Mapping[str, str | float], objectives: Sequence[str]
) -> dict[str, Tolerance]:
    """The tolerance of each objective, 0 where none is given; FrontError for other names."""
    given = {name: Tolerance.parse(name, text) for name, text in epsilon.items()}
    return {name: given.get(name, Tolerance(0.0)) for name in objectives}
