"""One trial as the executors see it: a body that runs epochs, and reports that cannot fail."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from spaces.study import StudyConfig
from spaces.trial import TrialConfig


@dataclass(frozen=True)
class TrialJob:
    """What a worker is asked to do: one trial, and the folder for its ticket."""

    number: int
    config: TrialConfig
    ticket: Path


@dataclass(frozen=True)
class Measurement:
    """Metrics by name, how they were obtained (split, bound, ...), and the ticket if any."""

    metrics: Mapping[str, float]
    provenance: Mapping[str, str] = field(default_factory=dict)
    ticket: Path | None = None


class TrialBody(Protocol):
    """A training in progress; `run_epoch` is called until `finished`, then `finish` once."""

    @property
    def finished(self) -> bool:
        """Whether all epochs have been run."""

    def run_epoch(self) -> Measurement:
        """Train for an epoch; the metrics hold `epoch`, counted from 1, and `rung_score`."""

    def finish(self) -> Measurement:
        """Measure with full fidelity and write the ticket."""


class TrialFactory(Protocol):
    """Makes trial bodies, in whichever process they run; it is pickled to get there."""

    def prepare(self, study: StudyConfig) -> None:
        """Called once in the driver: raise ValueError if no trial of the study could run."""

    def __call__(self, job: TrialJob) -> TrialBody:
        """Build a trial, ready for its first epoch."""

    def release(self) -> None:
        """Called after each trial: give back memory that nothing refers to any more."""


@dataclass(frozen=True)
class Report:
    """What a worker tells the driver after a step; `error` is the traceback of a failure.

    `damaged` says that the failure may have left the process in a bad state (out of memory, a
    broken device), so that it must not run another trial.
    """

    epoch: int
    measurement: Measurement | None = None
    finished: bool = False
    error: str | None = None
    damaged: bool = False
    seconds: float = 0.0


class TrialRunner:
    """Runs one trial step by step; whatever is raised becomes a report, so that a study goes on."""

    def __init__(self, factory: TrialFactory, job: TrialJob) -> None:
        self._factory, self._job = factory, job
        self._body: TrialBody | None = None
        self._epoch = 0

    def step(self) -> Report:
        """Run one epoch, and after the last one the final measurements too."""
        started = time.perf_counter()
        try:
            report = self._step()
        except Exception as error:
            # ValueErrors and arithmetic errors are the trial's own fault and harm no other trial.
            report = Report(
                self._epoch,
                error="".join(traceback.format_exception(error)),
                damaged=not isinstance(error, ValueError | ArithmeticError),
            )
        return replace(report, seconds=time.perf_counter() - started)

    def close(self) -> None:
        """Drop the trial and its memory."""
        self._body = None
        self._factory.release()

    def _step(self) -> Report:
        if self._body is None:
            self._body = self._factory(self._job)
        measured = self._body.run_epoch()
        self._epoch = int(measured.metrics["epoch"])
        if not self._body.finished:
            return Report(self._epoch, measured)
        final = self._body.finish()
        metrics = {**measured.metrics, **final.metrics}
        return Report(self._epoch, replace(final, metrics=metrics), finished=True)
