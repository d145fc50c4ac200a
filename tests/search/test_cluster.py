"""Searches on a Ray cluster of several nodes, which do not have goldenticket installed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_cluster import HERE, LocalCluster
from object_store import address, object_store
from placed_trials import Place, places

from search.storage import Storage

__all__ = ["object_store"]
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(300)]

DRIVER = """
import json, sys
from pathlib import Path
from object_store import address, object_store
from placed_trials import PlacedFactory
from toy_trials import toy_study
from search import run_study
from spaces import ConfigError
address, folder, changes = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
epoch_seconds = changes.pop("epoch_seconds", 0.3)
try:
    result = run_study(
        toy_study(folder, **changes),
        address=address,
        factory=PlacedFactory(epoch_seconds=epoch_seconds, diary=folder),
    )
except ConfigError as error:
    print(json.dumps({"refused": str(error)}))
else:
    trials = [[r.number, r.state, r.epochs, r.lost_workers] for r in result.records]
    print(json.dumps({"trials": trials, "folder": str(result.run.folder)}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, object_store: str) -> Iterator[LocalCluster]:
    """Three nodes with the credentials of the object store."""
    with LocalCluster(tmp_path_factory.mktemp("cluster"), nodes=3, num_gpus=1) as cluster:
        yield cluster


def start(cluster: LocalCluster, folder: Path, **changes: Any) -> "subprocess.Popen[str]":
    resources = {"concurrent": 3, **changes.pop("resources", {})}
    text = json.dumps({"resources": resources, **changes})
    return cluster.run(DRIVER, cluster.address, str(folder), text)


def outcome(driver: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    return dict(json.loads(out.splitlines()[-1]))


def wait_until(done: Callable[[], object], driver: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def test_trials_run_on_all_nodes_with_the_code_that_is_sent_to_them(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    found = outcome(start(cluster, tmp_path, budget={"trials": 9, "epochs": 3}))
    assert [trial[1] for trial in found["trials"]] == ["completed"] * 9
    # A node whose first worker starts late may find nothing left to do.
    assert len({place.node for place in places(tmp_path)}) >= 2
    for place in places(tmp_path):
        assert "/runtime_resources/py_modules_files/" in place.code
        assert place.gpus == "none"
    tickets = Path(found["folder"]) / "tickets"
    assert len(list(tickets.glob("*/ticket.json"))) == 9
    assert not list(Path(found["folder"]).glob(".shared*"))


def test_unset_concurrency_is_what_fits_node_by_node(cluster: LocalCluster, tmp_path: Path) -> None:
    resources = {"concurrent": None, "gpus_per_trial": 0.3, "device": "cuda"}
    budget = {"trials": 6, "epochs": 2}
    found = outcome(start(cluster, tmp_path, budget=budget, resources=resources))
    assert [trial[1] for trial in found["trials"]] == ["completed"] * 6
    assert {place.gpus for place in places(tmp_path)} == {"0"}, "each node has a GPU 0"


def test_no_node_is_large_enough_though_all_together_are(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    impatient = "import search.ray_executor; search.ray_executor.JOINING_S = 1.0\n" + DRIVER
    resources = json.dumps({"resources": {"cpus_per_trial": 2}})
    driver = cluster.run(impatient, cluster.address, str(tmp_path), resources)
    refused = outcome(driver)["refused"]
    assert "resources.cpus_per_trial: 2 is more than the 1 CPUs that the largest of 4" in refused


def test_a_node_that_does_not_share_the_studys_folder_is_found_out(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with a_node_with_its_own(runs, cluster):
        found = outcome(start(cluster, tmp_path))
    assert found["refused"].startswith("storage.path: the study's folder is not there: put it on")
    assert "(on node " in found["refused"]
    assert not places(tmp_path)


def test_nodes_that_share_nothing_work_with_an_address(
    cluster: LocalCluster, tmp_path: Path, object_store: str
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    place = address(object_store, tmp_path.name)
    storage = {"path": place, "local": str(runs), "checkpoint_s": 0.0}
    with a_node_with_its_own(runs, cluster):
        found = outcome(
            start(cluster, tmp_path, storage=storage, budget={"trials": 8, "epochs": 3})
        )
    assert [trial[1] for trial in found.get("trials", found)] == ["completed"] * 8, found
    here = Path(found["folder"]) / "tickets"
    assert len(list(here.glob("*/ticket.json"))) == 8
    there = Storage(place).folder("toy/001")
    assert there.folder("tickets").names() == sorted(f"trial_{n}" for n in range(8))
    assert there.folder("checkpoints").names() == []


def test_after_a_node_is_lost_its_trials_go_on_elsewhere(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "nodes", nodes=3) as cluster:
        storage = {"path": str(tmp_path / "runs"), "checkpoint_s": 0.0}
        budget = {"trials": 9, "epochs": 8}
        driver = start(cluster, tmp_path, epoch_seconds=1.0, budget=budget, storage=storage)
        wait_until(lambda: in_the_middle(places(tmp_path)), driver)
        lost = places(tmp_path)[-1]
        cluster.kill(lost.node)
        found = outcome(driver)
    assert [trial[1:3] for trial in found["trials"]] == [["completed", 8]] * 9
    workers_lost = {trial[0]: trial[3] for trial in found["trials"] if trial[3]}
    assert workers_lost == {lost.trial: 1}
    ran = Counter((place.trial, place.epoch) for place in places(tmp_path))
    assert set(ran) == {(trial, epoch) for trial in range(9) for epoch in range(1, 9)}
    again = [key for key, times in ran.items() if times > 1]
    assert len(again) <= 1, "it went on from its checkpoint, not from its first epoch"
    assert len({place.node for place in places(tmp_path) if place.trial == lost.trial}) == 2


def in_the_middle(ran: list[Place]) -> bool:
    """Whether several nodes are at work, and the last epoch was begun in the middle of a trial."""
    return len({place.node for place in ran}) > 1 and 3 <= ran[-1].epoch <= 4


class a_node_with_its_own:
    """One more node of a cluster, for which a folder is on a disk of its own."""

    _JOIN = (
        "from ray._private import services; services.resolve_ip_for_localhost = lambda host: host;"
        "import sys; from ray.scripts.scripts import main;"
        "sys.argv = ['ray', 'start', '--address', sys.argv[1], '--node-ip-address', '127.0.0.1',"
        "'--num-cpus', '1', '--object-store-memory', '80000000', '--block']; main()"
    )

    def __init__(self, folder: Path, cluster: LocalCluster) -> None:
        unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        mount = f"mount -t tmpfs none {folder}"
        if shutil.which("unshare") is None or subprocess.run([*unshare, mount]).returncode:
            pytest.skip("needs Linux and mount namespaces for users")
        join = f'{mount} && exec {sys.executable} -c "$0" {cluster.address}'
        environment = {**os.environ, **cluster.environment, "PYTHONPATH": str(cluster.hidden)}
        self._process = subprocess.Popen(
            [*unshare, join, self._JOIN],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ray runtime started" in line:
                return
        raise RuntimeError("the node did not start")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:10001", "Ray Client would run the search's driver on the cluster"),
        ("http://127.0.0.1:8265", "is for `goldenticket search` only"),
        ("127.0.0.1", "must be HOST:PORT"),
        ("127.0.0.1:9", "nothing answers there"),
        ("no-such-host.invalid:6379", "nothing answers there"),
    ],
)
def test_an_address_that_cannot_be_joined_is_refused_at_once(address: str, message: str) -> None:
    script = (
        "import sys; from search.ray_session import ray_session;"
        "from spaces.running import ResourcesConfig\n"
        "try:\n  with ray_session(ResourcesConfig(), sys.argv[1]): pass\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, address], capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert f"--address {address}: " in done.stdout, done.stderr
    assert message in done.stdout
