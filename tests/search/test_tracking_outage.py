"""A tracking store that is away, refuses things or does not answer: nothing is lost."""

import json
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from toy_trials import toy_study
from tracked import METRICS, completed, epochs_in_store, report, runs_in_store, trial

from search.records import SearchRun
from search.tracking import MlflowTracker, opening, writer


class Faulty:
    """A client whose calls go wrong when told so."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.is_away = False
        self.num_tries = 0
        self.before: Callable[[str, tuple[Any, ...]], None] = lambda name, arguments: None
        self.after: Callable[[str], None] = lambda name: None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.is_away:
                self.num_tries += 1
                raise MlflowException("connection refused")
            self.before(name, arguments)
            result = method(*arguments, **options)
            self.after(name)
            return result

        return call


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def run(tmp_path: Path, uri: str) -> SearchRun:
    (tmp_path / "study.yaml").write_text("name: toy\n")
    return SearchRun(toy_study(tmp_path, tracking={"uri": uri}), tmp_path, "local")


@pytest.fixture
def faulty(uri: str, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """The client of the next tracker; it looks for news more often than usual."""
    client = Faulty(MlflowClient(uri))
    monkeypatch.setattr(opening, "MlflowClient", lambda tracking_uri: client)
    monkeypatch.setattr(writer, "_EVERY_S", 0.01)
    monkeypatch.setattr(writer, "_SLOWEST_S", 0.05)
    monkeypatch.setattr(writer, "_PATIENCE_S", 0.3)
    return client


@pytest.fixture
def tracker(run: SearchRun, uri: str, faulty: Faulty) -> MlflowTracker:
    tracker = MlflowTracker(uri)
    tracker.on_study_start(run, [])
    return tracker


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def told(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in caught if warning.category is RuntimeWarning]


# Outages ------------------------------------------------------------------------------------------


def test_after_an_outage_nothing_is_missing_and_nothing_is_there_twice(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = completed(tracker, trial(run.study, 0))
        until(lambda: 0 in runs_in_store(tracker))
        faulty.is_away = True
        records = [first, *(completed(tracker, trial(run.study, n)) for n in (1, 2))]
        until(lambda: faulty.num_tries > 3)
        records.append(completed(tracker, trial(run.study, 3)))
        assert sorted(runs_in_store(tracker)) == [0]
        faulty.is_away = False
        tracker.on_study_end(run, records)
    runs = runs_in_store(tracker)
    assert {n: found.info.status for n, found in runs.items()} == dict.fromkeys(
        range(4), "FINISHED"
    )
    assert {found.data.tags["goldenticket.state"] for found in runs.values()} == {"completed"}
    assert all(epochs_in_store(tracker, number) == [1, 2, 3] for number in range(4))
    gone, back = told(caught)
    assert "cannot be written to since " in gone
    assert "(connection refused). The search goes on" in gone
    assert " is back after " in back


def test_an_outage_keeps_no_report_waiting(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    faulty.before = lambda name, arguments: time.sleep(0.5)  # a server that is slow to answer
    started = time.perf_counter()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        record = completed(tracker, trial(run.study, 0), epochs=50)
        faulty.is_away = True
        completed(tracker, trial(run.study, 1), epochs=50)
        assert time.perf_counter() - started < 0.4
        faulty.is_away, faulty.before = False, lambda name, arguments: None
        tracker.flush()
    assert record.epochs == 50
    assert epochs_in_store(tracker, 0) == list(range(1, 51))


def test_a_search_that_ends_in_an_outage_says_what_is_missing_and_a_resumed_one_writes_it(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    records = [completed(tracker, trial(run.study, 0))]
    tracker.flush()
    faulty.is_away = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records += [completed(tracker, trial(run.study, number)) for number in range(1, 15)]
        started = time.monotonic()
        tracker.on_study_end(run, records)
        assert time.monotonic() - started < 5
    *_, last = told(caught)
    assert "lacks trial_1, trial_2, " in last
    assert "4 more trials, the end of the search. All records are safe in" in last
    assert f"{run.folder}: `goldenticket search STUDY --resume`" in last
    faulty.is_away = False
    resumed = MlflowTracker(tracker.uri)
    resumed.on_study_start(run, records)
    resumed.on_study_end(run, records)
    assert {found.info.status for found in runs_in_store(resumed).values()} == {"FINISHED"}
    assert resumed.trial_run_ids.keys() == set(range(15))
    assert epochs_in_store(resumed, 0) == [1, 2, 3]
    assert epochs_in_store(resumed, 14) == [3]  # its earlier points ended with the driver
    own = MlflowClient(tracker.uri).get_run(tracker.run_id)
    assert (own.info.status, own.data.metrics["num_completed"]) == ("FINISHED", 15)


def test_a_warning_that_is_an_error_ends_the_search_but_not_the_writer(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    faulty.is_away = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.on_trial_end(trial(run.study, 0, state="completed", metrics=METRICS))
        until(lambda: faulty.num_tries > 0)
        with pytest.raises(RuntimeWarning, match="cannot be written to"):
            until(lambda: tracker.on_trial_end(trial(run.study, 0)) is not None)
    faulty.is_away = False
    tracker.on_trial_end(trial(run.study, 0, state="completed", metrics=METRICS))
    with pytest.warns(RuntimeWarning, match="is back after"):
        tracker.flush()
    assert runs_in_store(tracker)[0].info.status == "FINISHED"


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file may grow beyond the size that this one has: what a write to a full disk meets."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_under_the_database_is_an_outage(
    tracker: MlflowTracker, run: SearchRun, uri: str
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with full_disk(Path(uri.removeprefix("sqlite:///"))):
            records = [completed(tracker, trial(run.study, n), epochs=400) for n in range(2)]
            until(lambda: tracker.on_trial_start(records[0]) or "since" in "".join(told(caught)))
            tracker.on_trial_end(records[0])
        tracker.on_study_end(run, records)
    assert ["cannot be written to" in told(caught)[0], "is back" in told(caught)[1]] == [True] * 2
    assert {found.info.status for found in runs_in_store(tracker).values()} == {"FINISHED"}
    assert all(epochs_in_store(tracker, n) == list(range(1, 401)) for n in range(2))


# Answers that get lost ----------------------------------------------------------------------------


def test_a_run_that_was_made_though_no_answer_came_is_found(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    lost: list[str] = []

    def lose(name: str) -> None:
        if name not in lost:
            lost.append(name)
            raise MlflowException("timed out")

    faulty.after = lose  # of every kind of call the first answer
    with pytest.warns(RuntimeWarning):
        records = [completed(tracker, trial(run.study, number)) for number in range(2)]
        tracker.on_study_end(run, records)
    assert {"create_run", "log_batch", "set_terminated"} <= set(lost)
    assert {found.info.status for found in runs_in_store(tracker).values()} == {"FINISHED"}
    assert epochs_in_store(tracker, 0) == epochs_in_store(tracker, 1) == [1, 2, 3]


def test_a_run_that_a_server_makes_long_after_it_was_asked_is_deleted(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    asked: list[tuple[Any, ...]] = []

    def hang(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "create_run" and not asked:
            asked.append(arguments)
            raise MlflowException("timed out")

    faulty.before = hang
    with pytest.warns(RuntimeWarning):
        record = completed(tracker, trial(run.study, 0))
        tracker.flush()
        faulty.client.create_run(*asked[0])
        tracker.on_study_end(run, [record])
    assert runs_in_store(tracker)[0].info.run_id == tracker.trial_run_ids[0]
    assert epochs_in_store(tracker, 0) == [1, 2, 3]


def test_two_runs_of_one_trial_that_a_killed_driver_left_become_one(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    record = completed(tracker, trial(run.study, 0))
    tracker.flush()
    tags = runs_in_store(tracker)[0].data.tags
    experiment = faulty.client.get_run(tracker.run_id).info.experiment_id
    faulty.client.create_run(experiment, 1_000_000, tags, "trial_0")
    resumed = MlflowTracker(tracker.uri)
    resumed.on_study_start(run, [record])
    resumed.on_study_end(run, [record])
    assert runs_in_store(resumed)[0].info.status == "FINISHED"


# What a store refuses although it takes other things ----------------------------------------------


def test_a_trial_that_is_refused_holds_up_no_other_and_is_named_at_the_end(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    def refuse(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "create_run" and arguments[3] == "trial_0":
            raise MlflowException("no such user")

    faulty.before = refuse
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = [completed(tracker, trial(run.study, number)) for number in range(3)]
        tracker.on_study_end(run, records)
    refused, missing = told(caught)
    assert "did not take trial_0: no such user. The search goes on" in refused
    assert f"MLflow at {tracker.uri} lacks trial_0. All records are safe" in missing
    assert runs_in_store(tracker).keys() == {1, 2}
    faulty.before = lambda name, arguments: None
    tracker.on_study_end(run, records)
    assert runs_in_store(tracker).keys() == {0, 1, 2}


def test_a_run_that_a_person_deletes_in_mid_search_costs_one_warning(
    tracker: MlflowTracker, faulty: Faulty, run: SearchRun
) -> None:
    record = trial(run.study, 0)
    tracker.on_trial_start(record)
    record = report(tracker, record, 1)
    tracker.flush()
    faulty.client.delete_run(tracker.trial_run_ids[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = report(tracker, record, 2)
        others = [completed(tracker, trial(run.study, number)) for number in (1, 2)]
        tracker.flush()
        tracker.on_study_end(run, [replace(record, state="failed"), *others])
    assert ["did not take trial_0" in text for text in told(caught)] == [True, False, False]
    assert ["lacks trial_0. " in text for text in told(caught)] == [False, True, True]
    assert runs_in_store(tracker).keys() == {1, 2}
    own = faulty.client.get_run(tracker.run_id)
    assert (own.info.status, own.data.metrics["num_completed"]) == ("FINISHED", 2)


def test_the_note_of_a_search_names_its_store_and_run(
    tracker: MlflowTracker, run: SearchRun, uri: str
) -> None:
    note = json.loads((run.folder / "tracking.json").read_text())
    own = MlflowClient(uri).get_run(tracker.run_id)
    assert note == {
        "search": own.data.tags["goldenticket.search"],
        "runs": {uri: tracker.run_id},
    }
