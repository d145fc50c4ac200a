"""The observer of a search that keeps its MLflow store up to date."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence

from search.records import ExactVerdicts, Observer, SearchRun, TrialRecord
from search.tracking.backlog import Backlog, End, Exact
from search.tracking.opening import open_search
from search.tracking.runs import SearchRuns
from search.tracking.trial_run import ENDS, Point
from search.tracking.update import Update

_NAMED = 10  # trials in a message


class MlflowTracker(Observer):
    """Writes a search to the MLflow store at `uri`, in the background; driver only.

    `run_id` is the search's run, `trial_run_ids` its children by trial number; the latter is
    complete once the search has ended. Raises ConfigError at the start of a search when the store
    cannot be opened; later, a store that is away costs a warning and no trial.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.run_id = ""
        self.trial_run_ids: dict[int, str] = {}
        self.backlog = Backlog()
        self._runs: SearchRuns
        self._update: Update
        self._records: dict[int, TrialRecord] = {}

    def on_study_start(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Open the store and the search's run; note which of its trials are missing there."""
        self._run = run
        self._runs = open_search(self.uri, run)
        self.run_id, self.trial_run_ids = self._runs.run_id, self._runs.trial_run_ids
        self._update = Update(run.study, self.backlog, self._runs, self.uri)
        for record in records:
            self._update.front.add(record)
            if not self._runs.has_ended(record.number):
                self.backlog.add(record)

    def on_trial_start(self, record: TrialRecord) -> None:
        """Note a trial that begins or goes on."""
        self.backlog.add(record)
        self._update.writer.wake()

    def on_report(self, record: TrialRecord) -> None:
        """Note the metrics of an epoch; they are written a few seconds' worth at a time."""
        self.backlog.add(record, Point(record.epochs, _now(), record.metrics))
        self._update.writer.wake()

    def on_trial_pause(self, record: TrialRecord) -> None:
        """Note that the trial waits."""
        self.backlog.add(record)
        self._update.writer.wake()

    def on_trial_end(self, record: TrialRecord) -> None:
        """Note the trial's end; its ticket and what it changes on the front follow from it."""
        self.backlog.add(record)
        self._update.writer.wake()

    def on_study_end(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Write everything, the order of the trials too, and end the search's run."""
        self._records = {record.number: record for record in records}
        for record in records:
            if record.state in ENDS and not self._runs.has_ended(record.number):
                self.backlog.add(record)
        self.backlog.end = End(tuple(records), _now())
        self.flush()

    def on_certify_start(
        self,
        known: Mapping[int, ExactVerdicts],
        members: Sequence[TrialRecord],
        budget_s: float,
    ) -> None:
        """Note exact verdicts of an earlier part of this search that the store lacks."""
        for number in known.keys() - self._runs.exact:
            self.backlog.exact[number] = Exact(self._records[number], known[number], _now())

    def on_certified(self, record: TrialRecord, found: ExactVerdicts | str) -> None:
        """Note exact verdicts, or why there are none, on a trial that has ended."""
        self.backlog.exact[record.number] = Exact(record, found, _now())
        self._update.writer.wake()

    def on_certify_end(self) -> None:
        """Write what is left of the exact verdicts."""
        self.flush()

    def flush(self) -> None:
        """Write everything that is noted; warn of what the store does not take.

        Waits as long as that makes progress, and a minute at most while the store is away.
        """
        self._update.writer.flush()
        records = sorted(self.backlog.records(), key=lambda record: record.number)
        missing = [record.name for record in records[:_NAMED]]
        if len(records) > _NAMED:
            missing.append(f"{len(records) - _NAMED} more trials")
        if self.backlog.exact:
            missing.append(f"exact verdicts on {len(self.backlog.exact)} trials")
        if self.backlog.end is not None:
            missing.append("the end of the search")
        if missing:
            warnings.warn(
                f"MLflow at {self.uri} lacks {', '.join(missing)}. All records are safe in "
                f"{self._run.folder}: `goldenticket search STUDY --resume` writes what is missing",
                RuntimeWarning,
                stacklevel=2,
            )


def _now() -> int:
    return int(time.time() * 1000)
