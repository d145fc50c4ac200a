"""What is known of each trial and of a whole search, and who is told about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spaces.holes import Scalar
from spaces.study import StudyConfig
from spaces.trial import TrialConfig

TrialState = Literal["running", "completed", "stopped", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """One trial: what was tried and what came out so far.

    `metrics` holds the latest value of each metric, `provenance` how they were obtained (split,
    bound, radius, num_examples). `seconds` is the time that the trial itself took (training and
    measuring, as its worker measured it). `started` and `ended` are seconds since 1970 on the
    driver's clock: it starts when it is proposed or, once that is known, when its worker begins.
    `reason` says why it was stopped, or is the traceback of its failure. An `interrupted` trial was
    stopped by a person, not by a rung: a resumed search runs another one.
    `config` is None when the parameters make no valid trial.
    """

    number: int
    params: Mapping[str, Scalar]
    config: TrialConfig | None
    started: float
    state: TrialState = "running"
    epochs: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    ended: float | None = None
    ticket: Path | None = None
    reason: str | None = None
    interrupted: bool = False

    @property
    def name(self) -> str:
        """`trial_7`: also the name of its ticket's folder."""
        return f"trial_{self.number}"


@dataclass(frozen=True)
class SearchRun:
    """One search of a study; its folder holds the study file, the journal and the tickets."""

    study: StudyConfig
    folder: Path
    executor: Literal["ray", "local"]

    @property
    def tickets(self) -> Path:
        """Where each completed trial leaves its ticket."""
        return self.folder / "tickets"


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    `front` holds the completed trials that satisfy all constraints and that no other such trial
    dominates. `tracking_run_id` is the study's MLflow run, `trial_run_ids` its children by number.
    """

    run: SearchRun
    records: tuple[TrialRecord, ...]
    front: tuple[TrialRecord, ...]
    tracking_run_id: str
    trial_run_ids: Mapping[int, str]

    @property
    def study(self) -> StudyConfig:
        """The study that was searched."""
        return self.run.study

    def count(self, state: TrialState) -> int:
        """How many trials are in a state."""
        return sum(record.state == state for record in self.records)


class Observer:
    """Told of everything that happens in a search, in the driver only; override what you need.

    Both executors cause the same events. An exception from an observer ends the search.
    """

    def on_study_start(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """A search begins; `records` are the finished trials of a search that is resumed."""

    def on_trial_start(self, record: TrialRecord) -> None:
        """A trial was proposed and is handed to a worker."""

    def on_report(self, record: TrialRecord) -> None:
        """A trial finished an epoch; `record.metrics` and `record.epochs` are up to date."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """A trial ended: `record.state` is completed, stopped or failed."""

    def on_study_end(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """The search is over, or was interrupted."""
