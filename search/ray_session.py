"""The Ray that a search runs on: one of its own on loopback, or a cluster that it joins."""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import services
from ray.exceptions import AuthenticationError, RaySystemError

from analysis.version import PACKAGES
from spaces.base import ConfigError
from spaces.running import ResourcesConfig

LOOPBACK = "127.0.0.1"
_OF_WORKERS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # data paths are relative to where the person is
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU share sees no GPU
}
_OF_DRIVER = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints failed trials even when told to be silent
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # after Ctrl-C, a worker need not finish its epoch
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the journal is what a search is resumed from
}
_JOB_ENVIRONMENT = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the driver of a submitted job
_PROBE_S = 5.0


@contextmanager
def ray_session(
    resources: ResourcesConfig, address: str | None, code: Sequence[str] = ()
) -> Iterator[None]:
    """Ray for the time of a search: the cluster at `address`, else a Ray of our own on loopback.

    A Ray that this process has already joined is used, and left running. `code` (folders and
    files) is sent to the workers of a cluster. Raises ConfigError when it cannot be joined.
    """
    with _environment():
        if ray.is_initialized():
            yield
            return
        if address is None:
            start_on_loopback(
                resources.concurrent and resources.concurrent * resources.cpus_per_trial
            )
        else:
            _join(address, code)
        try:
            yield
        finally:
            ray.shutdown()


def start_on_loopback(num_cpus: int | None, num_gpus: int | None = None) -> None:
    """Start a Ray that listens on 127.0.0.1 only, so that nobody on the network can reach it.

    `num_cpus` and `num_gpus` are what the machine has if None.
    """
    with loopback_stays():
        ray.init(
            address="local",  # do not join a cluster, dead or alive, that was left on this machine
            _node_ip_address=LOOPBACK,
            include_dashboard=False,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            runtime_env={"worker_process_setup_hook": _set_up(os.getcwd())},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextmanager
def loopback_stays() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for what it is.

    Ray replaces it by the machine's outward address; with any other address, 127.0.0.2 too, its
    servers listen on all interfaces. So the replacement is switched off while Ray starts.
    """
    replace_loopback = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = replace_loopback


def _join(address: str, code: Sequence[str]) -> None:
    _check_address(address)
    try:
        with loopback_stays():
            ray.init(
                address=address,
                runtime_env=_runtime_environment(code),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except AuthenticationError as error:
        raise ConfigError(f"--address {address}: {str(error).strip()} {_TOKEN}") from error
    except (ConnectionError, RaySystemError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--address {address}: this cluster cannot be joined ({str(error).strip()}). {_NODE} "
            f"{_TOKEN}"
        ) from error


_NODE = (
    "A search joins from a machine that is a node of the cluster (`ray start "
    "--address=HEAD:6379` makes it one) with the same versions of Python and Ray; from elsewhere "
    "submit it as a job, with --address http://HEAD:8265."
)
_TOKEN = (
    "If the cluster asks for a token, set RAY_AUTH_MODE=token here too, and RAY_AUTH_TOKEN or "
    "~/.ray/auth_token."
)


def _check_address(address: str) -> None:
    """Refuse at once what Ray would refuse in a minute, or would run somewhere else."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"--address {address}: Ray Client would run the search's driver on the cluster, apart "
            "from its journal and MLflow: give HOST:6379 from a node of the cluster, or submit a "
            "job with http://HOST:8265"
        )
    if "://" in address:
        raise ConfigError(
            f"--address {address}: must be HOST:PORT or auto for a running Ray cluster; "
            "http://HOST:8265 submits a job and is for `goldenticket search` only"
        )
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--address {address}: must be HOST:PORT (Ray's port is 6379) or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--address {address}: nothing answers there ({error}): start a cluster with `ray "
            f"start --head`, or correct the address. {_NODE}"
        ) from error


def _runtime_environment(code: Sequence[str]) -> dict[str, Any]:
    """What workers on other machines get; of a submitted job, what it has not got already."""
    of_job = json.loads(os.environ.get(_JOB_ENVIRONMENT, "{}")).get("runtime_env") or {}
    wanted: dict[str, Any] = {
        "py_modules": list(code),
        "worker_process_setup_hook": _set_up(os.getcwd()),
    }
    missing = {key: value for key, value in wanted.items() if value and key not in of_job}
    variables = {k: v for k, v in _OF_WORKERS.items() if k not in of_job.get("env_vars", {})}
    return {**missing, "env_vars": variables}


def _set_up(folder: str) -> Callable[[], None]:
    """What a worker does first, before Ray puts the driver's current directory on its path."""
    packages = PACKAGES

    def set_up() -> None:
        if os.path.isdir(folder):  # relative paths then mean the same on all nodes that have it
            os.chdir(folder)
        for package in packages:  # else a person's file analysis.py would hide ours
            importlib.import_module(package)

    return set_up


@contextmanager
def _environment() -> Iterator[None]:
    # Workers of a Ray started here then import whatever this process can import.
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    changes = {**_OF_DRIVER, **_OF_WORKERS, **path}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    logger = logging.getLogger("ray.tune")  # what it has to say about trials, the ledger records
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
