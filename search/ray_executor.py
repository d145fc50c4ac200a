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
import shutil
import sys
import warnings
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

from search.ledger import Ledger
from search.trial import Report, TrialFactory, TrialJob, TrialRunner
from spaces.base import ConfigError
from spaces.running import ResourcesConfig
from spaces.trial import TrialConfig

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
    """A trial failed in a way that its process may not survive: Ray then replaces the process."""


class TrialActor(tune.Trainable):
    """Runs one trial after the other in one process; a step is an epoch."""

    def setup(self, config: dict[str, Any], factory: TrialFactory) -> None:
        """Keep the factory; the trial is built in its first step, so that errors are reported."""
        self._factory = factory
        self._runner = TrialRunner(factory, _job(config))

    def step(self) -> dict[str, Report]:
        """Run one epoch."""
        report = self._runner.step()
        if report.damaged:
            raise DamagedWorker(report.error)
        return {"report": report}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another trial."""
        self._runner.close()
        self._runner = TrialRunner(self._factory, _job(new_config))
        return True

    def cleanup(self) -> None:
        """Drop the trial and its memory."""
        self._runner.close()


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

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, or the word that there are no more."""
        with self._keeping_error():
            job = self._ledger.ask()
        if job is None:
            return str(Searcher.FINISHED)
        return {
            "number": job.number,
            "config": job.config.model_dump_json(),
            "ticket": str(job.ticket),
        }

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

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on or stop."""
        report: Report = result["report"]
        with self._keeping_error():
            goes_on = self._ledger.report(trial.config["number"], report)
        return str(self.CONTINUE if goes_on else self.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The worker died, or could not be started."""
        with self._keeping_error():
            text = Path(trial.error_file).read_text(encoding="utf-8")
            if not self._ledger.fail(trial.config["number"], text):
                warnings.warn(
                    f"{trial}: its worker failed after the trial had ended, so that the next one "
                    f"had to wait for another worker: {text}",
                    RuntimeWarning,
                    stacklevel=2,
                )


def run_ray(ledger: Ledger, factory: TrialFactory, *, address: str | None = None) -> None:
    """Run the ledger's trials on the cluster at `address`, or on a Ray of our own on loopback.

    A Ray that this process has already joined is used, and left running. Raises ConfigError when
    a trial asks for more than the cluster has.
    """
    if ledger.num_left == 0:
        return
    resources = ledger.run.study.resources
    scratch = ledger.run.folder.absolute() / "ray"
    errors: list[Exception] = []
    with _environment(), _ray_session(resources, address):
        num_fitting = _num_that_fit(resources)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(TrialActor, factory=factory), _bundle(resources)
            ),
            tune_config=TuneConfig(
                search_alg=LedgerSearcher(ledger, errors),
                scheduler=LedgerScheduler(ledger, errors),
                num_samples=ledger.num_left,
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
    trial = TrialConfig.model_validate_json(config["config"])
    return TrialJob(config["number"], trial, Path(config["ticket"]))


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config['number']}"


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
