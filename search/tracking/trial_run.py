"""One trial's run in MLflow, as far as it is known, and how it is brought up to date."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from analysis.recorded import Trial
from analysis.store import finite
from analysis.trial_index import PARETO
from search.records import TrialRecord
from spaces.trial import flatten

MAX_VALUE = 500  # characters of a parameter that every MLflow store takes
_MAX_PARAMS, _MAX_METRICS = 100, 800  # of one batch; MLflow's limit is 1000 with tags and all
ENDS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_STATUS = {"running": "RUNNING", "paused": "SCHEDULED", "interrupted": "SCHEDULED", **ENDS}


@dataclass(frozen=True)
class Point:
    """The metrics of a trial after an epoch; `time` is in milliseconds since 1970."""

    epoch: int
    time: int
    metrics: Mapping[str, float]


class TrialRun:
    """The run of a trial that has not ended, or has not been seen to end, in the store.

    What is known to be in the store is not written again: parameters cannot be changed there, and
    of two equal points of a metric it would keep both.
    """

    def __init__(self, trial: Trial, status: str) -> None:
        self.run_id, self.number, self.started = trial.run_id, trial.number, trial.started
        self.status = status
        self._params, self._tags = dict(trial.params), dict(trial.tags)
        self._metrics = dict(trial.metrics)
        self._uri = trial.tracking_uri
        # A batch holds whole epochs, so that all points up to here have been written.
        self.epoch = int(trial.metrics.get("epoch", 0))

    def write(
        self, client: MlflowClient, record: TrialRecord, points: Iterable[Point], member: bool
    ) -> None:
        """Write what the run lacks; `member` says whether the trial is on the front now."""
        self._write_values(client, record, self._new(record, points), member)
        status = _STATUS[record.state]
        if record.state in ENDS:
            self._write_files(client, record)
            client.set_terminated(self.run_id, status, ended_at(record))
        elif status != self.status:
            client.update_run(self.run_id, status=status)
        self.status = status

    def wait(self, client: MlflowClient) -> None:
        """Say that nobody works on it, until the search is resumed."""
        if self.status == "RUNNING":
            client.update_run(self.run_id, status="SCHEDULED")
            self.status = "SCHEDULED"

    def trial(self) -> Trial:
        """What a reader of the store would find."""
        return Trial(
            run_id=self.run_id,
            number=self.number,
            state=self._tags["goldenticket.state"],
            metrics=finite(self._metrics),
            params=self._params,
            tags=self._tags,
            tracking_uri=self._uri,
            started=self.started,
        )

    def _new(self, record: TrialRecord, points: Iterable[Point]) -> list[Point]:
        new, last = [], self.epoch
        for point in points:
            if point.epoch > last:
                new.append(point)
                last = point.epoch
        has_none = not new and not self._metrics
        if record.state in ENDS and (record.epochs > last or has_none):
            # Its points ended with a driver that was killed, or with a search in an outage.
            new.append(Point(record.epochs, ended_at(record), record.metrics))
        return new

    def _write_values(
        self, client: MlflowClient, record: TrialRecord, points: list[Point], member: bool
    ) -> None:
        texts = parameters(record)
        missing = {k: shortened(v) for k, v in texts.items() if k not in self._params}
        if any(len(texts[name]) > MAX_VALUE for name in missing):
            client.log_dict(self.run_id, texts, "params.json")
        tags = {k: v for k, v in tags_of(record, member).items() if self._tags.get(k) != v}
        batches = list(zip_longest(_by_metrics(points), _by_hundred(missing), fillvalue=()))
        for place, (some, params) in enumerate(batches or [((), ())], start=1):
            is_last = place >= len(batches)
            client.log_batch(
                self.run_id,
                metrics=[metric for point in some for metric in _metrics(point)],
                params=[Param(*param) for param in params],
                tags=[RunTag(*tag) for tag in tags.items()] if is_last else (),
            )
            self._params.update(params)
            for point in some:
                self._metrics.update(point.metrics)
                self.epoch = point.epoch
        self._tags.update(tags)

    def _write_files(self, client: MlflowClient, record: TrialRecord) -> None:
        if record.state == "failed" and record.reason is not None:
            client.log_text(self.run_id, record.reason, "traceback.txt")
        if record.ticket is not None:
            client.log_artifacts(self.run_id, str(record.ticket), "ticket")


def parameters(record: TrialRecord) -> dict[str, str]:
    """What was tried, as MLflow has parameters: names and texts."""
    values = record.params if record.config is None else flatten(record.config)
    return {name: str(value) for name, value in values.items()}


def shortened(text: str) -> str:
    """As much of a text as a parameter or tag may hold."""
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def tags_of(record: TrialRecord, member: bool) -> dict[str, str]:
    """What becomes known of a trial: its state and, at its end, how its figures were obtained."""
    tags = {"goldenticket.state": str(record.state), PARETO: "true" if member else "false"}
    if record.state in ENDS:
        tags.update({f"goldenticket.{name}": text for name, text in record.provenance.items()})
        if reason := (record.reason or "").strip():
            tags["goldenticket.reason"] = reason.splitlines()[-1][:MAX_VALUE]
    return tags


def ended_at(record: TrialRecord) -> int:
    """When a trial ended, in milliseconds since 1970."""
    return int((record.ended or time.time()) * 1000)


def _metrics(point: Point) -> Iterator[Metric]:
    return (Metric(name, value, point.time, point.epoch) for name, value in point.metrics.items())


def _by_metrics(points: Iterable[Point]) -> Iterator[list[Point]]:
    """Whole epochs, as many as go into one batch."""
    some: list[Point] = []
    num_metrics = 0
    for point in points:
        if some and num_metrics + len(point.metrics) > _MAX_METRICS:
            yield some
            some, num_metrics = [], 0
        some.append(point)
        num_metrics += len(point.metrics)
    if some:
        yield some


def _by_hundred(params: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    items = list(params.items())
    for first in range(0, len(items), _MAX_PARAMS):
        yield items[first : first + _MAX_PARAMS]
