"""What proposes the trials of a replayed search: any sampler, moved to trainings of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch
from replay import Ended, Training

from search.samplers import distribution_of
from spaces import StudyConfig
from spaces.space import SearchSpace

Told = Callable[[Study, optuna.Trial, Ended], None]


class Asked:
    """A study of Optuna's that is asked and told as goldenticket does (search/sampling.py)."""

    def __init__(
        self,
        table: Sequence[Training],
        study: StudyConfig,
        sampler: BaseSampler,
        tell: Told | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._config, self._space, self._table = study, study.search_space(), table
        self._picker = FromTable(table, self._space, sampler)
        self._study = optuna.create_study(
            directions=[str(direction) for direction in study.directions],  # type: ignore[misc]
            sampler=self._picker,
        )
        self._tell = tell or self._told
        self._trials: dict[int, optuna.Trial] = {}
        self.trainings: dict[int, Training] = {}

    def ask(self) -> tuple[int, Training] | None:
        """A trial of the study."""
        if not self._picker.left:
            return None
        trial = self._study.ask()
        self._space.suggest(trial)
        self._trials[trial.number] = trial
        self.trainings[trial.number] = self._table[self._picker.chosen]
        return trial.number, self.trainings[trial.number]

    def tell(self, ended: Ended) -> None:
        """Its values, once it has completed."""
        self._tell(self._study, self._trials.pop(ended.number), ended)

    def _told(self, study: Study, trial: optuna.Trial, ended: Ended) -> None:
        if ended.state == "stopped":
            study.tell(trial, state=TrialState.PRUNED)
            return
        for constraint in self._config.constraints:
            trial.set_constraint(str(constraint), constraint.violation(ended.training.metrics))
        study.tell(trial, [ended.training.metrics[name] for name in self._config.objectives])


class RaysOptunaSearch:
    """Ray's own OptunaSearch, on all objectives, with the sampler that it takes by default.

    It knows no constraints.
    """

    def __init__(self, table: Sequence[Training], study: StudyConfig, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = study.search_space()
        self._table, self._num_asked = table, 0
        self._picker = FromTable(table, space, optuna.samplers.TPESampler(seed=seed))
        self._search = OptunaSearch(
            space=lambda trial: space.suggest(trial) and None,
            metric=list(study.objectives),
            mode=[str(direction)[:3] for direction in study.directions],
            sampler=self._picker,
        )

    def ask(self) -> tuple[int, Training] | None:
        """What it suggests."""
        if not self._picker.left:
            return None
        self._search.suggest(str(self._num_asked))
        self._num_asked += 1
        return self._num_asked - 1, self._table[self._picker.chosen]

    def tell(self, ended: Ended) -> None:
        """Its last result."""
        self._search.on_trial_complete(str(ended.number), dict(ended.training.metrics))


class FromTable(BaseSampler):
    """Proposals of another sampler, moved to the nearest training that has not been used yet.

    Distances are Euclidean in shares of each range, in the logarithm where that is drawn from; a
    choice that differs, or a parameter that only one of the two has, counts as a whole range.
    """

    def __init__(self, table: Sequence[Training], space: SearchSpace, sampler: BaseSampler) -> None:
        self.chosen = -1
        self.left = list(range(len(table)))
        self._table, self._space, self._inner = table, space, sampler
        self._domains = {hole.path: distribution_of(hole) for hole in space.parameters()}
        self._points = np.array([self._point(training.params) for training in table])

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All of the space: a training is chosen as a whole."""
        return self._domains

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of the training that is nearest to the proposal."""
        proposed = self._space.suggest(_Proposal(study, trial, self._inner))
        distances = _distances(self._points[self.left], self._point(proposed))
        self.chosen = self.left.pop(int(distances.argmin()))
        return dict(self._table[self.chosen].params)

    def sample_independent(self, *_: Any) -> Any:
        """Never called: the training has all parameters."""
        raise AssertionError

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass it on."""
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass it on."""
        self._inner.after_trial(study, trial, state, values)

    def _point(self, params: Mapping[str, Any]) -> list[float]:
        return [
            _share(domain, params[name]) if name in params else math.nan
            for name, domain in self._domains.items()
        ]


class _Proposal:
    """A trial that asks a sampler and writes nothing down."""

    def __init__(self, study: Study, trial: FrozenTrial, sampler: BaseSampler) -> None:
        self._asking = (study, trial)
        self._sampler = sampler
        space = sampler.infer_relative_search_space(study, trial)
        self._relative = sampler.sample_relative(study, trial, space)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        domain = optuna.distributions.FloatDistribution(low, high, log=log, step=step)
        return float(self._ask(name, domain))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        domain = optuna.distributions.IntDistribution(low, high, log=log, step=step)
        return int(self._ask(name, domain))

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        return self._ask(name, CategoricalDistribution(choices))

    def _ask(self, name: str, domain: BaseDistribution) -> Any:
        if name in self._relative:
            return self._relative[name]
        if domain.single():
            return domain.to_external_repr(getattr(domain, "low", 0))
        return self._sampler.sample_independent(*self._asking, name, domain)


def _share(domain: Any, value: Any) -> float:
    """Where a value lies in its domain: in [0, 1], or the index of a choice (whole numbers)."""
    if isinstance(domain, CategoricalDistribution):
        return float(domain.to_internal_repr(value))
    scale: Callable[[float], float] = math.log if domain.log else float
    return (scale(value) - scale(domain.low)) / (scale(domain.high) - scale(domain.low))


def _distances(points: np.ndarray, point: Sequence[float]) -> np.ndarray:
    apart = np.minimum(np.abs(points - np.array(point)), 1.0)
    one_has_it = np.isnan(points) != np.isnan(point)
    return np.asarray(np.where(one_has_it, 1.0, np.nan_to_num(apart) ** 2).sum(axis=1) ** 0.5)
