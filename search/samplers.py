"""The sampler that a study names, built for its space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from spaces.holes import Choice, Hole
from spaces.space import SearchSpace


class Sobol(BaseSampler):
    """Points of a scrambled Sobol sequence (Sobol 1967, Owen 1998): trial n gets point n.

    Each hole of the space, of every branch, has a coordinate of its own, so that conditional
    parameters are spread evenly too. Nothing is kept but the seed.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        from scipy.stats import qmc  # noqa: PLC0415  (takes half a second)

        self._coordinate = {name: index for index, name in enumerate(names)}
        self._sequence = qmc.Sobol(max(1, len(names)), rng=np.random.default_rng(seed))
        self._point: tuple[int, np.ndarray] | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: every parameter is asked for by its name."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The trial's coordinate for this parameter, as a value of its domain."""
        share = self._point_of(trial.number)[self._coordinate[param_name]]
        return value_at(param_distribution, float(share))

    def _point_of(self, number: int) -> np.ndarray:
        if self._point is None or self._point[0] != number:
            if number < self._sequence.num_generated:
                self._sequence.reset()
            if number > self._sequence.num_generated:
                self._sequence.fast_forward(number - self._sequence.num_generated)
            self._point = (number, self._sequence.random(1)[0])
        return self._point[1]


def value_at(distribution: BaseDistribution, share: float) -> Any:
    """The value below which a `share` in [0, 1) of the domain lies; uniform where it is."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    whole = isinstance(distribution, IntDistribution)
    if step is not None and not distribution.log:
        value = low + step * int(share * (round((high - low) / step) + 1))
    elif distribution.log:
        half = 0.5 if whole else 0.0  # so that both end integers get a full share
        first, last = math.log(low - half), math.log(high + half)
        value = math.exp(first + share * (last - first))
    else:
        value = low + share * (high - low)
    value = min(max(value, low), high)
    return round(value) if whole else float(value)


def distribution_of(hole: Hole) -> BaseDistribution:
    """What Optuna knows a hole as."""
    if isinstance(hole, Choice):
        return CategoricalDistribution(hole.labels)
    if hole.kind == "float":
        return FloatDistribution(hole.low, hole.high, log=hole.log, step=hole.step)
    return IntDistribution(int(hole.low), int(hole.high), log=hole.log, step=int(hole.step or 1))


def groups(space: SearchSpace) -> list[Mapping[str, BaseDistribution]]:
    """Parameters that a trial has all of, or none: those under the same conditions."""
    found: dict[Any, dict[str, BaseDistribution]] = {}
    for hole in space.parameters():
        if not (distribution := distribution_of(hole)).single():
            found.setdefault(hole.condition, {})[hole.path] = distribution
    return list(found.values())
