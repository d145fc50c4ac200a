"""Genetic samplers for conditional spaces.

Optuna's cross the parameters that all trials have and draw the others at random: of a network's
topology that would be its density and all else that belongs to a method. Here a child inherits the
parameters of its branch from one parent that took the same branch, each mutated as often as any.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIIISampler, NSGAIISampler, RandomSampler
from optuna.samplers._ga import BaseGASampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FrozenTrial


class _InheritsBranches(BaseGASampler):
    _random_sampler: RandomSampler
    _rng: LazyRandomState

    def __init__(self, *, branch_params: Collection[str], population_size: int, seed: int) -> None:
        super().__init__(population_size=population_size, seed=seed)  # type: ignore[call-arg]
        self._branch_params = frozenset(branch_params)
        self._donor: FrozenTrial | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Forget the parent of the trial before."""
        super().before_trial(study, trial)
        self._donor = None

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """What a parent on the same branch has; at random in the first generation, or mutated."""
        if param_name in self._branch_params:
            donor = self._donor_of(study, trial, param_name)
            if donor is not None and self._rng.rng.rand() >= 1.0 / len(donor.params):
                return donor.params[param_name]
        return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)

    def _donor_of(self, study: Study, trial: FrozenTrial, name: str) -> FrozenTrial | None:
        if self._donor is None or name not in self._donor.params:
            generation = self.get_trial_generation(study, trial)
            parents = self.get_parent_population(study, generation)
            having = [parent for parent in parents if name in parent.params]
            self._donor = having[self._rng.rng.choice(len(having))] if having else None
        return self._donor


class Nsga2(_InheritsBranches, NSGAIISampler):
    """NSGA-II (Deb et al. 2002)."""


class Nsga3(_InheritsBranches, NSGAIIISampler):
    """NSGA-III (Deb and Jain 2014)."""
