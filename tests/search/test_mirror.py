"""Searches whose files are kept at an address, in a real S3-compatible store."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from object_store import address, object_store
from toy_trials import ToyFactory, toy_study

from search import Observer, StudyResult, TrialRecord, run_study
from search.storage import Storage
from spaces import ConfigError, StudyConfig

__all__ = ["object_store"]
pytestmark = pytest.mark.slow


class Places:
    """Two machines, each with a disk of its own, and an address that both reach."""

    def __init__(self, folder: Path, object_store: str) -> None:
        self.folder = folder
        self.address = address(object_store, folder.name)
        self.storage = Storage(self.address).folder("toy/001")

    def study(self, machine: str, **changes: Any) -> StudyConfig:
        storage = {"path": self.address, "local": str(self.folder / machine), "checkpoint_s": 0.0}
        tree = {"storage": storage, "resources": {"concurrent": 1}, **changes}
        return toy_study(self.folder, **tree)

    def search(
        self, machine: str, factory: ToyFactory | None = None, **options: Any
    ) -> StudyResult:
        changes = options.pop("changes", {})
        study = self.study(machine, **changes)
        return run_study(study, "local", factory=factory or ToyFactory(), **options)


@pytest.fixture
def places(tmp_path: Path, object_store: str) -> Places:
    return Places(tmp_path, object_store)


def test_the_address_has_all_that_the_folder_has(places: Places, tmp_path: Path) -> None:
    result = places.search("here")
    assert [record.state for record in result.records] == ["completed"] * 4
    assert result.run.folder == tmp_path / "here" / "toy" / "001"
    for record in result.records:
        assert record.ticket == result.run.folder / "tickets" / record.name
        assert (record.ticket / "ticket.json").exists(), "the driver has fetched it"
        assert places.storage.exists(f"tickets/{record.name}/ticket.json")
    assert {"study.yaml", "trials.journal", "tracking.json"} <= set(places.storage.names())
    places.storage.get("trials.journal", tmp_path / "copy")
    journal = result.run.folder / "trials.journal"
    assert (tmp_path / "copy").read_bytes() == journal.read_bytes()
    assert places.storage.folder("checkpoints").names() == []


def test_another_machine_goes_on_with_the_search(places: Places, tmp_path: Path) -> None:
    factory = ToyFactory({2: "interrupt once"}, diary=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        places.search("here", factory)
    shutil.rmtree(tmp_path / "here")  # that machine is gone
    result = places.search("there", factory, resume="auto")
    assert result.run.folder == tmp_path / "there" / "toy" / "001"
    assert [record.state for record in result.records] == ["completed"] * 4
    ran = factory.epochs_run()
    assert [trial for trial, epoch in ran if epoch == 1] == [0, 1, 2, 3], "no trial started twice"
    assert ran.count((2, 2)) == 2, "its checkpoint was taken after its first epoch"
    for record in result.records:
        assert record.ticket == result.run.folder / "tickets" / record.name
        assert (record.ticket / "ticket.json").exists()
    assert sorted(result.trial_run_ids) == [0, 1, 2, 3], "in the same MLflow run"
    assert len(places.search("there", factory, resume=True).records) == 4


def test_the_next_search_has_the_next_number_wherever_it_runs(places: Places) -> None:
    assert places.search("here").run.folder.name == "001"
    assert places.search("there").run.folder.name == "002"
    assert places.search("here").run.folder.name == "003"


def test_a_search_that_went_on_in_two_places_is_refused(places: Places, tmp_path: Path) -> None:
    few, more = ({"budget": {"trials": n, "epochs": 1}} for n in (1, 2))
    places.search("here", changes=few)
    places.search("there", changes=more, resume=True)
    alone = toy_study(tmp_path, storage={"path": str(tmp_path / "here")}, **more)
    run_study(alone, "local", factory=ToyFactory(), resume=True)
    with pytest.raises(ConfigError, match="have both gone on, apart: move that folder away"):
        places.search("here", changes=more, resume=True)


def test_a_bucket_that_does_not_exist_is_refused_at_the_start(
    places: Places, object_store: str, tmp_path: Path
) -> None:
    storage = {"path": address(object_store, "runs", bucket="none"), "local": str(tmp_path / "x")}
    study = toy_study(tmp_path, storage=storage)
    with pytest.raises(ConfigError, match="make the bucket, or correct its name"):
        run_study(study, "local", factory=ToyFactory())
    assert not (tmp_path / "x").exists()


def test_while_the_storage_is_away_the_search_goes_on_and_fills_it_in_later(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away for the driver, from the first trial's end to the last one's."""
    real = {name: getattr(Storage, name) for name in ("write", "get", "delete")}
    away: list[bool] = []

    def broken(name: str) -> Any:
        def call(self: Storage, *words: Any) -> None:
            if away and not str(words[-1]).startswith("tickets/trial"):
                raise_away()
            if away and name == "get":
                raise_away()
            real[name](self, *words)

        return call

    for name in real:
        monkeypatch.setattr(Storage, name, broken(name))

    class Watch(Observer):
        def on_trial_start(self, record: TrialRecord) -> None:
            if record.number == 1:
                away.append(True)

        def on_trial_end(self, record: TrialRecord) -> None:
            if record.number == 3:
                away.clear()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = places.search("here", observers=[Watch()])
    assert any("The search goes on, and this is done again" in str(w.message) for w in told)
    assert [record.state for record in result.records] == ["completed"] * 4
    for record in result.records:
        assert record.ticket is not None
        assert (record.ticket / "ticket.json").exists()
    assert {"study.yaml", "trials.journal"} <= set(places.storage.names())


def raise_away() -> None:
    from search.storage import StorageError

    raise StorageError("the storage does not answer")
