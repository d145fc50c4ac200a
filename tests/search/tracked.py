"""Trials told to a tracker by hand, and what its store then holds of them."""

from dataclasses import replace

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from search.records import TrialRecord
from search.tracking import MlflowTracker
from spaces import StudyConfig

METRICS = {
    "epoch": 3.0,
    "natural_accuracy": 0.9,
    "verified_accuracy": 0.7,
    "inference_flops": 1e6,
}


def trial(study: StudyConfig, number: int, **changes: object) -> TrialRecord:
    params = {"topology.method": "static", "topology.static.density": 0.5, "optimizer.lr": 0.01}
    config = study.search_space().decode(params)
    record = TrialRecord(number, params, config, started=1000.0)
    return replace(record, **changes)  # type: ignore[arg-type]


def history(tracker: MlflowTracker, number: int, name: str) -> list[tuple[int, float]]:
    """Epochs and values of all points of a metric."""
    found = MlflowClient(tracker.uri).get_metric_history(tracker.trial_run_ids[number], name)
    return sorted((metric.step, metric.value) for metric in found)


def report(tracker: MlflowTracker, record: TrialRecord, epoch: int) -> TrialRecord:
    metrics = {**METRICS, "epoch": float(epoch), "natural_accuracy": epoch / 10}
    record = replace(record, epochs=epoch, metrics=metrics)
    tracker.on_report(record)
    return record


def completed(tracker: MlflowTracker, record: TrialRecord, epochs: int = 3) -> TrialRecord:
    """Run a trial from its start to its end."""
    tracker.on_trial_start(record)
    for epoch in range(1, epochs + 1):
        record = report(tracker, record, epoch)
    record = replace(record, state="completed", ended=record.started + 10)
    tracker.on_trial_end(record)
    return record


def runs_in_store(tracker: MlflowTracker) -> dict[int, Run]:
    """The active runs of the trials; every trial has one."""
    return runs_of(tracker.uri, tracker.run_id)


def runs_of(uri: str, run_id: str) -> dict[int, Run]:
    """The same for any search."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("goldenticket").experiment_id
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")
    numbers = [int(found_run.data.tags["goldenticket.number"]) for found_run in found]
    assert len(set(numbers)) == len(numbers), f"trials with two runs among {sorted(numbers)}"
    return dict(zip(numbers, found, strict=True))


def epochs_in_store(tracker: MlflowTracker, number: int) -> list[int]:
    client = MlflowClient(tracker.uri)
    points = client.get_metric_history(tracker.trial_run_ids[number], "natural_accuracy")
    assert all(point.value == point.step / 10 for point in points)
    return sorted(point.step for point in points)
