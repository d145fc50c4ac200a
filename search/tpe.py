"""Tree-structured Parzen estimator for conditional spaces, stopped trials and many asks.

Optuna's own sampler is the model; three things are different. It draws the branches of a space that
a trial takes and no others, it divides trials into good and bad ones once per trial instead of once
per branch, and it knows how to place trials that were stopped early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.samplers._tpe.sampler import _split_complete_trials
from optuna.trial import FrozenTrial, TrialState

Group = Mapping[str, BaseDistribution]
_KNOWN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
_GOOD_ON_ONE, _GOOD_ON_SEVERAL = 0.1, 0.25
"""Shares of the completed trials. A tenth is less than a front holds, until hundreds are known."""


class Tpe(TPESampler):
    """Proposes what is likely among good trials and unlikely among bad ones.

    Groups of parameters are modelled independently of each other, each from the trials that have
    it, and the parameters of one jointly: by default a group is one parameter (Bergstra et al.
    2011), with `multivariate` those of a branch (Falkner et al. 2018); for several objectives
    Ozaki et al. 2022. Until `startup_trials` have completed or been stopped, `start` proposes.
    """

    def __init__(
        self, groups: Sequence[Group], start: BaseSampler, startup_trials: int, seed: int
    ) -> None:
        super().__init__(n_startup_trials=startup_trials, multivariate=False, seed=seed)
        self._random_sampler = start  # type: ignore[assignment]
        self._groups = {name: dict(group) for group in groups for name in group}
        self._drawn: dict[str, Any] = {}
        self._halves: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Forget what was drawn for the trial before."""
        super().before_trial(study, trial)
        self._drawn, self._halves = {}, None

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter of a trial; with the first one of a group, all of them are drawn."""
        if self._halves is None:
            known = study._get_trials(deepcopy=False, states=_KNOWN, use_cache=False)
            known = [other for other in known if other.number != trial.number]
            ended = [other for other in known if other.state != TrialState.RUNNING]
            if len(ended) < self._n_startup_trials:
                return self._random_sampler.sample_independent(
                    study, trial, param_name, param_distribution
                )
            self._halves = self.divide(study, known)
        if param_name not in self._drawn:
            self._drawn.update(self._sample(study, trial, self._groups[param_name]))
        return self._drawn[param_name]

    def divide(
        self, study: Study, trials: Sequence[FrozenTrial]
    ) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Good and bad trials: of the completed ones a share is good, the feasible ones first."""
        completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        feasible = [trial for trial in completed if violation(trial) == 0.0]
        share = _GOOD_ON_ONE if len(study.directions) == 1 else _GOOD_ON_SEVERAL
        num_good = math.ceil(share * len(completed))
        good, _ = _split_complete_trials(feasible, study, num_good)
        if len(good) < num_good:
            others = sorted((t for t in completed if violation(t) > 0.0), key=violation)
            good += others[: num_good - len(good)]
        numbers = {trial.number for trial in good}
        return (
            sorted(good, key=lambda trial: trial.number),
            [trial for trial in trials if trial.number not in numbers],
        )

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        assert self._halves is not None
        good, bad = (
            self._build_parzen_estimator(study, search_space, trials, handle_below=is_good)
            for trials, is_good in zip(self._halves, (True, False), strict=True)
        )
        candidates = good.sample(self._rng.rng, self._n_ei_candidates)
        merits = self._compute_acquisition_func(candidates, good, bad)
        best = self._compare(candidates, merits)
        return {name: search_space[name].to_external_repr(value) for name, value in best.items()}


def violation(trial: FrozenTrial) -> float:
    """By how much a trial misses the study's constraints, summed."""
    return sum(value for value in trial.constraints.values() if value > 0.0)
