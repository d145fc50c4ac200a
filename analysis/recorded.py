"""Trials as a tracking store has them, and the studies that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.errors import FrontError
from analysis.intervals import wilson
from spaces.metrics import METRICS, radius_metric

_EXACT: Mapping[str, Any] = {
    "bound": str,
    "split": str,
    "num_examples": int,
    "num_unknown": int,
    "seconds": float,
}


@dataclass(frozen=True)
class Trial:
    """One recorded trial: a child run of its study's run.

    `number` is its place in the study, from 0; `metrics` holds the last value of each metric of
    docs/contract.md, without those that are not finite; `started` is in milliseconds since 1970.
    """

    run_id: str
    number: int
    state: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    tracking_uri: str
    started: int = 0

    @property
    def runs(self) -> tuple[Trial, ...]:
        """The trials that its figures come from: itself, if it is not a group of several seeds."""
        return (self,)

    @property
    def study(self) -> str:
        """The name of its study."""
        return self.tags.get("goldenticket.study", "unknown")

    @property
    def bound(self) -> str:
        """The cascade of bounds behind its verified accuracy."""
        return self.tags.get("goldenticket.bound", "unknown")

    @property
    def split(self) -> str:
        """The split on which it was measured."""
        return self.tags.get("goldenticket.split", "unknown")

    @property
    def radius(self) -> float | None:
        """The l-infinity radius of its verified accuracy, in data units; None if not recorded."""
        recorded = self.params.get("evaluation.radius")
        return None if recorded is None else float(recorded)

    @property
    def num_examples(self) -> int | None:
        """On how many examples it was measured; None if not recorded."""
        recorded = self.tags.get("goldenticket.num_examples")
        return None if recorded is None else int(recorded)

    @property
    def num_timeouts(self) -> int:
        """How many examples its verified accuracy left open for lack of time."""
        return int(self.tags.get("goldenticket.num_timeouts", 0))

    @property
    def provenance(self) -> str:
        """How its accuracies were obtained, for people."""
        examples = "an unknown number of" if self.num_examples is None else self.num_examples
        radius = "unknown" if self.radius is None else f"{self.radius:g}"
        return (
            f"{self.split} split, {examples} examples  ·  radius {radius} (l∞)  ·  "
            f"verified by {self.bound.replace('+', ' + ')}"
        )

    @property
    def exact(self) -> dict[str, str | int | float] | None:
        """How its exact_* metrics were obtained: bound, split, counts and seconds; or None."""
        tags = {name: self.tags.get(f"goldenticket.exact_{name}") for name in _EXACT}
        if any(tag is None for tag in tags.values()):
            return None
        return {name: _EXACT[name](tag) for name, tag in tags.items()}

    def counted(self, name: str) -> tuple[int, int] | None:
        """For an accuracy: of how many examples it is true, and of how many it was asked.

        None for other metrics, and where the number of examples is not recorded.
        """
        if name not in self.metrics or not is_accuracy(name):
            return None
        exact = self.exact if name in METRICS and METRICS[name].of_front else None
        num_examples = self.num_examples if exact is None else int(exact["num_examples"])
        if not num_examples:
            return None
        return round(self.metrics[name] * num_examples), num_examples

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % Wilson interval of an accuracy over its examples; None as in `counted`."""
        counted = self.counted(name)
        return None if counted is None else wilson(*counted)

    @property
    def method(self) -> str:
        """Its topology method."""
        return self.params.get("topology.method", "unknown")


@dataclass(frozen=True)
class StudyRecord:
    """All recorded trials of a study, completed or not, in their order.

    `unconfirmed` are run ids that were read in an index only: they are right unless such a run was
    removed from the store for good. `parts` are the studies that `together` has put into this one.
    """

    name: str
    tracking_uri: str
    run_ids: tuple[str, ...]
    trials: tuple[Trial, ...]
    objectives: tuple[str, ...] | None
    unconfirmed: frozenset[str] = field(default=frozenset(), compare=False)
    parts: tuple[StudyRecord, ...] = ()

    @classmethod
    def together(cls, studies: Sequence[StudyRecord]) -> StudyRecord:
        """Several studies as one: the trials of each after those of the one before."""
        if len(studies) == 1:
            return studies[0]
        return cls(
            name=", ".join(study.name for study in studies),
            tracking_uri=", ".join(dict.fromkeys(study.tracking_uri for study in studies)),
            run_ids=tuple(run_id for study in studies for run_id in study.run_ids),
            trials=tuple(trial for study in studies for trial in study.trials),
            objectives=studies[0].objectives,
            unconfirmed=frozenset().union(*(study.unconfirmed for study in studies)),
            parts=tuple(studies),
        )

    def count(self, state: str) -> int:
        """How many trials are in a state: completed, stopped or failed."""
        return sum(trial.state == state for trial in self.trials)

    def trial(self, run_id: str) -> Trial:
        """The trial with this run id; its first characters suffice when no other has them."""
        found = [trial for trial in self.trials if trial.run_id.startswith(run_id)]
        if len(found) == 1 and run_id:
            return found[0]
        if not found or not run_id:
            raise FrontError(
                f"study {self.name!r} has no run {run_id!r}: `goldenticket front "
                f"{self.name.replace(', ', ' ')}` lists the runs on the front"
            )
        raise FrontError(
            f"{len(found)} runs of study {self.name!r} start with {run_id!r}: give more of the id"
        )


def is_accuracy(name: str) -> bool:
    """Whether a metric is a share of the examples on which the trial was measured in the end."""
    return "accuracy" in name and (name in METRICS or name.startswith(radius_metric(0.0)[:-1]))
