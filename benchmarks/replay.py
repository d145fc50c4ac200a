"""Searches replayed on the recorded table: what would have been found, at what cost, in no time.

A sampler proposes, its proposal is moved to the nearest training of the table that has not been
used yet, and what that training measured is shown epoch by epoch to the stopping rule. Workers run
side by side on a clock of recorded seconds, so that a rule decides on what it would have known.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from recorded import CURVE
from rows import read

from analysis.pareto import hypervolume
from search.samplers import distribution_of
from spaces import StudyConfig
from spaces.space import SearchSpace

Metrics = Mapping[str, float]
Rule = Callable[[int, int, Metrics], bool]
"""Called with a trial, an epoch and what was known after it: whether the trial goes on."""
Told = Callable[[Study, optuna.Trial, "Ended"], None]


@dataclass(frozen=True)
class Training:
    """A full training of the table; `epochs` has what was known after each, `seconds` included.

    `metrics` are its final figures, under the names of docs/contract.md; `seconds` is what
    measuring them took.
    """

    params: Mapping[str, Any]
    metrics: Metrics
    epochs: tuple[Metrics, ...]
    seconds: float


@dataclass(frozen=True)
class Ended:
    """A trial of a replayed search: `spent` is the epochs that all trials took until it ended.

    `clock` is the time then, in seconds from the start of the search.
    """

    number: int
    training: Training
    state: Literal["completed", "stopped"]
    epochs: int
    spent: int
    clock: float


def read_table(path: Path) -> tuple[Training, ...]:
    """The trainings that benchmarks/recorded.py wrote, without those that failed."""
    return tuple(
        Training(
            json.loads(row["params"]),
            {
                "natural_accuracy": float(row["natural"]),
                "verified_accuracy": float(row["verified"]),
                "inference_flops": float(row["inference_flops"]),
            },
            tuple(dict(zip(CURVE, epoch, strict=True)) for epoch in json.loads(row["curve"])),
            float(row["seconds"]),
        )
        for row in read(path)
        if not row["error"]
    )


def replay(
    table: Sequence[Training],
    study: StudyConfig,
    sampler: BaseSampler,
    rule: Rule,
    tell: Told,
    *,
    workers: int = 2,
    max_epochs: int,
) -> list[Ended]:
    """Search until `max_epochs` have been spent; the trials in the order in which they ended."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = study.search_space()
    picker = FromTable(table, space, sampler)
    asked = optuna.create_study(
        directions=[str(direction) for direction in study.directions],  # type: ignore[misc]
        sampler=picker,
    )
    trials: dict[int, optuna.Trial] = {}
    events: list[tuple[float, int, int, Training]] = []  # clock, trial, epoch, training
    ended: list[Ended] = []

    def start(clock: float) -> None:
        if len(picker.left) == 0:
            return
        trial = asked.ask()
        space.suggest(trial)
        trials[trial.number] = trial
        training = table[picker.chosen]
        heapq.heappush(events, (clock + training.epochs[0]["seconds"], trial.number, 1, training))

    for _ in range(workers):
        start(0.0)
    for spent in itertools.count(1):
        if spent > max_epochs or not events:
            return ended
        clock, number, epoch, training = heapq.heappop(events)
        is_last = epoch == len(training.epochs)
        if not is_last and rule(number, epoch, training.epochs[epoch - 1]):
            following = clock + training.epochs[epoch]["seconds"]
            heapq.heappush(events, (following, number, epoch + 1, training))
            continue
        clock += training.seconds if is_last else 0.0
        state: Literal["completed", "stopped"] = "completed" if is_last else "stopped"
        ended.append(Ended(number, training, state, epoch, spent, clock))
        tell(asked, trials.pop(number), ended[-1])
        start(clock)
    raise AssertionError


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


class Scale:
    """Hypervolume of completed feasible trials, as a share of what the whole table reaches.

    Accuracies count from 0 to 1, FLOPs by their logarithm from the table's largest to its
    smallest.
    """

    def __init__(self, table: Sequence[Training], study: StudyConfig) -> None:
        self._study = study
        flops = [training.metrics["inference_flops"] for training in table]
        self._low, self._high = math.log(min(flops)), math.log(max(flops))
        self._all = self._volume(table)

    def curve(self, ended: Sequence[Ended]) -> Iterator[tuple[Ended, float]]:
        """The share that was reached when each completed feasible trial had ended."""
        known: list[Training] = []
        for trial in ended:
            if trial.state == "completed" and self._is_feasible(trial.training):
                known.append(trial.training)
                yield trial, self._volume(known) / self._all

    def _volume(self, trainings: Sequence[Training]) -> float:
        points = [self._values(t.metrics) for t in trainings if self._is_feasible(t)]
        return hypervolume(points, ["maximize"] * 3, [0.0, 0.0, 0.0])

    def _values(self, metrics: Metrics) -> list[float]:
        flops = math.log(metrics["inference_flops"])
        saved = (self._high - flops) / (self._high - self._low)
        return [metrics["natural_accuracy"], metrics["verified_accuracy"], saved]

    def _is_feasible(self, training: Training) -> bool:
        return all(c.violation(training.metrics) <= 0.0 for c in self._study.constraints)


def reached(curve: Sequence[tuple[Ended, float]], epochs: int) -> float:
    """The share of the hypervolume that had been reached after so many epochs."""
    return max((share for trial, share in curve if trial.spent <= epochs), default=0.0)
