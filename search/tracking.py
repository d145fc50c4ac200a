"""The one MLflow writer: a run for each search, and in it one for each trial.

MLflow is a copy of what the ledger knows, made for people to look at: when it cannot be written to
in mid-search, a warning says so and the search goes on; what is missing is filled in at the end, or
when the search is resumed.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.store import EXPERIMENT, limit_waiting
from analysis.version import code_version
from search.ranking import pareto_ranks
from search.records import ExactVerdicts, Observer, SearchRun, TrialRecord
from spaces.base import ConfigError
from spaces.trial import flatten

_MAX_PARAMS = 100  # of one batch, by MLflow's own limit
_MAX_VALUE = 500  # characters of a parameter that every MLflow store takes
_FLUSH_S = 5.0  # a batch costs some 7 ms whatever its size: epochs are written together
_STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker(Observer):
    """Writes a search to the MLflow store at `uri`, driver only.

    `run_id` is the search's run, `trial_run_ids` its children by trial number. Raises ConfigError
    at the start of a search when the store cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri = uri
        self.run_id = ""
        self.trial_run_ids: dict[int, str] = {}
        self._client: MlflowClient
        self._records: dict[int, TrialRecord] = {}
        self._written: set[int] = set()  # trials whose end is in the store
        self._front: set[int] = set()
        self._exact: set[int] = set()  # trials whose exact verdicts are in the store
        self._pending: dict[int, list[Metric]] = {}
        self._flushed: dict[int, float] = {}

    def on_study_start(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Open the store, its experiment and the search's run; fill in what is missing."""
        self._run = run
        try:
            limit_waiting()
            self._client = MlflowClient(tracking_uri=self.uri)
            self._experiment = self._open_experiment()
            self._open_run()
        except (MlflowException, OSError) as error:
            raise ConfigError(
                f"tracking.uri: {self.uri} cannot be written to ({error}): check the address, or "
                "give another one by --tracking-uri"
            ) from error
        self._records = {record.number: record for record in records}
        with self._or_warn("the earlier trials"):
            self._write_missing()

    def on_trial_start(self, record: TrialRecord) -> None:
        """Create the trial's run with its configuration as parameters."""
        self._records[record.number] = record
        with self._or_warn(f"the start of {record.name}"):
            if record.number in self.trial_run_ids:  # it goes on
                self._tag_state(record)
            else:
                self._create(record)

    def on_report(self, record: TrialRecord) -> None:
        """Note the metrics of an epoch; they are written a few seconds' worth at a time."""
        self._records[record.number] = record
        now = time.time()
        self._pending.setdefault(record.number, []).extend(
            Metric(name, value, int(now * 1000), record.epochs)
            for name, value in record.metrics.items()
        )
        if now - self._flushed.get(record.number, record.started) > _FLUSH_S:
            with self._or_warn(f"the metrics of {record.name}"):
                self._flush(record.number)

    def on_trial_pause(self, record: TrialRecord) -> None:
        """Tag the trial with its state."""
        self._records[record.number] = record
        with self._or_warn(f"the state of {record.name}"):
            self._tag_state(record)

    def on_trial_end(self, record: TrialRecord) -> None:
        """Write the trial's end, its ticket and what it changed on the front."""
        self._records[record.number] = record
        with self._or_warn(f"the end of {record.name}"):
            self._finish(record)
            if record.state == "completed":
                self._mark_front()

    def on_study_end(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Write the order of the trials, and end the search's run."""
        self._records = {record.number: record for record in records}
        with self._or_warn("the end of the search"):
            self._write_missing()
            ranks = self._mark_front()
            for number, rank in ranks.items():
                self._client.log_metric(self.trial_run_ids[number], "pareto_rank", rank)
            states = [record.state for record in records]
            now = int(time.time() * 1000)
            counts = {f"num_{s}": states.count(s) for s in ("completed", "stopped", "failed")}
            counts["front_size"] = len(self._front)
            metrics = [Metric(name, value, now, len(records)) for name, value in counts.items()]
            self._client.log_batch(self.run_id, metrics=metrics)
            self._client.set_terminated(self.run_id, "FINISHED")

    def on_certify_start(
        self,
        known: Mapping[int, ExactVerdicts],
        members: Sequence[TrialRecord],
        budget_s: float,
    ) -> None:
        """Fill in exact verdicts of an earlier part of this search."""
        for number in known.keys() - self._exact:
            self.on_certified(self._records[number], known[number])

    def on_certified(self, record: TrialRecord, found: ExactVerdicts | str) -> None:
        """Add exact verdicts, or why there are none, to a trial that has ended."""
        with self._or_warn(f"the exact verdicts on {record.name}"):
            if isinstance(found, str):
                tags, metrics = {"exact_problem": found[:_MAX_VALUE]}, []
            else:
                now = int(time.time() * 1000)
                metrics = [Metric(k, v, now, record.epochs) for k, v in found.metrics.items()]
                tags = found.provenance
            self._client.log_batch(
                self.trial_run_ids[record.number],
                metrics=metrics,
                tags=[RunTag(f"goldenticket.{name}", text) for name, text in tags.items()],
            )
            if metrics:
                self._exact.add(record.number)

    def _open_experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            return str(self._client.create_experiment(EXPERIMENT, _artifact_location(self.uri)))
        if found.lifecycle_stage == "deleted":
            raise ConfigError(
                f"tracking.uri: the experiment {EXPERIMENT!r} in {self.uri} has been deleted: "
                f"restore it (`mlflow experiments restore -x {found.experiment_id}`) or use "
                "another store"
            )
        return str(found.experiment_id)

    def _open_run(self) -> None:
        """The run that an earlier part of this search wrote to, else a new one."""
        run, note = self._run, self._run.folder / "tracking.json"
        known = json.loads(note.read_text()) if note.exists() else {}
        if known.get("uri") == self.uri:
            self.run_id = known["run_id"]
            self._client.update_run(self.run_id, status="RUNNING")
            query = f"tags.mlflow.parentRunId = '{self.run_id}'"
            for child in self._client.search_runs([self._experiment], query, max_results=50_000):
                number = int(child.data.tags["goldenticket.number"])
                self.trial_run_ids[number] = child.info.run_id
                if child.info.status != "RUNNING":
                    self._written.add(number)
                if child.data.tags.get("goldenticket.pareto") == "true":
                    self._front.add(number)
                if "goldenticket.exact_bound" in child.data.tags:
                    self._exact.add(number)
            return
        tags = {
            **self._common_tags(),
            "goldenticket.objectives": ",".join(run.study.objectives),
            "goldenticket.seed": str(run.study.seed),
            "goldenticket.executor": run.executor,
            "goldenticket.folder": str(run.folder.absolute()),
        }
        created = self._client.create_run(self._experiment, tags=tags, run_name=run.study.name)
        self.run_id = created.info.run_id
        self._client.log_artifact(self.run_id, str(run.folder / "study.yaml"))
        note.write_text(json.dumps({"uri": self.uri, "run_id": self.run_id}) + "\n")

    def _common_tags(self) -> dict[str, str]:
        return {
            "goldenticket.study": self._run.study.name,
            "goldenticket.version": code_version(),
        }

    def _create(self, record: TrialRecord) -> None:
        tags = {
            **self._common_tags(),
            "mlflow.parentRunId": self.run_id,
            "goldenticket.number": str(record.number),
            "goldenticket.state": "running",
            "goldenticket.pareto": "false",
        }
        created = self._client.create_run(
            self._experiment, int(record.started * 1000), tags, record.name
        )
        run_id = self.trial_run_ids[record.number] = created.info.run_id
        values = record.params if record.config is None else flatten(record.config)
        texts = {name: str(value) for name, value in values.items()}
        params = [Param(name, _shortened(text)) for name, text in texts.items()]
        for first in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[first : first + _MAX_PARAMS])
        if any(len(text) > _MAX_VALUE for text in texts.values()):
            self._client.log_dict(run_id, texts, "params.json")

    def _tag_state(self, record: TrialRecord) -> None:
        run_id = self.trial_run_ids[record.number]
        self._client.set_tag(run_id, "goldenticket.state", record.state)

    def _flush(self, number: int) -> None:
        if metrics := self._pending.get(number):
            self._client.log_batch(self.trial_run_ids[number], metrics=metrics)
        self._pending.pop(number, None)
        self._flushed[number] = time.time()

    def _finish(self, record: TrialRecord) -> None:
        number, run_id = record.number, self.trial_run_ids[record.number]
        ended = int((record.ended or time.time()) * 1000)
        if number not in self._flushed and number not in self._pending:  # filled in afterwards
            self._pending[number] = [
                Metric(name, value, ended, record.epochs) for name, value in record.metrics.items()
            ]
        self._flush(number)
        tags = {f"goldenticket.{name}": value for name, value in record.provenance.items()}
        tags["goldenticket.state"] = record.state
        if record.reason is not None:
            tags["goldenticket.reason"] = record.reason.strip().splitlines()[-1][:_MAX_VALUE]
        self._client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
        if record.state == "failed" and record.reason is not None:
            self._client.log_text(run_id, record.reason, "traceback.txt")
        if record.ticket is not None:
            self._client.log_artifacts(run_id, str(record.ticket), "ticket")
        self._client.set_terminated(run_id, _STATUS[record.state], ended)
        self._written.add(number)

    def _write_missing(self) -> None:
        for number, record in self._records.items():
            if record.state in _STATUS and number not in self._written:
                if number not in self.trial_run_ids:
                    self._create(record)
                self._finish(record)

    def _mark_front(self) -> dict[int, int]:
        """Bring the tags of membership up to date; return the ranks."""
        ranks = pareto_ranks(self._run.study, self._records.values())
        front = {number for number, rank in ranks.items() if rank == 0}
        for number in front ^ self._front:
            member = "true" if number in front else "false"
            self._client.set_tag(self.trial_run_ids[number], "goldenticket.pareto", member)
        self._front = front
        return ranks

    @contextmanager
    def _or_warn(self, what: str) -> Iterator[None]:
        try:
            yield
        except (MlflowException, OSError, KeyError) as error:
            warnings.warn(
                f"MLflow at {self.uri} did not take {what}: {error}. The search goes on, and its "
                f"records are safe in {self._run.folder}; what is missing is written at the end, "
                "or by `goldenticket search --resume`",
                RuntimeWarning,
                stacklevel=2,
            )


def _artifact_location(uri: str) -> str | None:
    """Beside a SQLite file, so that `mlflow ui` needs no set-up; elsewhere the server decides."""
    if not uri.startswith("sqlite:///"):
        return None
    folder = Path(uri.removeprefix("sqlite:///")).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "mlartifacts").as_uri()


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."
