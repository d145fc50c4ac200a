"""What the nodes of a Ray cluster have: room for trials, the study's folder, its data."""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.storage import Storage, is_address
from spaces.base import ConfigError
from spaces.running import ResourcesConfig
from spaces.study import StudyConfig

JOINING_S = 300.0
"""Seconds: machines of a cluster that was just launched come one by one."""
_ANSWER_S = 120.0  # a node's first worker unpacks the code, and imports it from a slow disk
_LEAVING_S = 15.0  # until a cluster misses a machine that went without a word
_APPEARING_S = 5.0  # network file systems show a new file after some time


def num_that_fit(resources: ResourcesConfig, *, wait_s: float = 0.0) -> int:
    """How many trials the nodes hold at once.

    A GPU is shared by as many trials as have their whole share of it: three of 0.3. Raises
    ConfigError when there is no room for even one within `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    warned = False
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        num_fitting = sum(room_on(node, resources) for node in nodes)
        if num_fitting or time.monotonic() >= deadline:
            break
        if not warned:
            text = f"no node has room for a trial yet: waiting {wait_s:g} s for one to join"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            warned = True
        time.sleep(1.0)
    if num_fitting:
        return num_fitting
    raise ConfigError(*_lacking(nodes, resources))


def check_machine(resources: ResourcesConfig) -> None:
    """Raise ConfigError when a Ray that is started on this machine could hold no trial."""
    cpus = max(os.cpu_count() or 1, (resources.concurrent or 0) * resources.cpus_per_trial)
    node = {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}
    if not (ray.is_initialized() or room_on(node, resources)):
        raise ConfigError(*_lacking([node], resources))


def room_on(node: Mapping[str, float], resources: ResourcesConfig) -> int:
    """How many trials a node with these resources holds at once."""
    by_cpu = int(node.get("CPU", 0.0) // resources.cpus_per_trial)
    if not resources.gpus_per_trial:
        return by_cpu
    per_gpu = int(1.0 / resources.gpus_per_trial + 1e-9)
    return min(by_cpu, int(node.get("GPU", 0.0)) * per_gpu)


def _lacking(nodes: Sequence[Mapping[str, float]], resources: ResourcesConfig) -> list[str]:
    """Why no trial fits on any node."""
    problems = []
    for name, field, need in (
        ("CPU", "cpus_per_trial", float(resources.cpus_per_trial)),
        ("GPU", "gpus_per_trial", resources.gpus_per_trial),
    ):
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < need:
            place = "Ray has here" if len(nodes) == 1 else f"the largest of {len(nodes)} nodes has"
            problems.append(
                f"resources.{field}: {need:g} is more than the {most:g} {name}s that {place}, so "
                "no trial could start: lower it, or give the --address of a larger cluster"
            )
    return problems or [
        f"resources: no single node has {resources.cpus_per_trial} CPUs and "
        f"{resources.gpus_per_trial:g} GPUs: lower one of them"
    ]


def check_nodes(study: StudyConfig) -> None:
    """Raise ConfigError when nodes that would run trials do not share what the driver sees.

    Looked for are storage.path, where trials leave their tickets and checkpoints, and the file or
    folder of the data. A Ray of one node has the driver's disk.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    where = {f"data.{key}": os.path.abspath(path) for key, path in data_places(study)}
    with _sentinel(study) as place:
        problems = _ask(nodes, study.resources, place, where)
    if problems:
        raise ConfigError(*problems)


def data_places(study: StudyConfig) -> Iterator[tuple[str, str]]:
    """The settings of `data` that name a file or a folder, and the names."""
    for key in ("path", "folder"):
        if isinstance(path := study.data.get(key), str):
            yield key, path


@contextmanager
def _sentinel(study: StudyConfig) -> Iterator[str]:
    """A file that nodes must see if they share the study's folder; or its address."""
    if is_address(study.storage.path):
        yield study.storage.path
        return
    sentinel = Path(study.storage.path).absolute() / f".shared-{uuid.uuid4().hex}"
    try:
        sentinel.parent.mkdir(parents=True, exist_ok=True)
        sentinel.touch()
    except OSError as error:
        raise ConfigError(f"storage.path: {sentinel.parent}: {error.strerror}") from error
    try:
        yield str(sentinel)
    finally:
        sentinel.unlink()


def _ask(
    nodes: Sequence[Mapping[str, Any]],
    resources: ResourcesConfig,
    place: str,
    data: Mapping[str, str],
) -> list[str]:
    look = ray.remote(num_cpus=0, max_retries=0)(_problems_here)
    asked = {
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(place, data): node
        for node in nodes
        if room_on(node["Resources"], resources)
    }
    problems = []
    for answer, node in asked.items():
        name = f"on node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            problems += [f"{text} ({name})" for text in ray.get(answer, timeout=_ANSWER_S)]
        except RayError as error:
            if not _leaves(node):
                problems.append(f"--address: no worker starts {name}: {_cause(error)}")
    return problems


def _leaves(node: Mapping[str, Any]) -> bool:
    """Whether a node that does not answer is on its way out: no trial will start there."""
    deadline = time.monotonic() + _LEAVING_S
    while any(n["NodeID"] == node["NodeID"] and n["Alive"] for n in ray.nodes()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def _problems_here(place: str, data: Mapping[str, str]) -> list[str]:
    """What this node does not see; `data` by its setting. Runs in a worker."""
    problems: list[str] = []
    if is_address(place):
        try:
            Storage(place).check()
        except ConfigError as error:
            problems += error.problems
    elif not _appears(place):
        problems.append(
            "storage.path: the study's folder is not there: put it on a disk that all nodes share, "
            "or give an address such as s3://bucket/prefix"
        )
    problems += [
        f"{setting}: {path} is not there: put it on a disk that all nodes share, or at the same "
        "path on each"
        for setting, path in data.items()
        if not _appears(path)
    ]
    return problems


def _appears(path: str) -> bool:
    deadline = time.monotonic() + _APPEARING_S
    while not os.path.exists(path):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def _cause(error: RayError) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
