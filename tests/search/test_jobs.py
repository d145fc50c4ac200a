"""A search as a Ray job, on a cluster that does not have goldenticket."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_runs import TINY
from local_cluster import LocalCluster

from analysis import load_front
from search.jobs import submit_search
from spaces import ConfigError, StudyConfig

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(300)]
COMMAND = "import sys; from search.cli import main; sys.argv[0] = 'goldenticket'; main()"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), jobs=True) as cluster:
        yield cluster


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A study whose data are read by a function of its own, of a module beside it."""
    (tmp_path / "mydata.py").write_text(
        "import torch\n"
        "def load():\n"
        "    generator = torch.Generator().manual_seed(0)\n"
        "    labels = torch.arange(300) % 3\n"
        "    noise = 0.1 * torch.rand(300, 1, 2, 2, generator=generator)\n"
        "    return labels.view(-1, 1, 1, 1) / 4 + noise, labels\n"
    )
    return {
        **TINY,
        "data": {"python": "mydata:load"},
        "budget": {"trials": 2, "epochs": 2},
        "resources": {"concurrent": 1},
        "storage": {"path": str(tmp_path / "runs")},
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    }


def submit(cluster: LocalCluster, tree: dict[str, Any], folder: Path) -> "subprocess.Popen[str]":
    (folder / "study.yaml").write_text(yaml.safe_dump(tree))
    words = ["search", str(folder / "study.yaml"), "--address", cluster.dashboard]
    return cluster.run(COMMAND, *words, "--resume-or-start", "--best", "smallest", folder=folder)


def test_a_job_runs_the_search_and_its_results_can_be_fetched(
    cluster: LocalCluster, tree: dict[str, Any], tmp_path: Path
) -> None:
    out, err = (client := submit(cluster, tree, tmp_path)).communicate(timeout=250)
    assert client.returncode == 0, err
    assert out == "", "the log goes to standard error"
    assert re.search(r"submitted as raysubmit_\w+; Ctrl-C stops following it, and not the job", err)
    assert "Best by rule 'smallest'" in err
    uri = tree["tracking"]["uri"]
    assert f"goldenticket export tiny --best smallest --tracking-uri {uri} --to tickets/tiny" in err
    assert len(load_front("tiny", tracking_uri=uri).members) >= 1
    assert len(list((tmp_path / "runs" / "tiny" / "001" / "tickets").iterdir())) == 2
    assert not (tmp_path / "tickets").exists()


def test_a_job_that_fails_hands_on_its_exit_status(
    cluster: LocalCluster, tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["constraints"] = ["natural_accuracy >= 1.0", "inference_flops <= 1"]
    client = submit(cluster, tree, tmp_path)
    _, err = client.communicate(timeout=250)
    assert client.returncode == 1
    assert "no ticket is exported" in err
    assert f"ray job logs --address {cluster.dashboard} raysubmit_" in err


def test_after_ctrl_c_the_job_goes_on(
    cluster: LocalCluster, tree: dict[str, Any], tmp_path: Path
) -> None:
    client = submit(cluster, tree, tmp_path)
    assert client.stderr is not None
    for line in client.stderr:
        if "submitted as" in line:
            break
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 130
    assert "goes on without you" in err
    assert re.search(rf"ray job stop --address {cluster.dashboard} raysubmit_\w+", err)
    tickets = tmp_path / "runs" / "tiny" / "001" / "tickets"
    deadline = time.monotonic() + 200
    while not tickets.exists() or len(list(tickets.iterdir())) < 2:
        assert time.monotonic() < deadline, "the job did not go on"
        time.sleep(1.0)


def test_places_in_the_jobs_own_folder_are_refused(tmp_path: Path) -> None:
    tree = {
        **TINY,
        "data": {"name": "npz", "path": "digits.npz"},
        "warm_start": {"studies": ["old", "older.yaml"], "tracking_uri": "sqlite:///old.db"},
    }
    with pytest.raises(ConfigError) as caught:
        submit_search(StudyConfig.from_dict(tree), "http://127.0.0.1:9")
    problems = caught.value.problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "storage.path",
        "tracking.uri",
        "warm_start.tracking_uri",
        "warm_start.studies",
        "data.path",
    ]
    assert sum("relative" in problem for problem in problems) == 4
    assert "the file older.yaml is not sent along" in problems[3]


def test_no_job_server_is_an_error_that_says_what_to_do(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:10")
    with pytest.raises(ConfigError, match=r"--address http://127\.0\.0\.1:9: ") as caught:
        submit_search(StudyConfig.from_dict(tree), "http://127.0.0.1:9")
    assert "127.0.0.1:10" not in str(caught.value)
    assert "goldenticket[cluster]" in str(caught.value)
    assert "ssh -L 8265:127.0.0.1:8265" in str(caught.value)
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:10"
