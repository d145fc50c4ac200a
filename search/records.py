"""What is known of each trial and of a whole search, and who is told about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spaces.holes import Scalar
from spaces.study import StudyConfig
from spaces.trial import TrialConfig

if TYPE_CHECKING:
    from search.storage import Storage

TrialState = Literal["running", "paused", "interrupted", "completed", "stopped", "failed"]
"""paused: it waits at a rung, to be promoted or let go. interrupted: it lost its worker, or the
search ended before it did, and goes on from its checkpoint. The last three are final."""
INTERRUPTED = "interrupted: the search ended before this trial did"


@dataclass(frozen=True)
class TrialRecord:
    """One trial: what was tried and what came out so far.

    `metrics` holds the latest value of each metric, `provenance` how they were obtained (split,
    bound, radius, num_examples). `seconds` is the time that the trial itself took (training and
    measuring, as its worker measured it). `started` and `ended` are seconds since 1970 on the
    driver's clock: it starts when it is proposed or, once that is known, when its worker begins.
    `reason` says why it was stopped or has to wait, or is the traceback of its failure.
    `lost_workers` counts the processes that died under it. `config` is None when the parameters
    make no valid trial.
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
    lost_workers: int = 0

    @property
    def name(self) -> str:
        """`trial_7`: also the name of its ticket's folder."""
        return f"trial_{self.number}"


@dataclass(frozen=True)
class ExactVerdicts:
    """Exact verdicts on a trial's network: the same examples and radius as at the trial's end.

    Accuracies are fractions of `num_examples`; `num_unknown` of them were left open.
    """

    verified_accuracy: float
    falsified_accuracy_bound: float
    bound: str
    split: str
    num_examples: int
    num_unknown: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of docs/contract.md."""
        return {
            "exact_verified_accuracy": self.verified_accuracy,
            "exact_falsified_accuracy_bound": self.falsified_accuracy_bound,
        }

    @property
    def provenance(self) -> dict[str, str]:
        """How they were obtained, for tags."""
        return {
            "exact_bound": self.bound,
            "exact_split": self.split,
            "exact_num_examples": str(self.num_examples),
            "exact_num_unknown": str(self.num_unknown),
            "exact_seconds": f"{self.seconds:.1f}",
        }


@dataclass(frozen=True)
class SearchRun:
    """One search of a study; its folder holds the study file, the journal and the tickets."""

    study: StudyConfig
    folder: Path
    executor: Literal["ray", "local"]

    @property
    def storage(self) -> Storage | None:
        """Where the folder is kept too, when storage.path is an address."""
        from search.storage import storage_of  # noqa: PLC0415, as it takes pyarrow's time

        return storage_of(self.study, self.folder.name)

    @property
    def tickets(self) -> Path:
        """Where each completed trial leaves its ticket."""
        return self.folder / "tickets"

    def checkpoint(self, number: int) -> Path:
        """Where a trial that has not ended keeps its state."""
        return self.folder / "checkpoints" / f"trial_{number}.pt"


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    `front` holds the completed trials that satisfy all constraints and that no other such trial
    dominates. `tracking_run_id` is the study's MLflow run, `trial_run_ids` its children by number.
    `exact` has the exact verdicts on members of the front, by number, where there are any.
    `is_finished` is False when the search was paused, to go on later.
    """

    run: SearchRun
    records: tuple[TrialRecord, ...]
    front: tuple[TrialRecord, ...]
    tracking_run_id: str
    trial_run_ids: Mapping[int, str]
    exact: Mapping[int, ExactVerdicts] = field(default_factory=dict)
    is_finished: bool = True

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

    def on_cluster(self, told: str) -> None:
        """A running Ray cluster was joined: a line about it. Before all else."""

    def on_warm_start(self, told: Sequence[str]) -> None:
        """Trials of earlier studies were given to the sampler: a line for each study.

        Before on_study_start, and not when the search is resumed.
        """

    def on_trial_start(self, record: TrialRecord) -> None:
        """A trial is handed to a worker: one that was just proposed, or one that goes on."""

    def on_report(self, record: TrialRecord) -> None:
        """A trial finished an epoch; `record.metrics` and `record.epochs` are up to date."""

    def on_trial_pause(self, record: TrialRecord) -> None:
        """A trial waits: `record.state` is paused or interrupted, `record.reason` says why."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """A trial ended: `record.state` is completed, stopped or failed."""

    def on_study_end(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """The search is over, or was interrupted."""

    def on_certify_start(
        self,
        known: Mapping[int, ExactVerdicts],
        members: Sequence[TrialRecord],
        budget_s: float,
    ) -> None:
        """Exact verdicts will be sought for `members` of the front; `known` were found before."""

    def on_certified(self, record: TrialRecord, found: ExactVerdicts | str) -> None:
        """Exact verdicts on a member of the front, or why there are none."""

    def on_certify_end(self) -> None:
        """No more exact verdicts will be sought: all are found, or a person interrupts."""
