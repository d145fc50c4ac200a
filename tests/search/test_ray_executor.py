"""The same study through Ray. One Ray is shared; each dying worker costs seconds."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from toy_trials import ToyFactory, toy_study

from search import Observer, StudyResult, TrialRecord, run_study
from search.ray_executor import LedgerScheduler
from search.run import SearchHalted
from spaces import ConfigError, StudyConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def study_in(folder: Path, store: str, **changes: Any) -> StudyConfig:
    return toy_study(folder, tracking={"uri": store}, **changes)


def layout(result: StudyResult) -> tuple[set[str], set[str], set[str]]:
    """Names of tags, parameters and metrics of a completed trial's run."""
    client = MlflowClient(result.study.tracking.uri)
    run = client.get_run(result.trial_run_ids[0])
    return set(run.data.tags), set(run.data.params), set(run.data.metrics)


def test_both_executors_leave_the_same_records_and_runs(tmp_path: Path, store: str) -> None:
    results = {}
    for executor in ("ray", "local"):
        (folder := tmp_path / executor).mkdir()
        study = study_in(folder, store, resources={"concurrent": 1})
        results[executor] = run_study(study, executor, factory=ToyFactory())  # type: ignore[arg-type]
    by_ray, by_local = results["ray"], results["local"]
    for one, other in zip(by_ray.records, by_local.records, strict=True):
        assert one.params == other.params
        assert one.config == other.config
        assert one.metrics == other.metrics
        assert one.provenance == other.provenance
        assert (one.state, one.epochs) == (other.state, other.epochs)
        assert one.ticket is not None
        assert (one.ticket / "ticket.json").exists()
    assert [r.number for r in by_ray.front] == [r.number for r in by_local.front]
    assert layout(by_ray) == layout(by_local)
    assert not (by_ray.run.folder / "ray").exists()


def test_failures_of_every_kind_neither_stall_nor_abort_a_study(tmp_path: Path, store: str) -> None:
    faults = {0: "diverges", 1: "is killed", 2: "nan", 3: "missing", 4: "takes all memory"}
    budget = {"trials": 8, "epochs": 3, "retries": 0}
    study = study_in(tmp_path, store, budget=budget)
    result = run_study(study, "ray", factory=ToyFactory(faults))
    states = {record.number: record.state for record in result.records}
    expected = {number: "failed" for number in faults}
    assert states == {**expected, 5: "completed", 6: "completed", 7: "completed"}
    reasons = {record.number: str(record.reason) for record in result.records}
    assert "ValueError: the loss became nan" in reasons[0]
    assert "died" in reasons[1]
    assert "verified_accuracy is nan" in reasons[2]
    assert "verified_accuracy is missing" in reasons[3]
    assert "MemoryError" in reasons[4]


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(
    tmp_path: Path, store: str
) -> None:
    factory = ToyFactory({1: "is killed once", 2: "takes all memory once"}, diary=tmp_path)
    storage = {"path": str(tmp_path / "runs"), "checkpoint_s": 0.0}
    study = study_in(tmp_path, store, storage=storage)
    result = run_study(study, "ray", factory=factory)
    assert [record.state for record in result.records] == ["completed"] * 4
    assert [record.lost_workers for record in result.records] == [0, 1, 1, 0]
    for number in (1, 2):
        own = [epoch for trial, epoch in factory.epochs_run() if trial == number]
        assert own == [1, 2, 2, 3], "only the epoch in which it died is run again"
    assert sorted(result.trial_run_ids) == [0, 1, 2, 3]
    assert not list((result.run.folder / "checkpoints").iterdir())


def test_a_trial_that_hangs_is_ended_and_the_others_go_on(tmp_path: Path, store: str) -> None:
    budget = {"trials": 4, "epochs": 3, "trial_time_s": 2.0}
    study = study_in(tmp_path, store, budget=budget)
    started = time.monotonic()
    result = run_study(study, "ray", factory=ToyFactory({0: "hangs"}))
    assert [r.state for r in result.records] == ["failed"] + ["completed"] * 3
    assert "it ran longer than budget.trial_time_s (2 s)" in str(result.records[0].reason)
    assert time.monotonic() - started < 60


def test_a_full_disk_under_a_worker_halts_the_search_which_can_be_resumed(
    tmp_path: Path, store: str
) -> None:
    factory = ToyFactory({1: "fills the disk once"}, diary=tmp_path)
    study = study_in(tmp_path, store)
    with pytest.raises(SearchHalted, match="No space left on device"):
        run_study(study, "ray", factory=factory)
    result = run_study(study, "ray", factory=factory, resume=True)
    assert [record.state for record in result.records] == ["completed"] * 4


_DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from toy_trials import ToyFactory, toy_study
from search import run_study
folder = Path({folder!r})
storage = {{"path": str(folder / "runs"), "checkpoint_s": 0.0}}
study = toy_study(folder, storage=storage, scheduler={scheduler!r}, budget={budget!r})
run_study(study, "ray", factory=ToyFactory(epoch_seconds=0.3, diary=folder))
"""


@pytest.mark.timeout(300)
def test_after_the_driver_is_killed_a_search_goes_on(tmp_path: Path) -> None:
    scheduler = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    budget = {"trials": 8, "epochs": 6}
    script = _DRIVER.format(
        here=str(Path(__file__).parent), folder=str(tmp_path), scheduler=scheduler, budget=budget
    )
    driver = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    factory = ToyFactory(diary=tmp_path)
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        if (tmp_path / "epochs").exists() and len(factory.epochs_run()) >= 12:
            break
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = factory.epochs_run()
    assert len(before) >= 12, "the driver did not get under way in time"
    storage = {"path": str(tmp_path / "runs"), "checkpoint_s": 0.0}
    study = toy_study(tmp_path, storage=storage, scheduler=scheduler, budget=budget)
    result = run_study(study, "ray", factory=factory, resume=True)
    assert len(result.records) == 8
    assert result.is_finished
    again = Counter(factory.epochs_run())
    repeated = {key: count for key, count in again.items() if count > 1}
    assert len(repeated) <= 2, "two trials were in flight: an epoch of each may be run again"
    assert all(count == 2 for count in repeated.values())
    client = MlflowClient(study.tracking.uri)
    query = f"tags.mlflow.parentRunId = '{result.tracking_run_id}'"
    experiment = client.get_experiment_by_name("goldenticket")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], query)
    numbers = sorted(int(run.data.tags["goldenticket.number"]) for run in runs)
    assert numbers == list(range(8))
    for record in result.records:
        own = {epoch for trial, epoch in again if trial == record.number}
        assert own == set(range(1, record.epochs + 1))


def test_trials_are_stopped_at_rungs_and_workers_are_used_again(tmp_path: Path, store: str) -> None:
    ended: list[float] = []

    class Clock(Observer):
        def on_trial_end(self, record: TrialRecord) -> None:
            ended.append(time.monotonic())

    asha = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    study = study_in(tmp_path, store, scheduler=asha, budget={"trials": 20, "epochs": 5})
    result = run_study(study, "ray", factory=ToyFactory(), observers=[Clock()])
    assert result.count("completed") >= 1
    assert result.count("stopped") >= 1
    assert result.count("completed") + result.count("stopped") == 20
    assert all(r.epochs in (1, 2, 4) for r in result.records if r.state == "stopped")
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(ended))
    assert gaps[len(gaps) // 2] < 0.6, "a new process takes seconds; a trial handed on does not"


def test_ray_keeps_little_of_a_trial_that_has_ended(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds on to each until the search ends, which may be after thousands."""
    ended, forget = [], LedgerScheduler._forget
    monkeypatch.setattr(
        LedgerScheduler, "_forget", lambda self, t: forget(self, ended.append(t) or t)
    )
    faults = {1: "is killed"}
    study = study_in(tmp_path, store, budget={"trials": 3, "epochs": 2, "retries": 0})
    result = run_study(study, factory=ToyFactory(faults))
    assert [record.state for record in result.records] == ["completed", "failed", "completed"]
    assert len(ended) == 3
    for trial in ended:
        kept = (trial.config, trial.evaluated_params, trial.last_result, trial.metric_analysis)
        assert len(repr(kept)) < 300


def test_an_interrupted_search_is_closed_and_can_be_resumed(tmp_path: Path, store: str) -> None:
    class Impatient(Observer):
        def on_trial_end(self, record: TrialRecord) -> None:
            if record.number == 1:
                os.kill(os.getpid(), signal.SIGINT)

        def on_study_end(self, run: Any, records: Any) -> None:
            self.records = records

    impatient = Impatient()
    study = study_in(tmp_path, store, budget={"trials": 6, "epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, "ray", factory=ToyFactory(), observers=[impatient])
    assert {record.state for record in impatient.records} <= {"completed", "interrupted"}
    result = run_study(study, "ray", factory=ToyFactory(), resume=True)
    assert [record.state for record in result.records] == ["completed"] * 6
    kept = [record for record in impatient.records if record.state == "completed"]
    assert [r for r in result.records if r.number in {k.number for k in kept}] == kept


def test_an_error_in_the_driver_comes_out_as_it_is(tmp_path: Path, store: str) -> None:
    class Broken(Observer):
        def on_report(self, record: TrialRecord) -> None:
            raise LookupError("an observer's own fault")

    with pytest.raises(LookupError, match="an observer's own fault"):
        run_study(study_in(tmp_path, store), "ray", factory=ToyFactory(), observers=[Broken()])


def test_more_than_the_machine_has_is_refused(tmp_path: Path, store: str) -> None:
    study = study_in(tmp_path, store, resources={"cpus_per_trial": 64, "concurrent": 1})
    with pytest.raises(ConfigError, match=r"resources.cpus_per_trial: 64 is more than the 2 CPUs"):
        run_study(study, "ray", factory=ToyFactory())


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="reads Linux's /proc")
def test_ray_listens_on_loopback_only() -> None:
    listening = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening[fields[9]] = fields[1].rpartition(":")[0]
    addresses = {listening[inode] for inode in sockets_of_ray() if inode in listening}
    assert addresses, "no server of Ray was found"
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}, addresses


def sockets_of_ray() -> set[str]:
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            own = int(process.name) == os.getpid()
            if not own and "ray::" not in command and "/ray/core/src/ray/" not in command:
                continue
            for link in (process / "fd").iterdir():
                match = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
                inodes.update(match.groups() if match else ())
        except OSError:  # the process, or its socket, has just gone
            continue
    return inodes
