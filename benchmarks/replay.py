"""Searches replayed on the recorded table: what would have been found, at what cost, in no time.

Something proposes trainings of the table (benchmarks/proposals.py), and what each measured is shown
epoch by epoch to the stopping rule. Workers run side by side on a clock of recorded seconds, so
that a rule decides on what it would have known.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from recorded import CURVE
from rows import read

from analysis.pareto import hypervolume
from spaces import StudyConfig

Metrics = Mapping[str, float]
Rule = Callable[[int, int, Metrics], bool]
"""Called with a trial, an epoch and what was known after it: whether the trial goes on."""


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


class Proposer(Protocol):
    """What proposes the trials of a replayed search, and learns from them."""

    def ask(self) -> tuple[int, Training] | None:
        """Number and training of a new trial; None when the table is used up."""
        ...

    def tell(self, ended: Ended) -> None:
        """What became of a trial."""
        ...


def replay(
    proposer: Proposer,
    rule: Rule,
    *,
    promoted: Callable[[Collection[int]], int | None] | None = None,
    workers: int = 2,
    max_epochs: int,
) -> list[Ended]:
    """Search until `max_epochs` have been spent; the trials in the order in which they ended.

    With `promoted`, a trial that does not go on waits instead of ending; it is called with those
    that wait, and the trial that it names goes on before a new one is asked for.
    """
    events: list[tuple[float, int, int, Training]] = []  # clock, trial, epoch, training
    waiting: dict[int, tuple[int, Training]] = {}
    ended: list[Ended] = []

    def start(clock: float) -> None:
        number = promoted(waiting.keys()) if promoted and waiting else None
        if number is not None:
            epoch, training = waiting.pop(number)
        elif (asked := proposer.ask()) is not None:
            epoch, (number, training) = 0, asked
        else:
            return
        following = clock + training.epochs[epoch]["seconds"]
        heapq.heappush(events, (following, number, epoch + 1, training))

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
        if promoted and not is_last:
            waiting[number] = (epoch, training)
        else:
            state: Literal["completed", "stopped"] = "completed" if is_last else "stopped"
            ended.append(Ended(number, training, state, epoch, spent, clock))
            proposer.tell(ended[-1])
        start(clock)
    raise AssertionError


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
                yield trial, self.share(known)

    def share(self, trainings: Sequence[Training]) -> float:
        """The share that these reach, as far as they are feasible."""
        return self._volume(trainings) / self._all

    def saved(self, flops: float) -> float:
        """Where FLOPs lie: 0 is the table's most, 1 its least."""
        bounded = max(math.log(flops), self._low) if flops > 0 else self._low
        return (self._high - bounded) / (self._high - self._low)

    def _volume(self, trainings: Sequence[Training]) -> float:
        points = [self._values(t.metrics) for t in trainings if self._is_feasible(t)]
        return hypervolume(points, ["maximize"] * 3, [0.0, 0.0, 0.0])

    def _values(self, metrics: Metrics) -> list[float]:
        saved = self.saved(metrics["inference_flops"])
        return [metrics["natural_accuracy"], metrics["verified_accuracy"], saved]

    def _is_feasible(self, training: Training) -> bool:
        return all(c.violation(training.metrics) <= 0.0 for c in self._study.constraints)


def reached(curve: Sequence[tuple[Ended, float]], epochs: int) -> float:
    """The share of the hypervolume that had been reached after so many epochs."""
    return max((share for trial, share in curve if trial.spent <= epochs), default=0.0)
