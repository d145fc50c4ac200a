"""One trial as the executors see it: a body that runs epochs, and reports that cannot fail."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from search.checkpoint import load_checkpoint, save_checkpoint
from search.desk import desk_for
from spaces.study import StudyConfig
from spaces.trial import TrialConfig

if TYPE_CHECKING:
    from search.storage import Storage

Fault = Literal["trial", "worker", "storage"]
"""Whose fault an error is: the trial's own settings', its process's or machine's, or a full disk's.

The first fails the trial; after the second it goes on in another process; the third ends the
search, which can be resumed when there is room again.
"""
_OF_THE_TRIAL = (ValueError, ArithmeticError, TypeError, LookupError, AttributeError)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class TrialJob:
    """What a worker is asked to do: one trial, from its checkpoint if there is one.

    Its ticket goes into the folder `ticket`. Its state is saved to the file `checkpoint` after each
    epoch in `save_at`, and after any epoch that ends `checkpoint_s` seconds or more after the last
    save. With a `storage`, which holds the search's folder, workers put both there. The driver has
    the reports of the first `epochs` epochs.
    """

    number: int
    config: TrialConfig
    ticket: Path
    checkpoint: Path
    checkpoint_s: float = 30.0
    save_at: tuple[int, ...] = ()
    storage: Storage | None = None
    epochs: int = 0


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

    def state_dict(self) -> dict[str, Any]:
        """All that another body of the same job needs to go on from here.

        Tensors, numbers, text, and lists and dictionaries of them.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`, to the same end as without a break."""


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

    `fault` says whose fault the error is. `seconds` is what the step took.
    """

    epoch: int
    measurement: Measurement | None = None
    finished: bool = False
    error: str | None = None
    fault: Fault = "trial"
    seconds: float = 0.0


class TrialRunner:
    """Runs one trial step by step; whatever is raised becomes a report, so that a study goes on."""

    def __init__(self, factory: TrialFactory, job: TrialJob) -> None:
        self._factory, self._desk = factory, desk_for(job)
        self._job = self._desk.job
        self._body: TrialBody | None = None
        self._last = Measurement({"epoch": 0.0})
        self._saved = time.monotonic()
        self._worth_saving = False  # not in the middle of an epoch, not after an error or the end

    def step(self) -> Report:
        """Run one epoch, and after the last one the final measurements too."""
        started = time.perf_counter()
        self._worth_saving = False
        try:
            report = self._step()
            self._worth_saving = not report.finished
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            report = Report(self._epoch, error=text, fault=fault_of(error))
        return replace(report, seconds=time.perf_counter() - started)

    def close(self, *, save: bool) -> None:
        """Drop the trial and its memory; before that, save it if it is wanted and can go on."""
        try:
            if save and self._worth_saving:
                self._save()
        finally:
            self._body = None
            self._factory.release()
            self._desk.clear()

    def _step(self) -> Report:
        if self._body is None:
            self._body = self._begin()
            if self._epoch > self._job.epochs and not self._body.finished:
                return Report(self._epoch, self._last)  # it was saved, and did not arrive
        metrics: Mapping[str, float] = {}
        if not self._body.finished:  # else it was saved after its last epoch
            self._last = self._body.run_epoch()
            metrics = self._last.metrics
            self._save_if_due()
            if not self._body.finished:
                return Report(self._epoch, self._last)
        final = self._body.finish()
        if final.ticket is not None:
            final = replace(final, ticket=self._desk.keep_ticket())
        metrics = {**metrics, **final.metrics}
        return Report(int(metrics["epoch"]), replace(final, metrics=metrics), finished=True)

    def _begin(self) -> TrialBody:
        body = self._factory(self._job)
        self._desk.fetch_checkpoint()
        saved = load_checkpoint(self._job)
        if saved is not None:
            body.load_state_dict(saved["state"])
            self._last = Measurement(saved["metrics"], saved["provenance"])
        return body

    @property
    def _epoch(self) -> int:
        return int(self._last.metrics["epoch"])

    def _save_if_due(self) -> None:
        late = time.monotonic() - self._saved >= self._job.checkpoint_s
        if late or self._epoch in self._job.save_at:
            self._save()

    def _save(self) -> None:
        assert self._body is not None
        save_checkpoint(self._job, self._body.state_dict(), self._last)
        self._desk.keep_checkpoint()
        self._saved = time.monotonic()


def fault_of(error: BaseException) -> Fault:
    """Whose fault an error is; what is not known to be the trial's own may be the process's."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return "storage"
    # A library may have wrapped it (torch's writer of files has a RuntimeError for it).
    if "No space left on device" in str(error):
        return "storage"
    return "trial" if isinstance(error, _OF_THE_TRIAL) else "worker"
