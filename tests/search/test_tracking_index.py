"""Reading a large search by its index gives what reading all its runs gives."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from toy_trials import ToyFactory, toy_study
from tracked import METRICS, completed, report, trial

from analysis import load_front
from analysis.recorded import StudyRecord
from analysis.store import read_study
from analysis.trial_index import INDEX, INDEX_TAG
from search import run_study
from search.records import ExactVerdicts, SearchRun
from search.tracking import MlflowTracker, update
from spaces import StudyConfig


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def study(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StudyConfig]:
    """A study that stops trials early; even two ended trials make an index."""
    shutil.copy(empty_store, tmp_path)
    monkeypatch.setattr(update, "_INDEX_FROM", 2)
    asha = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    yield toy_study(tmp_path, scheduler=asha, budget={"trials": 12, "epochs": 3})


def by_index(study: StudyConfig, study_run: str = "newest") -> StudyRecord:
    """What the index gives; it must be what the runs give."""
    uri = study.tracking.uri
    record = read_study(study.name, tracking_uri=uri, study_run=study_run)
    whole = read_study(study.name, tracking_uri=uri, study_run=study_run, use_index=False)
    assert record.trials == whole.trials
    assert record == whole
    assert not whole.unconfirmed
    return record


def search(study: StudyConfig, faults: dict[int, str] | None = None, resume: bool = False) -> str:
    factory = ToyFactory(faults or {})
    return run_study(study, "local", factory=factory, resume=resume).tracking_run_id


def test_the_trials_of_a_search_are_in_its_index(study: StudyConfig) -> None:
    run_id = search(study, {3: "diverges", 4: "nan"})
    record = by_index(study)
    assert {trial.state for trial in record.trials} == {"completed", "stopped", "failed"}
    assert len(record.trials) == 12
    client = MlflowClient(study.tracking.uri)
    assert client.get_run(run_id).data.tags[INDEX_TAG] == INDEX
    assert INDEX in {item.path for item in client.list_artifacts(run_id)}
    front = load_front(study.name, tracking_uri=study.tracking.uri)
    assert front.study == record


def a_search(study: StudyConfig, folder: Path) -> tuple[MlflowTracker, SearchRun]:
    (folder / "study.yaml").write_text("name: toy\n")
    run = SearchRun(study, folder, "local")
    tracker = MlflowTracker(study.tracking.uri)
    tracker.on_study_start(run, [])
    return tracker, run


def test_only_what_may_have_changed_is_asked_of_the_store(
    study: StudyConfig, tmp_path: Path
) -> None:
    tracker, _ = a_search(study, tmp_path)
    for number in range(3):  # each is better than the one before
        record = trial(study, number, started=1000.0 + number)
        better = {**METRICS, "natural_accuracy": 0.5 + number / 10}
        tracker.on_trial_start(record)
        tracker.on_trial_end(replace(record, state="completed", metrics=better, ended=1010.0))
    running = trial(study, 3, started=1003.0)
    tracker.on_trial_start(running)
    report(tracker, running, 1)
    tracker.flush()
    record = by_index(study)
    assert [t.state for t in record.trials] == ["completed"] * 3 + ["running"]
    ids = {t.number: t.run_id for t in record.trials}
    assert record.unconfirmed == {ids[0], ids[1]}  # 2 is on the front, and 3 is running
    assert [t.tags["goldenticket.pareto"] for t in record.trials[:3]] == ["false", "false", "true"]


def test_an_index_that_is_older_than_the_last_trials_is_completed_from_the_store(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, run = a_search(study, tmp_path)
    early = [completed(tracker, trial(study, n, started=1000.0 + 10 * n)) for n in range(3)]
    waiting = trial(study, 3, started=1025.0)  # it started before the index was written
    tracker.on_trial_start(waiting)
    tracker.flush()
    monkeypatch.setattr(update, "_INDEX_FROM", 1000)  # no index from here on: the driver is killed
    completed(tracker, waiting)
    late = completed(tracker, trial(study, 4, started=1050.0))
    best = trial(study, 5, started=1060.0)
    tracker.on_trial_start(best)
    tracker.on_trial_end(
        replace(best, state="completed", metrics={**METRICS, "inference_flops": 1.0}, ended=1070.0)
    )
    tracker.flush()
    record = by_index(study)
    assert [t.number for t in record.trials] == [0, 1, 2, 3, 4, 5]
    assert {t.run_id for t in record.trials[:2]} <= record.unconfirmed
    # Ranks change trials that are in the index: nobody relies on it until it is written again.
    tracker.on_study_end(run, [*early, late])
    assert not by_index(study).unconfirmed
    monkeypatch.setattr(update, "_INDEX_FROM", 2)
    tracker.on_certify_start({}, [], 0.0)
    verdicts = ExactVerdicts(0.8, 0.9, "ibp+exact", "validation", 20, 1, 2.5)
    tracker.on_certified(late, verdicts)
    tracker.on_certify_end()
    assert by_index(study).trials[4].metrics["exact_verified_accuracy"] == 0.8
    assert by_index(study).unconfirmed


def test_a_resumed_search_writes_an_index_of_both_parts(study: StudyConfig) -> None:
    first = search(study)
    budget = study.budget.model_copy(update={"trials": 20})
    longer = study.model_copy(update={"budget": budget})
    assert search(longer, resume=True) == first
    record = by_index(longer)
    assert [t.number for t in record.trials] == list(range(20))
    assert search(longer, resume=True) == first  # nothing left to do
    assert by_index(longer) == record


def test_deleted_runs_are_not_shown(study: StudyConfig, tmp_path: Path) -> None:
    tracker, run = a_search(study, tmp_path)
    records = [completed(tracker, trial(study, n, started=1000.0 + 10 * n)) for n in range(4)]
    tracker.on_study_end(run, records)
    client = MlflowClient(study.tracking.uri)
    client.delete_run(tracker.trial_run_ids[1])
    assert [t.number for t in by_index(study).trials] == [0, 2, 3]


def test_a_member_that_was_removed_for_good_is_not_shown(
    study: StudyConfig, tmp_path: Path
) -> None:
    tracker, run = a_search(study, tmp_path)
    records = []
    for number in range(3):  # as accurate as each other, at rising density
        record = trial(study, number, started=1000.0 + 10 * number)
        metrics = {**METRICS, "density": 0.1 * (number + 1)}
        if number:
            metrics["inference_flops"] = 2e6  # so that only trial 0 is on the study's own front
        tracker.on_trial_start(record)
        record = replace(record, state="completed", metrics=metrics, ended=record.started + 1)
        tracker.on_trial_end(record)
        records.append(record)
    tracker.on_study_end(run, records)

    def densest() -> list[int]:
        front = load_front("toy", tracking_uri=study.tracking.uri, where=["density >= 0.15"])
        return [member.number for member in front.members]

    assert densest() == [1, 2]
    client = MlflowClient(study.tracking.uri)
    client.delete_run(tracker.trial_run_ids[1])
    client._tracking_client.store._hard_delete_run(tracker.trial_run_ids[1])  # as `mlflow gc` does
    assert densest() == [2]


def test_a_seed_that_was_removed_for_good_is_not_in_a_mean(
    study: StudyConfig, tmp_path: Path
) -> None:
    tracker, run = a_search(study, tmp_path)
    records = []
    for number, accuracy in enumerate((0.5, 0.7, 0.8)):
        record = trial(study, number, started=1000.0 + 10 * number)
        assert record.config is not None
        record = replace(record, config=record.config.model_copy(update={"seed": number}))
        tracker.on_trial_start(record)
        metrics = {**METRICS, "verified_accuracy": accuracy}
        record = replace(record, state="completed", metrics=metrics, ended=record.started + 1)
        tracker.on_trial_end(record)
        records.append(record)
    tracker.on_study_end(run, records)

    def mean() -> float:
        front = load_front("toy", tracking_uri=study.tracking.uri, group_seeds=True)
        return front.members[0].metrics["verified_accuracy"]

    assert mean() == pytest.approx(2 / 3)
    client = MlflowClient(study.tracking.uri)
    client.delete_run(tracker.trial_run_ids[1])
    client._tracking_client.store._hard_delete_run(tracker.trial_run_ids[1])
    assert mean() == pytest.approx(0.65)


def test_a_damaged_index_is_left_aside(study: StudyConfig, tmp_path: Path) -> None:
    tracker, run = a_search(study, tmp_path)
    records = [completed(tracker, trial(study, n, started=1000.0 + 10 * n)) for n in range(3)]
    tracker.on_study_end(run, records)
    (path,) = (tmp_path / "mlartifacts").rglob(INDEX)
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"something else"):
        path.write_bytes(damaged)
        assert len(by_index(study).trials) == 3
    path.unlink()
    assert len(by_index(study).trials) == 3


def test_studies_and_searches_in_one_store_do_not_see_each_others_trials(
    study: StudyConfig, tmp_path: Path
) -> None:
    other = study.model_copy(update={"name": "other", "seed": 1})
    ids = [search(study), search(other), search(study)]
    assert len(set(ids)) == 3
    newest, both = by_index(study), by_index(study, study_run="all")
    assert newest.run_ids == (ids[2],)
    assert set(both.run_ids) == {ids[0], ids[2]}
    assert len(newest.trials) == 12
    assert len(both.trials) == 24
    assert by_index(study, study_run=ids[0]).run_ids == (ids[0],)
    parents = {t.tags["mlflow.parentRunId"] for t in by_index(other).trials}
    assert parents == {ids[1]}
    assert not {t.run_id for t in both.trials} & {t.run_id for t in by_index(other).trials}
