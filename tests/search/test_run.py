"""`run_study` with the local executor: folders, resuming, faults."""

import math
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from toy_trials import ToyFactory, toy_study

from search import Observer, SearchRun, StudyResult, TrialRecord, run_study
from search.control import Order, give_order
from search.run import SearchHalted
from spaces import ConfigError, StudyConfig
from spaces.running import StorageConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def study(tmp_path: Path, store: str) -> StudyConfig:
    return toy_study(tmp_path, tracking={"uri": store})


def search(study: StudyConfig, factory: ToyFactory | None = None, **options: Any) -> StudyResult:
    return run_study(study, "local", factory=factory or ToyFactory(), **options)


def with_budget(study: StudyConfig, trials: int) -> StudyConfig:
    budget = study.budget.model_copy(update={"trials": trials})
    return study.model_copy(update={"budget": budget})


def told(result: StudyResult) -> list[TrialState]:
    path = result.run.folder / "trials.journal"
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.load_study(study_name=result.study.name, storage=storage)
    return [trial.state for trial in study.trials]


def test_every_trial_is_run_and_the_front_is_found(study: StudyConfig, tmp_path: Path) -> None:
    result = search(study)
    assert [record.state for record in result.records] == ["completed"] * 4
    assert [record.epochs for record in result.records] == [3] * 4
    assert result.front == result.records  # accuracy rises with density, and so do FLOPs
    assert result.run.folder == tmp_path / "runs" / "toy" / "001"
    for record in result.records:
        assert record.ticket == result.run.folder / "tickets" / record.name
        assert (record.ticket / "ticket.json").exists()
        assert record.ended is not None
        assert record.started <= record.ended
    assert told(result) == [TrialState.COMPLETE] * 4
    assert sorted(result.trial_run_ids) == [0, 1, 2, 3]


def test_each_search_has_a_folder_of_its_own_with_the_study(study: StudyConfig) -> None:
    folders = [search(with_budget(study, 1)).run.folder for _ in range(2)]
    assert [folder.name for folder in folders] == ["001", "002"]
    copy = StudyConfig.from_yaml(folders[1] / "study.yaml")
    assert copy == with_budget(study, 1)
    assert yaml.safe_load((folders[1] / "study.yaml").read_text())["name"] == "toy"


def test_whatever_happens_to_a_trial_the_study_goes_on(study: StudyConfig) -> None:
    faults = {0: "diverges", 1: "nan", 2: "missing", 3: "breaks"}
    result = search(with_budget(study, 5), ToyFactory(faults))
    assert [r.state for r in result.records] == ["failed"] * 4 + ["completed"]
    assert told(result) == [TrialState.FAIL] * 4 + [TrialState.COMPLETE]
    reasons = [str(record.reason) for record in result.records]
    assert "Traceback" in reasons[0]
    assert "ValueError: the loss became nan" in reasons[0]
    assert "verified_accuracy is nan" in reasons[1]
    assert "verified_accuracy is missing" in reasons[2]
    assert "RuntimeError: device-side assert triggered" in reasons[3]
    assert result.records[3].lost_workers == 1, "tried again once, then it came back word for word"
    assert math.isnan(result.records[1].metrics["verified_accuracy"])
    assert [record.number for record in result.front] == [4]


def test_stopped_trials_are_told_pruned_and_leave_no_ticket(study: StudyConfig) -> None:
    asha = {"name": "asha", "grace_epochs": 1, "reduction_factor": 3}
    tree = {**study.model_dump(mode="json"), "scheduler": asha}
    result = search(with_budget(StudyConfig.from_dict(tree), 8))
    states = [record.state for record in result.records]
    assert set(states) == {"completed", "stopped"}
    expected = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert told(result) == [expected[state] for state in states]
    for record in result.records:
        assert (record.ticket is not None) == (record.state == "completed")


def test_a_resumed_search_runs_only_what_is_left(study: StudyConfig) -> None:
    first = search(with_budget(study, 2))
    second = search(with_budget(study, 5), resume=True)
    assert second.run.folder == first.run.folder
    assert second.records[:2] == first.records
    assert [record.number for record in second.records] == [0, 1, 2, 3, 4]
    params = [tuple(record.params.items()) for record in second.records]
    assert len(set(params)) == 5
    assert second.tracking_run_id == first.tracking_run_id
    assert {n: second.trial_run_ids[n] for n in (0, 1)} == first.trial_run_ids
    again = search(with_budget(study, 5), resume=True)
    assert again.records == second.records


def test_an_interrupted_search_goes_on_from_its_checkpoints(
    study: StudyConfig, tmp_path: Path
) -> None:
    class Keep(Observer):
        def on_study_end(self, run: SearchRun, records: Any) -> None:
            self.run, self.records = run, records

    keep, factory = Keep(), ToyFactory({1: "interrupt once"}, diary=tmp_path)
    often = study.model_copy(
        update={"storage": StorageConfig(path=study.storage.path, checkpoint_s=0)}
    )
    with pytest.raises(KeyboardInterrupt):
        search(often, factory, observers=[keep])
    assert [r.state for r in keep.records] == ["completed", "interrupted"]
    assert [path.name for path in (keep.run.folder / "checkpoints").iterdir()] == ["trial_1.pt"]
    result = search(often, factory, resume=True)
    assert result.run.folder == keep.run.folder
    assert [r.state for r in result.records] == ["completed"] * 4
    assert result.records[0] == keep.records[0]
    assert result.records[1].params == keep.records[1].params
    own = [epoch for number, epoch in factory.epochs_run() if number == 1]
    assert own == [1, 2, 2, 3], "the epoch in which it was interrupted is run again, no other"
    assert told(result) == [TrialState.COMPLETE] * 4
    assert not list((result.run.folder / "checkpoints").iterdir())
    client = MlflowClient(study.tracking.uri)
    runs = {n: client.get_run(run_id) for n, run_id in result.trial_run_ids.items()}
    assert {n: run.info.status for n, run in runs.items()} == dict.fromkeys(range(4), "FINISHED")


def test_without_a_checkpoint_an_interrupted_trial_starts_again(
    study: StudyConfig, tmp_path: Path
) -> None:
    factory = ToyFactory({0: "interrupt once"}, diary=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        search(with_budget(study, 1), factory)
    result = search(with_budget(study, 1), factory, resume=True)
    assert [r.state for r in result.records] == ["completed"]
    assert factory.epochs_run() == [(0, 1), (0, 2), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("order", ["pause", "stop"])
def test_a_search_obeys_an_order_at_the_next_report(
    study: StudyConfig, tmp_path: Path, order: Order
) -> None:
    class Person(Observer):
        def on_report(self, record: TrialRecord) -> None:
            if (record.number, record.epochs) == (1, 2):
                give_order(tmp_path / "runs" / "toy" / "001", order)

    factory = ToyFactory(diary=tmp_path)
    result = search(study, factory, observers=[Person()])
    states = [record.state for record in result.records]
    if order == "stop":
        assert states == ["completed", "stopped"]
        assert result.is_finished
        assert told(result) == [TrialState.COMPLETE, TrialState.PRUNED]
    else:
        assert states == ["completed", "interrupted"]
        assert not result.is_finished
    resumed = search(study, factory, resume=True)
    assert resumed.is_finished
    assert resumed.count("completed") == (3 if order == "stop" else 4)
    own = [epoch for number, epoch in factory.epochs_run() if number == 1]
    assert own == ([1, 2] if order == "stop" else [1, 2, 3])


def test_one_search_has_one_driver(study: StudyConfig) -> None:
    class Rival(Observer):
        def on_trial_start(self, record: TrialRecord) -> None:
            with pytest.raises(ConfigError, match=rf"is in use: process {os.getpid()} on "):
                search(study, resume=True)

    assert search(with_budget(study, 1), observers=[Rival()]).count("completed") == 1


def test_resume_auto_starts_a_search_once(study: StudyConfig) -> None:
    first = search(with_budget(study, 1), resume="auto")
    second = search(with_budget(study, 1), resume="auto")
    assert second.run.folder == first.run.folder
    assert second.records == first.records


def test_a_full_disk_halts_the_search_and_loses_nothing(study: StudyConfig, tmp_path: Path) -> None:
    factory = ToyFactory({1: "fills the disk once"}, diary=tmp_path)
    with pytest.raises(SearchHalted, match="had to halt: OSError.* No space left on device. Make"):
        search(study, factory)
    result = search(study, factory, resume=True)
    assert [r.state for r in result.records] == ["completed"] * 4
    assert [n for n, epoch in factory.epochs_run() if epoch == 3] == [0, 1, 2, 3]


def test_what_cannot_be_resumed_is_refused_with_a_reason(study: StudyConfig) -> None:
    with pytest.raises(ConfigError, match="holds no search to resume"):
        search(study, resume=True)
    search(with_budget(study, 1))
    changed = {**study.model_dump(mode="json"), "seed": 5, "objectives": ["density"]}
    changed["space"] = {**study.space, "optimizer": {"lr": {"low": 1e-4, "high": 0.2, "log": True}}}
    with pytest.raises(ConfigError) as caught:
        search(StudyConfig.from_dict(changed), resume=True)
    *lines, rule = caught.value.problems
    assert lines == [
        "seed: was 0, is now 5",
        "space.optimizer.lr.high: was 0.1, is now 0.2",
        "objectives: was ['natural_accuracy', 'verified_accuracy', 'inference_flops'], is now "
        "['density']",
    ]
    assert "study.yaml says: change it back, or start a new search" in rule


def test_fewer_trials_than_have_begun_are_refused(study: StudyConfig) -> None:
    search(with_budget(study, 2))
    with pytest.raises(ConfigError, match="1 is less than the 2 trials .* give --trials 2 to end"):
        search(with_budget(study, 1), resume=True)


def test_a_search_that_was_killed_before_it_had_a_journal_is_no_obstacle(
    study: StudyConfig,
) -> None:
    half = search(study).run.folder.parent / "002"
    half.mkdir()
    (half / "study.yaml").write_text("name: to")
    assert search(study, resume="auto").run.folder.name == "003"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "ray://127.0.0.1:10001"])
def test_a_wrong_address_leaves_nothing_behind(
    study: StudyConfig, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests share a Ray, and one that a process has joined is used whatever the address.
    monkeypatch.setattr("search.ray_session.ray.is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=f"--address {address}: "):
        run_study(study, factory=ToyFactory(), address=address)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_too_large_for_this_machine_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    study = toy_study(tmp_path, resources={"cpus_per_trial": 4096})
    with pytest.raises(ConfigError, match="4096 is more than the .* CPUs that Ray has here"):
        run_study(study, factory=ToyFactory())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_executor_is_refused(study: StudyConfig) -> None:
    with pytest.raises(ConfigError, match="executor: 'slurm' must be ray or local"):
        run_study(study, "slurm", factory=ToyFactory())  # type: ignore[arg-type]


def test_nothing_is_recorded_when_no_trial_could_run(study: StudyConfig, tmp_path: Path) -> None:
    class NoData(ToyFactory):
        def prepare(self, study: StudyConfig) -> None:
            raise ConfigError("data.path: x.npz: there is no such file")

    with pytest.raises(ConfigError, match="there is no such file"):
        search(study, NoData())
    assert not (tmp_path / "runs").exists()


def test_observers_are_told_everything_in_order(study: StudyConfig) -> None:
    events: list[str] = []

    class Diary(Observer):
        def on_study_start(self, run: SearchRun, records: Any) -> None:
            events.append(f"study of {len(records)}")

        def on_trial_start(self, record: TrialRecord) -> None:
            events.append(f"start {record.number}")

        def on_report(self, record: TrialRecord) -> None:
            events.append(f"epoch {record.epochs}")

        def on_trial_end(self, record: TrialRecord) -> None:
            events.append(record.state)

        def on_study_end(self, run: SearchRun, records: Any) -> None:
            events.append(f"end with {len(records)}")

    search(with_budget(study, 1), observers=[Diary()])
    epochs = ["epoch 1", "epoch 2", "epoch 3"]
    assert events == ["study of 0", "start 0", *epochs, "completed", "end with 1"]
