"""A search as a Ray job: `goldenticket search STUDY --address http://HEAD:8265`.

The driver then runs on the cluster, and goes on when this machine goes away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ray.job_submission import JobInfo, JobSubmissionClient

from search.nodes import data_places
from search.shipping import shipped_code
from spaces.base import ConfigError
from spaces.study import StudyConfig

_STUDY_FILE = "study.yaml"
# Ray would go where these say, whatever address it is given.
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_STARTING_S, _ENDING_S = 120.0, 60.0


def submit_search(study: StudyConfig, address: str, options: Sequence[str] = ()) -> int:
    """Run a search as a job on the cluster whose job server is at `address`; follow its log.

    Sent are the study, goldenticket itself and the modules of a person's own functions; the nodes
    have the dependencies. `options` are those of `goldenticket search` for how to go about it. The
    log goes to standard error. Returns the job's exit status. Ctrl-C ends the following only:
    KeyboardInterrupt goes on, and the job too. Raises ConfigError when the job cannot be submitted
    or would leave its results in a folder that goes away with it.
    """
    _check_places(study)
    client = _client(address)
    with tempfile.TemporaryDirectory() as folder:
        text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
        (Path(folder) / _STUDY_FILE).write_text(text, encoding="utf-8")
        code = [Path(place) for place in shipped_code(study)]
        for module in (place for place in code if place.is_file()):
            shutil.copy(module, folder)  # Ray's job server takes packages only
        packages = [str(place) for place in code if place.is_dir()]
        words = ["python", "-m", "search.cli", "search", _STUDY_FILE, "--address", "auto", *options]
        environment = {"working_dir": folder, "py_modules": packages}
        with _cluster_errors(address):
            job = _submit(client, shlex.join(words), environment)
    _say(f"submitted as {job}; Ctrl-C stops following it, and not the job")
    return _follow(client, address, job)


def _submit(client: JobSubmissionClient, entrypoint: str, environment: dict[str, Any]) -> str:
    """Submit a job; a cluster that has just been started takes a while to take one."""
    deadline = time.monotonic() + _STARTING_S
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=dict(environment)))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(2.0)


def _check_places(study: StudyConfig) -> None:
    """Relative paths would mean a folder of the job's own, on the head node."""
    problems = []
    if not ("://" in study.storage.path or os.path.isabs(study.storage.path)):
        problems.append(
            f"storage.path: {study.storage.path} is relative, and a job's own folder goes away "
            "with the job: give an absolute path on a disk that all nodes share, or s3://bucket/prefix"
        )
    if _is_relative_store(study.tracking.uri):
        problems.append(
            f"tracking.uri: {study.tracking.uri} is relative, and a job's own folder goes away "
            "with the job: give the address of an MLflow server, as --tracking-uri "
            "http://HEAD:5000, or sqlite:////absolute/path/mlflow.db on the head node's disk"
        )
    problems += _problems_of_warm_start(study)
    problems += [
        f"data.{key}: {path} is relative, and data is not sent along with a job: give an absolute "
        "path that all nodes have"
        for key, path in data_places(study)
        if not os.path.isabs(path)
    ]
    if problems:
        raise ConfigError(*problems)


def _problems_of_warm_start(study: StudyConfig) -> Iterator[str]:
    uri = study.warm_start.tracking_uri
    if uri is not None and _is_relative_store(uri):
        yield (
            f"warm_start.tracking_uri: {uri} is relative, and the cluster does not have what lies "
            "here: give an address that the head node reaches"
        )
    for name in study.warm_start.studies:
        if name.endswith((".yaml", ".yml")):
            yield (
                f"warm_start.studies: the file {name} is not sent along with a job: give the "
                "study's name, and its store as warm_start.tracking_uri if it is another one"
            )


def _is_relative_store(uri: str) -> bool:
    if uri.startswith("sqlite:///"):
        return not uri.startswith("sqlite:////")
    return "://" not in uri and not os.path.isabs(uri)


def _client(address: str) -> JobSubmissionClient:
    with _without(_OVERRIDING), _cluster_errors(address):
        return JobSubmissionClient(address)


@contextmanager
def _cluster_errors(address: str) -> Iterator[None]:
    """Errors of the job server become ours; what Ray says of each upload is not shown."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"--address {address}: {str(error).strip()}. The head node's job server answers there "
            "if ray[default] is installed on it (goldenticket[cluster] has it) and its port, 8265, "
            "can be reached: from outside by `ssh -L 8265:127.0.0.1:8265 HEAD`, then with "
            "--address http://127.0.0.1:8265. If the cluster asks for a token, set "
            "RAY_AUTH_MODE=token here too, and RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    finally:
        logging.disable(disabled)


def _follow(client: JobSubmissionClient, address: str, job: str) -> int:
    """Print a job's log until it ends; its exit status."""
    try:
        asyncio.run(_print_log(client, job))
        info = _ended(client, job)
    except KeyboardInterrupt:
        _say(f"{job} goes on without you\n{_orders(address, job)}")
        raise
    except (ConnectionError, RuntimeError, OSError) as error:
        _say(f"lost sight of {job} ({error}); it may well go on\n{_orders(address, job)}")
        return 1
    if info.status == "SUCCEEDED":
        return 0
    _say(f"{job} {info.status}: {info.message}\n  ray job logs --address {address} {job}")
    return info.driver_exit_code or 1


async def _print_log(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", file=sys.stderr, flush=True)


def _ended(client: JobSubmissionClient, job: str) -> JobInfo:
    """The log may end a little before the job does."""
    deadline = time.monotonic() + _ENDING_S
    info = client.get_job_info(job)
    while not info.status.is_terminal():
        if time.monotonic() > deadline:
            raise RuntimeError("its log has ended, and its status has not changed")
        time.sleep(0.5)
        info = client.get_job_info(job)
    return info


def _orders(address: str, job: str) -> str:
    words = ("logs --follow", "status", "stop")
    return "\n".join(f"  ray job {word} --address {address} {job}" for word in words)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
