"""Tree-structured Parzen estimator for conditional spaces, stopped trials and many asks.

Optuna's own sampler is the model; three things are different. It draws the branches of a space that
a trial takes and no others, it divides trials into good and bad ones once per trial instead of once
per branch, and it knows what to make of trials that were stopped early, and of rungs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.samplers._tpe.sampler import _split_complete_trials
from optuna.trial import FrozenTrial, TrialState

Group = Mapping[str, BaseDistribution]
_KNOWN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
_GOOD_ON_ONE, _GOOD_ON_SEVERAL = 0.1, 0.25
"""Shares of the completed trials. A tenth is less than a front holds, until hundreds are known."""
_ENOUGH = 5
"""Completed trials from which a model can be made; until then a rung has more to tell."""


class Rungs(Protocol):
    """What early stopping knows of trials, by their numbers."""

    def judged(self) -> Collection[int]:
        """Those that have reached a rung."""

    def leaders(self, least: int, share: float) -> Collection[int]:
        """The best share at the highest rung that at least so many have reached."""


class Tpe(TPESampler):
    """Proposes what is likely among good trials and unlikely among bad ones.

    Groups of parameters are modelled independently of each other, each from the trials that have
    it, and the parameters of one jointly: by default a group is one parameter (Bergstra et al.
    2011), with `multivariate` those of a branch (Falkner et al. 2018); for several objectives
    Ozaki et al. 2022. Until `startup_trials` have ended, `start` proposes. With `rungs`, those that
    have reached one count towards them, and while fewer than five have completed, what is good is
    read from the highest rung that five have reached (Falkner et al. 2018, section 4.1).
    """

    def __init__(
        self,
        groups: Sequence[Group],
        start: BaseSampler,
        startup_trials: int,
        seed: int,
        rungs: Rungs | None = None,
    ) -> None:
        super().__init__(n_startup_trials=startup_trials, multivariate=False, seed=seed)
        self._random_sampler = start  # type: ignore[assignment]
        self._groups = {name: dict(group) for group in groups for name in group}
        self._rungs = rungs
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
            if self._num_judged(known) < self._n_startup_trials:
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
        """Good and bad trials: a share of the completed ones, or of those at a rung, is good."""
        completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        share = _GOOD_ON_ONE if len(study.directions) == 1 else _GOOD_ON_SEVERAL
        numbers: Collection[int] = ()
        if self._rungs is not None and len(completed) < _ENOUGH:
            numbers = self._rungs.leaders(_ENOUGH, share)
        numbers = numbers or _best(study, completed, math.ceil(share * len(completed)))
        good = [trial for trial in trials if trial.number in numbers]
        return good, [trial for trial in trials if trial.number not in numbers]

    def _num_judged(self, trials: Sequence[FrozenTrial]) -> int:
        judged = self._rungs.judged() if self._rungs is not None else ()
        return sum(t.state != TrialState.RUNNING or t.number in judged for t in trials)

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


def _best(study: Study, completed: Sequence[FrozenTrial], count: int) -> set[int]:
    """Numbers of the best completed trials, the feasible ones first."""
    feasible = [trial for trial in completed if violation(trial) == 0.0]
    best, _ = _split_complete_trials(feasible, study, count)
    others = sorted((trial for trial in completed if violation(trial) > 0.0), key=violation)
    return {trial.number for trial in [*best, *others[: max(0, count - len(best))]]}


def violation(trial: FrozenTrial) -> float:
    """By how much a trial misses the study's constraints, summed."""
    return sum(value for value in trial.constraints.values() if value > 0.0)
