"""The sampler that a study names, built for its space.

All of them read the constraints that trials were told with. What they draw is fixed by the study's
seed and the number of trials known so far, so that a resumed search goes on and repeats nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler
from optuna.trial import FrozenTrial

from search.genetic import Nsga2, Nsga3
from search.tpe import Rungs, Tpe
from spaces.holes import Choice, Hole
from spaces.sampler import GpConfig, Nsga2Config, Nsga3Config, QmcConfig, TpeConfig
from spaces.space import SearchSpace
from spaces.study import StudyConfig


def build_sampler(
    study: StudyConfig, num_known: int = 0, rungs: Rungs | None = None
) -> BaseSampler:
    """The sampler that the study names; its random stream depends on seed and trials so far.

    `rungs` is what early stopping knows of trials that wait, for those that can make use of it.
    """
    # Else a resumed search would draw its first parameters once more.
    seed = int(np.random.SeedSequence([study.seed, num_known]).generate_state(1)[0])
    config, space = study.sampler, study.search_space()
    if isinstance(config, QmcConfig):
        return Sobol(space, study.seed)
    if isinstance(config, TpeConfig | GpConfig):
        is_even = config.startup == "qmc"
        start = Sobol(space, study.seed) if is_even else RandomSampler(seed=seed)
        if isinstance(config, TpeConfig):
            found = groups(space, jointly=config.multivariate)
            return Tpe(found, start, config.startup_trials, seed, rungs)
        return GPSampler(
            seed=seed,
            independent_sampler=start,
            n_startup_trials=config.startup_trials,
            warn_independent_sampling=False,
        )
    if isinstance(config, Nsga2Config | Nsga3Config):
        genetic = Nsga2 if isinstance(config, Nsga2Config) else Nsga3
        names = [hole.path for hole in space.parameters() if hole.condition]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # no choice of the study's author
            return genetic(branch_params=names, population_size=config.population_size, seed=seed)
    return RandomSampler(seed=seed)


def generation_mark(study: StudyConfig) -> dict[str, int]:
    """The attribute by which trials of earlier studies are a genetic search's first generation.

    Other samplers need none.
    """
    genetic = {"nsga2": Nsga2, "nsga3": Nsga3}.get(study.sampler.name)
    return {} if genetic is None else {genetic._get_generation_key(): 0}


class Sobol(BaseSampler):
    """Points of a scrambled Sobol sequence (Sobol 1967, Owen 1998): trial n gets point n.

    Each hole of the space, of every branch, has a coordinate of its own, so that conditional
    parameters are spread evenly too. Nothing is kept but the seed.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        from scipy.stats import qmc  # noqa: PLC0415  (takes half a second)

        holes = space.parameters()
        self._coordinate = {hole.path: index for index, hole in enumerate(holes)}
        self._sequence = qmc.Sobol(max(1, len(holes)), rng=np.random.default_rng(seed))
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


def groups(space: SearchSpace, *, jointly: bool = True) -> list[Mapping[str, BaseDistribution]]:
    """Parameters that a trial has all of, or none: those under the same conditions.

    Not `jointly`: each parameter alone.
    """
    found: dict[Any, dict[str, BaseDistribution]] = {}
    for hole in space.parameters():
        if not (distribution := distribution_of(hole)).single():
            found.setdefault(hole.condition if jointly else hole.path, {})[hole.path] = distribution
    return list(found.values())
