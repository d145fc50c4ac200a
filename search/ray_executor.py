"""Trials side by side in Ray Tune: actors are reused, and the ledger in the driver decides.

Ray's OptunaSearch is not used: every method of it would have to be overridden (it tells stopped
trials COMPLETE, and leaves a trial with a NaN running for ever), and the local executor needs the
same asking and telling without Ray. So the searcher and the scheduler below only pass on to the
ledger. Metrics travel inside a `Report`, unseen by Ray, which aborts an experiment when one is
missing.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private import services
from ray.tune import CheckpointConfig, PlacementGroupFactory, RunConfig, TuneConfig, TuneError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from search.control import sigterm_interrupts
from search.ledger import Ledger
from search.trial import Report, TrialFactory, TrialJob, TrialRunner
from spaces.base import ConfigError
from spaces.running import ResourcesConfig

LOOPBACK = "127.0.0.1"
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints failed trials even when told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # data paths are relative to where the person is
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU share sees no GPU
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # after Ctrl-C, a worker need not finish its epoch
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the journal is what a search is resumed from
}


class DamagedWorker(RuntimeError):
    """A fault that the process may not survive: Ray then replaces it, and the trial goes on."""


class TrialActor(tune.Trainable):
    """Runs one trial after the other in one process; a step is an epoch."""

    def setup(self, config: dict[str, Any], factory: TrialFactory) -> None:
        """Keep the factory; the trial is built in its first step, so that errors are reported."""
        self._factory = factory
        self._runner = TrialRunner(factory, _job(config))

    def step(self) -> dict[str, Report]:
        """Run one epoch."""
        report = self._runner.step()
        if report.fault == "worker":
            raise DamagedWorker(report.error)
        return {"report": report}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another trial; the last one has ended, or was saved at its rung."""
        self._runner.close(save=False)
        self._runner = TrialRunner(self._factory, _job(new_config))
        return True

    def cleanup(self) -> None:
        """Drop the trial and its memory; the search may have been interrupted in the middle."""
        self._runner.close(save=True)


class _Part:
    """What searcher and scheduler share: the ledger, and the first error that was raised in it."""

    def __init__(self, ledger: Ledger, errors: list[Exception]) -> None:
        super().__init__()
        self._ledger = ledger
        self._errors = errors

    def __getstate__(self) -> dict[str, Any]:
        # Ray copies its parts to disk for Tuner.restore, which loses rungs; the journal does not.
        return {}

    @contextmanager
    def _keeping_error(self) -> Iterator[None]:
        """Ray turns an error in the driver into text: keep the error itself."""
        try:
            yield
        except Exception as error:
            self._errors.append(error)
            raise


class LedgerSearcher(_Part, Searcher):
    """Hands out the ledger's trials."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, None if there is none at present, or the word that there are no more.

        What Ray takes for a trial is one stay of ours with a worker.
        """
        with self._keeping_error():
            job = self._ledger.ask()
        if job is not None:
            return {"number": job.number, "job": pickle.dumps(job)}
        return str(Searcher.FINISHED) if self._ledger.is_done else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the scheduler has heard of it before."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is durable."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a search is resumed by its journal."""
        raise NotImplementedError


class LedgerScheduler(_Part, FIFOScheduler):
    """Passes reports to the ledger and its decisions back."""

    def __init__(self, ledger: Ledger, errors: list[Exception]) -> None:
        super().__init__(ledger, errors)
        self._last_sign: dict[str, float] = {}  # of life, of the trials that run, by Ray's names

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """As Ray would; this is called all the time, and so the place to look for hung trials."""
        with self._keeping_error():
            for trial in tune_controller.get_live_trials():
                self._expire(trial)
        return super().choose_trial_to_run(tune_controller)

    def _expire(self, trial: Any) -> None:
        actor = trial.temporary_state.ray_actor
        if trial.status != trial.RUNNING or actor is None:
            return
        last = self._last_sign.setdefault(trial.trial_id, time.monotonic())
        if self._ledger.expire(trial.config["number"], time.monotonic() - last):
            ray.kill(actor)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on or stop."""
        self._last_sign[trial.trial_id] = time.monotonic()
        report: Report = result["report"]
        with self._keeping_error():
            goes_on = self._ledger.report(trial.config["number"], report)
        return str(self.CONTINUE if goes_on else self.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The worker died, or could not be started; a trial that was to end has ended before."""
        with self._keeping_error():
            text = Path(trial.error_file).read_text(encoding="utf-8")
            self._ledger.fail(trial.config["number"], text)


def run_ray(ledger: Ledger, factory: TrialFactory, *, address: str | None = None) -> None:
    """Run the ledger's trials on the cluster at `address`, or on a Ray of our own on loopback.

    A Ray that this process has already joined is used, and left running. Raises ConfigError when
    a trial asks for more than the cluster has.
    """
    if ledger.is_done:
        return
    resources = ledger.run.study.resources
    scratch = ledger.run.folder.absolute() / "ray"
    errors: list[Exception] = []
    with _environment(), _ray_session(resources, address), sigterm_interrupts():
        num_fitting = _num_that_fit(resources)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(TrialActor, factory=factory), _bundle(resources)
            ),
            tune_config=TuneConfig(
                search_alg=LedgerSearcher(ledger, errors),
                scheduler=LedgerScheduler(ledger, errors),
                num_samples=-1,  # the searcher says when
                max_concurrent_trials=resources.concurrent or num_fitting,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=RunConfig(
                name=scratch.name,
                storage_path=str(scratch.parent),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError:
            if errors:
                raise errors[0] from None
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if not ledger.is_done:  # Ray has caught Ctrl-C, and stopped its workers
        raise KeyboardInterrupt


def _job(config: dict[str, Any]) -> TrialJob:
    job: TrialJob = pickle.loads(config["job"])
    return job


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config['number']}_{trial.trial_id}"


def _bundle(resources: ResourcesConfig) -> PlacementGroupFactory:
    bundle: dict[str, float] = {"CPU": resources.cpus_per_trial}
    if resources.gpus_per_trial:
        bundle["GPU"] = resources.gpus_per_trial
    return PlacementGroupFactory([bundle])


@contextmanager
def _environment() -> Iterator[None]:
    # Workers of a Ray started here then import whatever this process can import.
    changes = {**_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
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


@contextmanager
def _ray_session(resources: ResourcesConfig, address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        start_on_loopback(resources.concurrent and resources.concurrent * resources.cpus_per_trial)
    try:
        yield
    finally:
        ray.shutdown()


def start_on_loopback(num_cpus: int | None) -> None:
    """Start a Ray that listens on 127.0.0.1 only, so that nobody on the network can reach it.

    Ray replaces 127.0.0.1 by the machine's outward address; with any other address, 127.0.0.2 too,
    its servers listen on all interfaces. So the replacement is switched off while Ray starts.
    """
    replace_loopback = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        ray.init(
            address="local",  # do not join a cluster, dead or alive, that was left on this machine
            _node_ip_address=LOOPBACK,
            include_dashboard=False,
            num_cpus=num_cpus,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    finally:
        services.resolve_ip_for_localhost = replace_loopback


def _num_that_fit(resources: ResourcesConfig) -> int:
    """How many trials the cluster can hold; ConfigError if not even one."""
    cluster = ray.cluster_resources()
    fits = []
    for name, field, need in (
        ("CPU", "cpus_per_trial", float(resources.cpus_per_trial)),
        ("GPU", "gpus_per_trial", resources.gpus_per_trial),
    ):
        has = cluster.get(name, 0.0)
        if has < need:
            raise ConfigError(
                f"resources.{field}: {need:g} is more than the {has:g} {name}s that Ray has here, "
                "so no trial could start: lower it, or give the --address of a larger cluster"
            )
        if need:
            fits.append(int(has / need + 1e-9))
    return min(fits)
