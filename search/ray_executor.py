"""Trials side by side in Ray Tune: actors are reused, and the ledger in the driver decides.

Ray's OptunaSearch is not used: every method of it would have to be overridden (it tells stopped
trials COMPLETE, and leaves a trial with a NaN running for ever), and the local executor needs the
same asking and telling without Ray. So the searcher and the scheduler below only pass on to the
ledger. Metrics travel inside a `Report`, unseen by Ray, which aborts an experiment when one is
missing.
"""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, PlacementGroupFactory, RunConfig, TuneConfig, TuneError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from search.control import sigterm_interrupts
from search.ledger import Ledger
from search.nodes import JOINING_S, check_nodes, num_that_fit
from search.ray_session import ray_session
from search.shipping import shipped_code
from search.trial import Report, TrialFactory, TrialJob, TrialRunner
from spaces.running import ResourcesConfig
from spaces.study import StudyConfig


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
        self._forget(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its last report came before."""
        self._forget(trial)

    def _forget(self, trial: Any) -> None:
        """Drop what Ray keeps until its end of every trial: the job, the last report, statistics.

        The ledger has all that counts; without this the driver grows by tens of KB with each trial.
        """
        self._last_sign.pop(trial.trial_id, None)
        trial.config = {"number": trial.config["number"]}
        trial.evaluated_params = {}
        trial._default_result_or_future = None  # what a worker sent when it began, unread
        trial.run_metadata.last_result = {}
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}


def run_ray(ledger: Ledger, factory: TrialFactory, *, address: str | None = None) -> None:
    """Run the ledger's trials on the cluster at `address`, or on a Ray of our own on loopback.

    A Ray that this process has already joined is used, and left running. Raises ConfigError when
    a trial asks for more than the cluster has.
    """
    if ledger.is_done:
        return
    study, resources = ledger.run.study, ledger.run.study.resources
    scratch = ledger.run.folder.absolute() / "ray"
    errors: list[Exception] = []
    with joined(study, factory, address) as num_fitting, sigterm_interrupts():
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


@contextmanager
def joined(study: StudyConfig, factory: TrialFactory, address: str | None) -> Iterator[int]:
    """The Ray that `run_ray` uses, and how many trials it holds at once.

    Raises ConfigError when there is no room for one, or nodes do not share what trials need.
    """
    code = shipped_code(study, factory) if address is not None else ()
    with ray_session(study.resources, address, code):
        num_fitting = num_that_fit(study.resources, wait_s=0.0 if address is None else JOINING_S)
        check_nodes(study)
        yield num_fitting


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
