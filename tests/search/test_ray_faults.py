"""What becomes of a search in Ray when a person, a signal or a disk ends it: nothing is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from toy_trials import ToyFactory, toy_study

from search import Observer, TrialRecord, run_study
from search.control import give_order
from search.run import newest_folder

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(180)]
HERE = Path(__file__).parent
# Checkpoints are only written on the way out, or where a rung asks for them.
RARELY = 3600.0

DRIVER = """
import json, sys
from pathlib import Path
from toy_trials import ToyFactory, toy_study
from search import run_study
folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
run_study(toy_study(folder, **changes), factory=ToyFactory(epoch_seconds=0.3, diary=folder))
"""


def tree(folder: Path, checkpoint_s: float = RARELY, **changes: Any) -> dict[str, Any]:
    storage = {"path": str(folder / "runs"), "checkpoint_s": checkpoint_s}
    return {"storage": storage, "budget": {"trials": 4, "epochs": 8}, **changes}


def start(folder: Path, changes: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """The search in a process group of its own, once two trials are in their midst."""
    environment = with_toys()
    words = [sys.executable, "-c", DRIVER, str(folder), json.dumps(changes)]
    driver = subprocess.Popen(
        words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: {(0, 3), (1, 3)} <= epochs(folder), driver)
    return driver


def with_toys() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}


def epochs(folder: Path) -> set[tuple[int, int]]:
    return set(ToyFactory(diary=folder).epochs_run()) if (folder / "epochs").exists() else set()


def wait_until(done: Callable[[], bool], driver: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + 90
    while not done():
        assert driver is None or driver.poll() is None, "the driver ended"
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_driver_that_is_told_to_end_saves_what_is_running(
    name: str, tmp_path: Path, ray_session: None
) -> None:
    driver = start(tmp_path, tree(tmp_path))
    driver.send_signal(getattr(signal, name))
    assert driver.wait(60) != 0
    folder = newest_folder(toy_study(tmp_path, **tree(tmp_path)))
    assert folder is not None
    assert len(list((folder / "checkpoints").iterdir())) == 2, "workers saved them on the way out"
    factory = ToyFactory(diary=tmp_path)
    result = run_study(toy_study(tmp_path, **tree(tmp_path)), factory=factory, resume=True)
    assert [record.state for record in result.records] == ["completed"] * 4
    ran = Counter(factory.epochs_run())
    assert set(ran) == {(trial, epoch) for trial in range(4) for epoch in range(1, 9)}
    again = [key for key, times in ran.items() if times > 1]
    assert len(again) <= 2, "at most the epoch in which each was interrupted"


def test_a_driver_that_is_killed_alone_takes_its_workers_with_it(
    tmp_path: Path, ray_session: None
) -> None:
    driver = start(tmp_path, tree(tmp_path, checkpoint_s=0.0))
    os.kill(driver.pid, signal.SIGKILL)  # Ray's own processes are left
    driver.wait()
    factory = ToyFactory(diary=tmp_path)
    orphans = factory.pids()
    study = toy_study(tmp_path, **tree(tmp_path, checkpoint_s=0.0))
    result = run_study(study, factory=factory, resume=True)
    assert [(record.state, record.epochs) for record in result.records] == [("completed", 8)] * 4
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    assert len(epochs(tmp_path)) == 32


class Orders(Observer):
    """Gives an order when a trial has reported its second epoch."""

    def __init__(self, folder: Path, order: Literal["pause", "stop"]) -> None:
        self.folder, self.order = folder, order

    def on_report(self, record: TrialRecord) -> None:
        if record.epochs == 2:  # of whichever trial: a worker may start when another has ended
            give_order(self.folder / "runs" / "toy" / "001", self.order)


@pytest.mark.parametrize("order", ["pause", "stop"])
def test_orders_are_obeyed_in_ray_too(
    order: Literal["pause", "stop"], tmp_path: Path, ray_session: None
) -> None:
    study = toy_study(tmp_path, **tree(tmp_path))
    factory = ToyFactory(epoch_seconds=0.05, diary=tmp_path)
    result = run_study(study, factory=factory, observers=[Orders(tmp_path, order)])
    assert result.is_finished == (order == "stop")
    assert not any(record.state == "completed" for record in result.records)
    before = Counter(factory.epochs_run())
    resumed = run_study(study, factory=factory, resume=True)
    ran = Counter(factory.epochs_run())
    if order == "pause":
        assert [record.state for record in resumed.records] == ["completed"] * 4
        again = [key for key, times in ran.items() if times > 1]
        assert len(again) <= 2, "each goes on from its checkpoint"
    else:
        ended = {record.number for record in result.records}
        assert {r.state for r in resumed.records if r.number in ended} == {"stopped"}
        assert {n for n, _ in ran - before}.isdisjoint(ended), "what was stopped stays so"


def test_paused_trials_are_promoted_from_their_checkpoints(
    tmp_path: Path, ray_session: None
) -> None:
    moasha = {"name": "moasha", "variant": "promotion", "grace_epochs": 2, "reduction_factor": 2}
    changes = tree(tmp_path, scheduler=moasha, budget={"trials": 24, "epochs": 8})
    factory = ToyFactory(diary=tmp_path)
    waited: set[int] = set()

    class Watch(Observer):
        def on_trial_pause(self, record: TrialRecord) -> None:
            waited.add(record.number)

    result = run_study(toy_study(tmp_path, **changes), factory=factory, observers=[Watch()])
    assert result.is_finished
    states = Counter(record.state for record in result.records)
    assert states["completed"] + states["stopped"] == 24, "none waits for ever"
    assert max(Counter(factory.epochs_run()).values()) == 1, "no epoch is run twice"
    went_on = [r for r in result.records if r.number in waited and r.state == "completed"]
    assert went_on, "a trial that had waited was promoted"
    assert all(record.epochs == 8 for record in went_on)


FULL_DISK = """
import os, sys
from pathlib import Path
from toy_trials import ToyFactory, ToyTrial, toy_study
from search import run_study
from search.run import SearchHalted
small, store = Path(sys.argv[1]), Path(sys.argv[2])

class Hoarder(ToyTrial):
    def finish(self):
        if self.job.number == 2 and not (store / "room").exists():
            with (small / "hoard").open("wb") as file:
                while True:
                    file.write(bytes(2**16))
                    file.flush()
        return super().finish()

class Hoarders(ToyFactory):
    def __call__(self, job):
        return Hoarder(self, job)

study = toy_study(store, storage={"path": str(small / "runs"), "checkpoint_s": 0.0})
factory = Hoarders(diary=store)
try:
    run_study(study, "local", factory=factory)
except SearchHalted as error:
    print("halted:", error)
(store / "room").touch()
(small / "hoard").unlink()
result = run_study(study, "local", factory=factory, resume=True)
print([record.state for record in result.records])
epochs = factory.epochs_run()
print("again:", sorted({key for key in epochs if epochs.count(key) > 1}))
"""


def test_a_disk_that_is_really_full_halts_a_search_that_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    (small := tmp_path / "small").mkdir()
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1m none {small}"
    if shutil.which("unshare") is None or subprocess.run([*isolated, mount]).returncode:
        pytest.skip("needs Linux and mount namespaces for users")
    command = f'{mount} && exec {sys.executable} -c "$0" {small} {tmp_path}'
    environment = with_toys()
    done = subprocess.run(
        [*isolated, command, FULL_DISK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    halted, states, again = done.stdout.splitlines()
    assert "No space left on device" in halted
    assert states == str(["completed"] * 4)
    assert again == "again: []", "what was saved is kept, the trial in its last step too"
