"""The launch files for clusters: shipped, valid, and with commands that exist."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from cli_runs import TINY, run_in

from search.cli import app
from search.cli_cluster import LAUNCH_FILES

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "search" / "cluster"


def text_of(kind: str) -> str:
    return (FILES / LAUNCH_FILES[kind]).read_text(encoding="utf-8")


def tree_of(kind: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text_of(kind)))


@pytest.mark.parametrize("kind", LAUNCH_FILES)
def test_a_launch_file_is_printed_and_says_what_to_fill_in(kind: str, tmp_path: Path) -> None:
    answer = run_in(tmp_path, "cluster", "show", kind)
    assert answer.code == 0
    assert answer.out == text_of(kind)
    assert "FILL IN" in answer.out


def test_every_launch_file_can_be_asked_for() -> None:
    assert {path.name for path in FILES.iterdir()} == set(LAUNCH_FILES.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="builds a wheel with uv")
def test_the_wheel_has_the_launch_files(tmp_path: Path) -> None:
    import zipfile

    built = subprocess.run(
        ["uv", "build", "--quiet", "--offline", "--wheel", "--out-dir", tmp_path, ROOT],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr[-200:]}")
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"search/cluster/{name}" for name in LAUNCH_FILES.values()} <= set(names)


def commands_in(text: str) -> list[list[str]]:
    """Each `goldenticket search` in a file, its continuation lines joined, as words."""
    unbroken = re.sub(r"(\\)?\n\s+(?=--)", " ", text)
    lines = re.findall(r"goldenticket (search .*)", unbroken)
    return [shlex.split(line.replace("${1:-study.yaml}", "study.yaml")) for line in lines]


@pytest.mark.parametrize("kind", LAUNCH_FILES)
def test_the_searches_of_a_launch_file_can_be_run_again_and_again(kind: str) -> None:
    commands = commands_in(text_of(kind))
    assert commands
    group = typer.main.get_command(app)
    for words in commands:
        search = group.commands["search"]  # type: ignore[attr-defined]
        given = search.make_context("search", words[1:]).params
        assert given["resume_or_start"], "idempotent: goes on if it can, else starts"
        assert given["address"] in ("auto", "http://127.0.0.1:8265")
        assert str(given["study_file"]).endswith("study.yaml")


def test_rays_cluster_launcher_takes_its_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    tree = tree_of("ray-up")
    prepared = prepare_config(copy.deepcopy(tree))
    validate_config(prepared)
    assert set(tree) <= set(prepared)
    node_types = prepared["available_node_types"]
    assert node_types["head"]["resources"] == {"CPU": 0}, "no trial may take the head's place"
    assert node_types["worker"]["min_workers"] == prepared["max_workers"]


def test_the_cluster_launcher_uses_authentication() -> None:
    tree = tree_of("ray-up")
    assert "--env RAY_AUTH_MODE=token" in tree["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in tree["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in " ".join(tree["head_start_ray_commands"])


# Of KubeRay's API, ray.io/v1: what must be there, and what may be.
RAY_JOB = {
    "entrypoint": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "rayClusterSpec": dict,
}
GROUP = {"rayStartParams": dict, "template": dict}
WORKERS = {**GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}


def check_fields(tree: dict[str, Any], fields: dict[str, type]) -> None:
    assert set(tree) == set(fields)
    for name, kind in fields.items():
        assert isinstance(tree[name], kind), name


def test_the_ray_job_has_the_fields_of_kuberays_api() -> None:
    tree = tree_of("kuberay")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    check_fields(tree["spec"], RAY_JOB)
    cluster = tree["spec"]["rayClusterSpec"]
    check_fields(
        cluster,
        {"rayVersion": str, "authOptions": dict, "headGroupSpec": dict, "workerGroupSpecs": list},
    )
    assert cluster["authOptions"] == {"mode": "token"}
    check_fields(cluster["headGroupSpec"], GROUP)
    for group in cluster["workerGroupSpecs"]:
        check_fields(group, WORKERS)
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        [container] = group["template"]["spec"]["containers"]
        assert {"name", "image", "resources"} <= set(container)
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_ray_job_runs_on_the_ray_that_the_project_pins() -> None:
    import ray

    assert tree_of("kuberay")["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_the_ray_job_mounts_the_study_where_the_entrypoint_reads_it() -> None:
    tree = tree_of("kuberay")["spec"]
    [words] = commands_in(tree["entrypoint"])
    head = tree["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {m["mountPath"]: m["name"] for m in head["containers"][0]["volumeMounts"]}
    volume = mounts[str(Path(words[1]).parent)]
    assert {v["name"]: v["configMap"]["name"] for v in head["volumes"]}[volume] in text_of(
        "kuberay"
    )


def test_bash_can_read_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", FILES / "slurm.sh"], check=True)


_SLURM = {
    "scontrol": 'test "$1 $2" = "show hostnames" && echo localhost',
    "srun": 'echo "$1 $2 $3" >> srun.log; shift 3; exec "$@"',
}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_slurm_script_runs_a_search_on_one_node_in_a_world_of_its_own(tmp_path: Path) -> None:
    """With SLURM's commands played, and Ray's own real: it stops all of Ray that it can see."""
    isolated = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"]).returncode:
        pytest.skip("needs Linux, and namespaces for users")
    (tmp_path / "bin").mkdir()
    for name, script in _SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    study = {**TINY, "budget": {"trials": 2, "epochs": 1}, "resources": {"concurrent": 1}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "PATH": os.pathsep.join(
            [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": "123456",
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    commands = f"ip link set lo up && exec bash {FILES / 'slurm.sh'} study.yaml"
    done = subprocess.run(
        [*isolated, "bash", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "srun.log").read_text() == "--nodes=1 --ntasks=1 --cpus-per-task=1\n"
    assert "Best by rule 'verified'" in done.stdout
    assert (tmp_path / "tickets" / "tiny" / "ticket.json").exists()
    certificate = json.loads((tmp_path / "tickets" / "tiny" / "certificate.json").read_text())
    assert certificate
