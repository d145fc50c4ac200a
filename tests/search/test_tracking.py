"""What a search leaves in MLflow."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from toy_trials import toy_study
from tracked import METRICS, history, report, trial

from analysis import store as store_module
from analysis.store import limit_waiting
from search.records import SearchRun
from search.run import STUDY_FILE
from search.tracking import MlflowTracker
from spaces import ConfigError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def run(tmp_path: Path, store: str) -> SearchRun:
    study = toy_study(tmp_path, tracking={"uri": store}, constraints=["natural_accuracy >= 0.5"])
    (tmp_path / STUDY_FILE).write_text("name: toy\n")
    return SearchRun(study, tmp_path, "local")


def children(tracker: MlflowTracker) -> dict[int, Run]:
    """The trials' runs, once all that is noted has been written."""
    tracker.flush()
    client = MlflowClient(tracker.uri)
    return {n: client.get_run(run_id) for n, run_id in tracker.trial_run_ids.items()}


def ticket(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "ticket.json").write_text("{}")
    return folder


def test_a_search_and_its_trials_are_a_parent_and_children(run: SearchRun, tmp_path: Path) -> None:
    tracker = MlflowTracker(run.study.tracking.uri)
    tracker.on_study_start(run, [])
    started = trial(run.study, 0)
    tracker.on_trial_start(started)
    for epoch in (1, 2, 3):
        metrics = {**METRICS, "epoch": float(epoch)}
        tracker.on_report(replace(started, epochs=epoch, metrics=metrics))
    ended = replace(
        started,
        state="completed",
        epochs=3,
        metrics=METRICS,
        provenance={"bound": "ibp+crown", "split": "validation", "num_examples": "300"},
        ended=1010.0,
        ticket=ticket(tmp_path / "tickets" / "trial_0"),
    )
    tracker.on_trial_end(ended)
    failed = trial(run.study, 1)
    tracker.on_trial_start(failed)
    failed = replace(failed, state="failed", reason="Traceback\nValueError: boom", ended=1011.0)
    tracker.on_trial_end(failed)
    stopped = trial(run.study, 2)
    tracker.on_trial_start(stopped)
    stopped = replace(stopped, state="stopped", reason="rung_score 0.1 ...", ended=1011.0)
    tracker.on_trial_end(stopped)
    tracker.on_study_end(run, [ended, failed, stopped])

    client = MlflowClient(tracker.uri)
    parent = client.get_run(tracker.run_id)
    assert parent.info.run_name == "toy"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["goldenticket.study"] == "toy"
    objectives = "natural_accuracy,verified_accuracy,inference_flops"
    assert parent.data.tags["goldenticket.objectives"] == objectives
    assert parent.data.metrics["num_completed"] == 1
    assert [item.path for item in client.list_artifacts(tracker.run_id)] == [STUDY_FILE]
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.name == "goldenticket"

    done = children(tracker)[0]
    assert done.info.status == "FINISHED"
    assert (done.info.start_time, done.info.end_time) == (1_000_000, 1_010_000)
    assert done.data.params["topology.density"] == "0.5"
    assert done.data.params["evaluation.radius"] == "0.1"
    assert done.data.metrics["verified_accuracy"] == 0.7
    assert done.data.metrics["pareto_rank"] == 0
    tags = {k.removeprefix("goldenticket."): v for k, v in done.data.tags.items()}
    assert tags["mlflow.parentRunId"] == tracker.run_id
    assert tags["study"] == "toy"
    assert tags["number"] == "0"
    assert tags["state"] == "completed"
    assert tags["pareto"] == "true"
    assert tags["bound"] == "ibp+crown"
    assert tags["split"] == "validation"
    assert tags["version"]
    history = client.get_metric_history(done.info.run_id, "epoch")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    kept = [item.path for item in client.list_artifacts(done.info.run_id, "ticket")]
    assert kept == ["ticket/ticket.json"]

    bad = children(tracker)[1]
    assert bad.info.status == "FAILED"
    assert bad.data.tags["goldenticket.state"] == "failed"
    assert bad.data.tags["goldenticket.reason"] == "ValueError: boom"
    assert bad.data.tags["goldenticket.pareto"] == "false"
    assert [item.path for item in client.list_artifacts(bad.info.run_id)] == ["traceback.txt"]
    assert children(tracker)[2].info.status == "KILLED"


def test_membership_follows_the_front(run: SearchRun) -> None:
    tracker = MlflowTracker(run.study.tracking.uri)
    tracker.on_study_start(run, [])
    for number, flops in enumerate((3.0, 2.0)):
        tracker.on_trial_start(trial(run.study, number))
        metrics = {**METRICS, "inference_flops": flops}
        tracker.on_trial_end(trial(run.study, number, state="completed", metrics=metrics))
        if number == 0:
            assert children(tracker)[0].data.tags["goldenticket.pareto"] == "true"
    pareto = {n: r.data.tags["goldenticket.pareto"] for n, r in children(tracker).items()}
    assert pareto == {0: "false", 1: "true"}


def test_a_resumed_search_goes_on_in_the_same_run_and_fills_in_what_is_missing(
    run: SearchRun,
) -> None:
    first = MlflowTracker(run.study.tracking.uri)
    first.on_study_start(run, [])
    first.on_trial_start(trial(run.study, 0))
    first.on_trial_end(trial(run.study, 0, state="completed", metrics=METRICS))
    first.on_trial_start(trial(run.study, 1))
    first.flush()  # then the process was killed

    records = [
        trial(run.study, 0, state="completed", metrics=METRICS),
        trial(run.study, 1, state="stopped", reason="stopped by a person"),
        trial(run.study, 2, state="completed", metrics=METRICS, epochs=3),  # MLflow was away
    ]
    second = MlflowTracker(run.study.tracking.uri)
    second.on_study_start(run, records)
    second.flush()
    assert second.run_id == first.run_id
    runs = children(second)
    assert runs[0].info.run_id == first.trial_run_ids[0]
    assert [runs[n].info.status for n in (0, 1, 2)] == ["FINISHED", "KILLED", "FINISHED"]
    assert runs[2].data.metrics["verified_accuracy"] == 0.7


def test_a_long_parameter_is_shortened_and_kept_whole_beside(run: SearchRun) -> None:
    tracker = MlflowTracker(run.study.tracking.uri)
    tracker.on_study_start(run, [])
    widths = (64,) * 300
    record = trial(run.study, 0)
    assert record.config is not None
    model = record.config.model.model_copy(update={"widths": widths})
    config = record.config.model_copy(update={"model": model})
    tracker.on_trial_start(replace(record, config=config))
    child = children(tracker)[0]
    assert len(child.data.params["model.widths"]) == 500
    assert child.data.params["model.widths"].endswith("...")
    client = MlflowClient(tracker.uri)
    assert [i.path for i in client.list_artifacts(child.info.run_id)] == ["params.json"]


def test_an_address_that_cannot_be_opened_is_an_error_that_names_it(run: SearchRun) -> None:
    tracker = MlflowTracker("sqlite:////proc/nowhere/mlflow.db")
    with pytest.raises(ConfigError, match=r"tracking.uri: sqlite:////proc/nowhere/mlflow.db"):
        tracker.on_study_start(run, [])


def test_a_server_that_is_not_there_is_an_error_within_seconds(run: SearchRun) -> None:
    tracker = MlflowTracker("http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"tracking.uri: http://127.0.0.1:9 cannot be written to"):
        tracker.on_study_start(run, [])
    assert time.monotonic() - started < 5


def test_mlflow_asks_for_nothing_twice_unless_a_person_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.setattr(store_module, "_set_here", {})
    monkeypatch.delenv(name, raising=False)
    limit_waiting()
    assert os.environ[name] == "2"  # reading may be tried again
    limit_waiting(retries=0)
    assert os.environ[name] == "0"  # a run that is asked for twice may be made twice
    limit_waiting()
    assert os.environ[name] == "0"
    monkeypatch.setenv(name, "5")
    limit_waiting(retries=0)
    assert os.environ[name] == "5"


# Trials that do not go on at once -----------------------------------------------------------------


def test_a_paused_trial_says_so_and_goes_on_in_the_same_run(run: SearchRun) -> None:
    tracker = MlflowTracker(run.study.tracking.uri)
    tracker.on_study_start(run, [])
    record = trial(run.study, 0)
    tracker.on_trial_start(record)
    record = report(tracker, record, 1)
    tracker.on_trial_end(replace(record, state="paused"))
    paused = children(tracker)[0]
    assert paused.info.status == "SCHEDULED"
    assert paused.data.tags["goldenticket.state"] == "paused"
    tracker.on_trial_start(record)
    running = children(tracker)[0]
    assert running.info.run_id == paused.info.run_id
    assert running.info.status == "RUNNING"
    assert running.data.tags["goldenticket.state"] == "running"
    record = replace(report(tracker, record, 2), state="completed", ended=1020.0)
    tracker.on_trial_end(record)
    assert children(tracker)[0].info.status == "FINISHED"
    assert history(tracker, 0, "natural_accuracy") == [(1, 0.1), (2, 0.2)]


def test_a_trial_that_is_interrupted_waits_and_its_search_is_not_finished(run: SearchRun) -> None:
    tracker = MlflowTracker(run.study.tracking.uri)
    tracker.on_study_start(run, [])
    record = trial(run.study, 0)
    tracker.on_trial_start(record)
    record = report(tracker, record, 1)
    tracker.on_study_end(run, [record])
    assert children(tracker)[0].info.status == "SCHEDULED"
    assert children(tracker)[0].data.tags["goldenticket.state"] == "running"
    assert MlflowClient(tracker.uri).get_run(tracker.run_id).info.status == "KILLED"


def test_epochs_that_a_killed_driver_had_written_are_not_written_twice(run: SearchRun) -> None:
    first = MlflowTracker(run.study.tracking.uri)
    first.on_study_start(run, [])
    record = trial(run.study, 0)
    first.on_trial_start(record)
    for epoch in (1, 2, 3):
        record = report(first, record, epoch)
    first.flush()  # then the process was killed; the trial's checkpoint is from epoch 1
    second = MlflowTracker(run.study.tracking.uri)
    second.on_study_start(run, [replace(record, epochs=1)])
    second.on_trial_start(replace(record, epochs=1))
    for epoch in (2, 3, 4):
        record = report(second, record, epoch)
    second.on_trial_end(replace(record, state="completed", ended=1020.0))
    assert children(second)[0].info.status == "FINISHED"
    assert second.trial_run_ids == first.trial_run_ids
    assert history(second, 0, "natural_accuracy") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_a_trial_that_ended_may_go_on_after_all(run: SearchRun) -> None:
    tracker = MlflowTracker(run.study.tracking.uri)
    tracker.on_study_start(run, [])
    record = trial(run.study, 0)
    tracker.on_trial_start(record)
    record = report(tracker, record, 1)
    tracker.on_trial_end(replace(record, state="stopped", reason="never promoted", ended=1010.0))
    assert children(tracker)[0].info.status == "KILLED"
    tracker.on_trial_start(record)
    assert children(tracker)[0].info.status == "RUNNING"
    record = report(tracker, record, 2)
    tracker.on_trial_end(replace(record, state="completed", ended=1020.0))
    assert children(tracker)[0].info.status == "FINISHED"
    assert history(tracker, 0, "natural_accuracy") == [(1, 0.1), (2, 0.2)]


def test_many_epochs_are_written_whole_in_batches(run: SearchRun) -> None:
    tracker = MlflowTracker(run.study.tracking.uri)
    tracker.on_study_start(run, [])
    record = trial(run.study, 0)
    tracker.on_trial_start(record)
    for epoch in range(1, 301):  # 1,200 metrics: more than MLflow takes at once with parameters
        record = report(tracker, record, epoch)
    tracker.on_trial_end(replace(record, state="completed", ended=1020.0))
    tracker.flush()
    assert [step for step, _ in history(tracker, 0, "epoch")] == list(range(1, 301))


# The store's side ---------------------------------------------------------------------------------


def test_a_search_finds_its_run_though_it_was_killed_before_it_noted_it(run: SearchRun) -> None:
    first = MlflowTracker(run.study.tracking.uri)
    first.on_study_start(run, [])
    note = run.folder / "tracking.json"
    known = json.loads(note.read_text())
    note.write_text(json.dumps({**known, "runs": {}}))
    second = MlflowTracker(run.study.tracking.uri)
    second.on_study_start(run, [])
    assert second.run_id == first.run_id


def test_a_search_that_returns_to_an_earlier_store_finds_its_runs_there(
    run: SearchRun, store: str, tmp_path: Path
) -> None:
    done = [trial(run.study, 0, state="completed", metrics=METRICS)]
    trackers = []
    for uri in (store, f"sqlite:///{tmp_path}/other.db", store):
        trackers.append(MlflowTracker(uri))
        trackers[-1].on_study_start(run, done)
        trackers[-1].flush()
    first, other, again = trackers
    assert again.run_id == first.run_id != other.run_id
    assert len(children(again)) == len(children(other)) == 1


def test_another_store_at_the_same_address_is_filled_anew(run: SearchRun, store: str) -> None:
    first = MlflowTracker(store)
    first.on_study_start(run, [])
    note = run.folder / "tracking.json"
    known = json.loads(note.read_text())
    note.write_text(json.dumps({**known, "runs": {store: "0" * 32}}))
    second = MlflowTracker(store)
    second.on_study_start(run, [trial(run.study, 0, state="completed", metrics=METRICS)])
    assert children(second)[0].info.status == "FINISHED"
    assert second.run_id not in ("0" * 32, first.run_id)
