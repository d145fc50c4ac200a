"""The MLflow runs of one search: its own, and one in it for each trial."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from mlflow.entities import Metric, Run, RunTag
from mlflow.tracking import MlflowClient

from analysis.recorded import Trial
from analysis.store import children, read_index, trial_of
from analysis.trial_index import INDEX, INDEX_TAG, PARETO, from_row, pack, to_row
from analysis.version import code_version
from search.records import ExactVerdicts, SearchRun, TrialRecord
from search.tracking.trial_run import ENDS, MAX_VALUE, Point, TrialRun, tags_of


class SearchRuns:
    """Writes to the runs of one search, and knows what they hold.

    Each method may be called again after it has failed, whether or not the store has done what it
    was asked for: no run is made twice and no point of a metric is written twice.
    """

    def __init__(self, client: MlflowClient, uri: str, search: SearchRun, run: Run) -> None:
        self._client, self._uri, self._search = client, uri, search
        self._experiment, self.run_id = run.info.experiment_id, run.info.run_id
        self.trial_run_ids: dict[int, str] = {}
        self.members: set[int] = set()  # trials that are tagged as on the front
        self.exact: set[int] = set()  # trials that have exact verdicts
        self._open: dict[int, TrialRun] = {}
        # Those that have ended are kept as lines of the index, a tenth of what objects would take.
        self._ended: dict[int, bytes] = {}
        self._unanswered: set[int] = set()  # the store may have made their run without our knowing
        self._has_index = run.data.tags.get(INDEX_TAG) == INDEX
        self._adopt(run)

    @property
    def unfinished(self) -> list[int]:
        """The trials whose end the store does not have, though it has a run of theirs."""
        return list(self._open)

    @property
    def num_ended(self) -> int:
        """How many trials the store has with their ends."""
        return len(self._ended)

    def has_ended(self, number: int) -> bool:
        """Whether the store has all of a trial, its end included."""
        return number in self._ended

    def write(self, record: TrialRecord, points: Iterable[Point], member: bool) -> None:
        """Make a trial's run say what is known of the trial, and create it if need be."""
        number = record.number
        if number in self._ended:  # it goes on after all
            self.distrust_index()
            self._open[number] = TrialRun(self._trial(number), "FINISHED")
            del self._ended[number]
        if number not in self._open:
            self._open[number] = self._create(record, member)
            self.trial_run_ids[number] = self._open[number].run_id
        trial_run = self._open[number]
        trial_run.write(self._client, record, points, member)
        self._note_member(number, member)
        if record.state in ENDS:
            self._ended[number] = to_row(trial_run.trial())
            del self._open[number]

    def mark(self, number: int, member: bool) -> None:
        """Tag a trial that has ended as on the front or not."""
        tags = {PARETO: "true" if member else "false"}
        self._client.set_tag(self.trial_run_ids[number], PARETO, tags[PARETO])
        self._amend(number, {}, tags)
        self._note_member(number, member)

    def rank(self, number: int, rank: int, now: int) -> None:
        """Write the rank of a trial that has ended, unless its run has it."""
        if self._trial(number).metrics.get("pareto_rank") == rank:
            return
        self.distrust_index()
        metrics = [Metric("pareto_rank", rank, now, 0)]
        self._client.log_batch(self.trial_run_ids[number], metrics=metrics)
        self._amend(number, {"pareto_rank": float(rank)}, {})

    def add_exact(self, record: TrialRecord, found: ExactVerdicts | str, now: int) -> None:
        """Add exact verdicts, or why there are none, to a trial that has ended."""
        if isinstance(found, str):
            metrics, texts = {}, {"exact_problem": found[:MAX_VALUE]}
        else:
            metrics, texts = found.metrics, found.provenance
        tags = {f"goldenticket.{name}": text for name, text in texts.items()}
        self._client.log_batch(
            self.trial_run_ids[record.number],
            metrics=[Metric(name, value, now, record.epochs) for name, value in metrics.items()],
            tags=[RunTag(*tag) for tag in tags.items()],
        )
        self._amend(record.number, metrics, tags)
        if metrics:
            self.exact.add(record.number)

    def wait(self, number: int) -> None:
        """Say that nobody works on a trial that has not ended, until the search is resumed."""
        self._open[number].wait(self._client)

    def end(self, records: Iterable[TrialRecord], now: int) -> None:
        """Write how the search ended; `now` is in milliseconds since 1970."""
        states = [str(record.state) for record in records]
        counts = {f"num_{state}": states.count(state) for state in ENDS}
        counts["front_size"] = len(self.members)
        metrics = [Metric(name, value, now, len(states)) for name, value in counts.items()]
        self._client.log_batch(self.run_id, metrics=metrics)
        for number in sorted(self._unanswered & self.trial_run_ids.keys()):
            self._delete_others(number)
        status = "FINISHED" if set(states) <= ENDS.keys() else "KILLED"
        self._client.set_terminated(self.run_id, status, now)

    def write_index(self, unwritten: Iterable[TrialRecord]) -> None:
        """Write the trials that have ended to the index; `unwritten` are not in the store yet."""
        starts = [trial_run.started for trial_run in self._open.values()]
        starts += [int(record.started * 1000) for record in unwritten]
        since = min([*starts, int(time.time() * 1000)]) - 1000  # one may be starting right now
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / INDEX
            path.write_bytes(pack(self._ended.values(), since))
            self._client.log_artifact(self.run_id, str(path))
        if not self._has_index:
            self._client.set_tag(self.run_id, INDEX_TAG, INDEX)
            self._has_index = True

    def distrust_index(self) -> None:
        """Before runs change that are in the index: nobody must rely on it until it is new."""
        if self._has_index:
            self._client.set_tag(self.run_id, INDEX_TAG, "")
            self._has_index = False

    def probe(self) -> None:
        """Write something small; raises when the store takes nothing at all."""
        self._client.set_tag(self.run_id, "goldenticket.written", f"{time.time():.3f}")

    def _adopt(self, run: Run) -> None:
        """Learn which runs an earlier part of this search has made, and what they hold."""
        index = read_index(self._client, run, self._uri)
        self.distrust_index()  # this driver's clock may be behind that of the earlier one
        for trial in index.trials.values() if index else ():
            self._adopt_ended(trial)
        since = f"attributes.start_time >= {index.since}" if index else ""
        for child in children(self._client, run, since):
            trial = trial_of(child, self._uri)
            if self.trial_run_ids.get(trial.number, trial.run_id) != trial.run_id:
                self._unanswered.add(trial.number)  # made twice, by a driver that got no answer
            if child.info.status in ENDS.values():
                self._adopt_ended(trial)
            elif trial.number not in self.trial_run_ids:
                self.trial_run_ids[trial.number] = trial.run_id
                self._open[trial.number] = TrialRun(trial, child.info.status)
        for child in children(self._client, run, f"tags.{PARETO} = 'true'"):
            self.members.add(trial_of(child, self._uri).number)

    def _adopt_ended(self, trial: Trial) -> None:
        self.trial_run_ids[trial.number] = trial.run_id
        self._open.pop(trial.number, None)
        self._ended[trial.number] = to_row(trial)
        if trial.exact is not None:
            self.exact.add(trial.number)

    def _create(self, record: TrialRecord, member: bool) -> TrialRun:
        number = record.number
        is_first = number not in self._unanswered
        if not is_first and (found := self._runs_of(number)):
            return TrialRun(trial_of(found[0], self._uri), found[0].info.status)
        self._unanswered.add(number)
        tags = {
            "goldenticket.study": self._search.study.name,
            "goldenticket.version": code_version(),
            "mlflow.parentRunId": self.run_id,
            "goldenticket.number": str(number),
            **tags_of(record, member),
        }
        started = int(record.started * 1000)
        created = self._client.create_run(self._experiment, started, tags, record.name)
        if is_first:  # else an earlier request may still be carried out: see `end`
            self._unanswered.discard(number)
        return TrialRun(trial_of(created, self._uri), created.info.status)

    def _runs_of(self, number: int) -> list[Run]:
        query = (
            f"tags.mlflow.parentRunId = '{self.run_id}' and tags.goldenticket.number = '{number}'"
        )
        return list(self._client.search_runs([self._experiment], query))

    def _delete_others(self, number: int) -> None:
        """Delete a trial's runs that a server made after it had been given up."""
        for run in self._runs_of(number):
            if run.info.run_id != self.trial_run_ids[number]:
                self._client.delete_run(run.info.run_id)
        self._unanswered.discard(number)

    def _trial(self, number: int) -> Trial:
        return from_row(self._ended[number], self._uri)

    def _amend(self, number: int, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        trial = self._trial(number)
        changed = replace(trial, metrics={**trial.metrics, **metrics}, tags={**trial.tags, **tags})
        self._ended[number] = to_row(changed)

    def _note_member(self, number: int, member: bool) -> None:
        (self.members.add if member else self.members.discard)(number)
