"""Multi-objective early stopping as a Ray Tune scheduler, for a Tuner of your own.

A search of a study does not use it: there the ledger asks the same rule, whatever the executor.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from ray.tune import Callback  # its state is restored, a scheduler's is not
from ray.tune.schedulers import FIFOScheduler

from search.rungs import ParetoRule
from spaces.base import ConfigError

Mode = Literal["min", "max"]


class MoashaScheduler(FIFOScheduler):
    """Stops a trial at a rung unless it is among the best there on several metrics.

    `metrics` says of each whether "min" or "max" is better. Those in `static` are known from the
    start of a trial and barely move (FLOPs, parameters): trials are compared with others of like
    cost. `limits` are the worst values allowed of static metrics: a trial beyond one comes after
    all others. Rungs lie at `grace_period * reduction_factor^k` of `time_attr`, which trials report
    themselves, since Ray's own counter starts anew when a trial is restored; at `max_t` a trial
    ends. A trial that reports NaN, or not every metric, at a rung ends there.

        rule = MoashaScheduler({"accuracy": "max", "flops": "min"}, static=("flops",), max_t=27)
        Tuner(..., TuneConfig(scheduler=rule), RunConfig(callbacks=[rule.keeper()]))

    Give no metric to TuneConfig. `Tuner.restore` forgets what a scheduler knows: `keeper()` makes
    the callback that brings the rungs back.
    """

    def __init__(
        self,
        metrics: Mapping[str, Mode],
        *,
        static: Collection[str] = (),
        limits: Mapping[str, float] | None = None,
        time_attr: str = "epoch",
        max_t: int,
        grace_period: int = 3,
        reduction_factor: int = 3,
        brackets: int = 1,
    ) -> None:
        super().__init__()
        limits = dict(limits or {})
        _check(metrics, static, limits)
        _check_rungs(grace_period, reduction_factor, max_t, brackets)
        self._time_attr, self._max_t = time_attr, max_t
        self._rule = _OwnMetrics(
            metrics, static, limits, (grace_period, reduction_factor, max_t, brackets)
        )
        self._numbers: dict[str, int] = {}  # of trials, in the order in which they were added
        self._num_stopped = 0

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Give the trial a number, by which it gets its bracket; a restored trial keeps its own."""
        self._numbers.setdefault(trial.trial_id, len(self._numbers))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop or go on. A report without a time cannot be at a rung."""
        time = _finite(result.get(self._time_attr))
        if math.isnan(time):
            return str(self.CONTINUE)
        if time >= self._max_t:
            return str(self.STOP)
        number = self._numbers[trial.trial_id]
        if self._rule.decide(number, int(time), self._rule.view(result)) is None:
            return str(self.CONTINUE)
        self._num_stopped += 1
        return str(self.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Enter the last report of a trial that ended by itself, if it is the first at a rung."""
        time = _finite(result.get(self._time_attr))
        if time in self._rule.levels:
            self._rule.record(self._numbers[trial.trial_id], int(time), self._rule.view(result))

    def debug_string(self) -> str:
        """For Ray's own display."""
        rungs = ", ".join(map(str, self._rule.levels))
        return f"MOASHA: {self._num_stopped} trials stopped, rungs at {self._time_attr} {rungs}"

    def get_state(self) -> dict[str, Any]:
        """All that the rungs hold."""
        return {
            "rule": self._rule.state(),
            "numbers": dict(self._numbers),
            "stopped": self._num_stopped,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `get_state` gave."""
        self._rule.load_state(state["rule"])
        self._numbers, self._num_stopped = dict(state["numbers"]), state["stopped"]

    def save(self, checkpoint_path: str) -> None:
        """Write the rungs to a file."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.get_state()))

    def restore(self, checkpoint_path: str) -> None:
        """Read them; pickle runs code that a file holds, so the file must be one of your own."""
        self.set_state(pickle.loads(Path(checkpoint_path).read_bytes()))

    def keeper(self) -> Callback:
        """A callback that makes the rungs part of what Ray saves of an experiment."""
        return _Keeper(self)


class _Keeper(Callback):
    def __init__(self, scheduler: MoashaScheduler) -> None:
        self._scheduler = scheduler

    def get_state(self) -> dict[str, Any]:
        return self._scheduler.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._scheduler.set_state(state)


class _OwnMetrics(ParetoRule):
    """The rule on metrics that goldenticket does not know."""

    def __init__(
        self,
        metrics: Mapping[str, Mode],
        static: Collection[str],
        limits: Mapping[str, float],
        rungs: tuple[int, int, int, int],
    ) -> None:
        super().__init__(
            [name for name in metrics if name not in static],
            [name for name in metrics if name in static],
            *rungs,
        )
        self._signs = {name: -1.0 if mode == "max" else 1.0 for name, mode in metrics.items()}
        self._limits = limits

    def loss(self, name: str, metrics: Mapping[str, Any]) -> float:
        return self._signs[name] * _finite(metrics.get(name))

    def violation(self, metrics: Mapping[str, Any]) -> float:
        beyond = (
            self.loss(name, metrics) - self._signs[name] * limit
            for name, limit in self._limits.items()
        )
        return sum((value for value in beyond if not value <= 0.0), 0.0)


def _finite(value: Any) -> float:
    """A reported number; NaN for everything that is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _check(
    metrics: Mapping[str, str], static: Collection[str], limits: Mapping[str, float]
) -> None:
    if not isinstance(metrics, Mapping) or not metrics:
        raise ConfigError('metrics: must name at least one, for example {"accuracy": "max"}')
    if isinstance(static, str):
        raise ConfigError(f"static: {static!r} must be a collection of names: ({static!r},)")
    for name, mode in metrics.items():
        if mode not in ("min", "max"):
            raise ConfigError(f'metrics: {name} is {mode!r}, but must be "min" or "max"')
    for name in static:
        if name not in metrics:
            raise ConfigError(f"static: {name} is none of the metrics: {', '.join(metrics)}")
    for name, limit in limits.items():
        if math.isnan(_finite(limit)):
            raise ConfigError(f"limits: {name}: {limit!r} must be a finite number")
        if name not in static:
            raise ConfigError(
                f"limits: {name} is not static: what training still improves cannot be held "
                "against a trial at a rung"
            )


def _check_rungs(grace_period: int, reduction_factor: int, max_t: int, brackets: int) -> None:
    options = {
        "grace_period": (grace_period, 1),
        "reduction_factor": (reduction_factor, 2),
        "max_t": (max_t, 2),
        "brackets": (brackets, 1),
    }
    for name, (value, least) in options.items():
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: {value!r} must be a whole number of at least {least}")
    if (first := grace_period * reduction_factor ** (brackets - 1)) >= max_t:
        raise ConfigError(
            f"grace_period: {grace_period} with {brackets} brackets has a first rung at {first}, "
            f"not below max_t ({max_t}): no trial could be stopped there"
        )
