"""The ledger of a search: the one place that decides what becomes of a trial.

Executors only move trials to workers and reports back; proposing, early stopping, telling Optuna
and telling observers happen here, in the driver, in the same way for every executor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from search.records import Observer, SearchRun, TrialRecord, TrialState
from search.rungs import Rungs
from search.sampling import INTERRUPTED, Sampling
from search.trial import Report, TrialJob
from spaces.scheduler import AshaConfig
from spaces.study import StudyConfig


class Ledger:
    """All trials of a search. An executor calls `ask`, then `report` until it returns False.

    Trials of an earlier run of the same search are taken over: they count against the budget,
    except those that were interrupted, and their scores stand on the rungs.
    """

    def __init__(
        self, run: SearchRun, sampling: Sampling, observers: Sequence[Observer] = ()
    ) -> None:
        self.run = run
        self._sampling = sampling
        self._observers = tuple(observers)
        self._records = {record.number: record for record in sampling.history()}
        self._rungs = build_rungs(run.study)
        if self._rungs is not None:
            for number, epoch, score in sampling.rung_scores():
                self._rungs.record(number, epoch, score)
        self._opened = time.time()

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All trials so far, by number."""
        return tuple(self._records[number] for number in sorted(self._records))

    @property
    def num_left(self) -> int:
        """How many trials may still be started; none after the study's wall time."""
        limit = self.run.study.budget.wall_time_s
        if limit is not None and time.time() - self._opened > limit:
            return 0
        spent = sum(not record.interrupted for record in self._records.values())
        return max(0, self.run.study.budget.trials - spent)

    @property
    def is_done(self) -> bool:
        """Whether no trial is running and none may be started."""
        return self.num_left == 0 and all(r.state != "running" for r in self._records.values())

    def ask(self) -> TrialJob | None:
        """A new trial to run, or None when the budget is spent.

        Parameters that make no valid trial are recorded as a failed one; then more are asked for.
        """
        while self.num_left > 0:
            number, params = self._sampling.ask()
            record = TrialRecord(number, params, None, time.time())
            try:
                config = self._sampling.space.decode(params)
            except ValueError as error:
                self._start(record)
                self._end(record, "failed", f"the parameters make no valid trial: {error}")
                continue
            self._start(replace(record, config=config))
            return TrialJob(number, config, (self.run.tickets / record.name).absolute())
        return None

    def report(self, number: int, report: Report) -> bool:
        """Enter what a worker reported; return whether the trial goes on."""
        record = self._records[number]
        if record.seconds == 0.0:  # its first report: starting a worker is not the trial's time
            record = replace(record, started=time.time() - report.seconds)
        record = replace(record, epochs=report.epoch, seconds=record.seconds + report.seconds)
        if report.measurement is not None:
            new = report.measurement
            metrics = {**record.metrics, **new.metrics}
            record = replace(record, metrics=metrics, provenance=new.provenance, ticket=new.ticket)
        self._records[number] = record
        if report.error is not None:
            self._end(record, "failed", report.error)
            return False
        for observer in self._observers:
            observer.on_report(record)
        if report.finished:
            absent = self._absent_metrics(record)
            self._end(record, "failed" if absent else "completed", absent)
            return False
        reason = self._reason_to_stop(record)
        if reason is not None:
            self._end(record, "stopped", reason)
        return reason is None

    def fail(self, number: int, error: str) -> bool:
        """Enter that a trial's worker died, or never started; False if it had ended before."""
        if self._records[number].state != "running":
            return False
        self._end(self._records[number], "failed", error)
        return True

    def close(self) -> None:
        """End what is still running, as interrupted."""
        for record in self.records:
            if record.state == "running":
                self._end(replace(record, interrupted=True), "stopped", INTERRUPTED)

    def _start(self, record: TrialRecord) -> None:
        self._records[record.number] = record
        for observer in self._observers:
            observer.on_trial_start(record)

    def _end(self, record: TrialRecord, state: TrialState, reason: str | None) -> None:
        record = replace(record, state=state, reason=reason, ended=time.time())
        self._records[record.number] = record
        self._sampling.tell(record)
        for observer in self._observers:
            observer.on_trial_end(record)

    def _absent_metrics(self, record: TrialRecord) -> str | None:
        study = self.run.study
        needed = [*study.objectives, *(constraint.metric for constraint in study.constraints)]
        absent = [n for n in needed if not math.isfinite(record.metrics.get(n, math.nan))]
        if not absent:
            return None
        values = ", ".join(f"{n} is {record.metrics.get(n, 'missing')}" for n in absent)
        return f"the trial ended without a finite value of each objective and constraint: {values}"

    def _reason_to_stop(self, record: TrialRecord) -> str | None:
        if self._rungs is None:
            return None
        score = record.metrics.get("rung_score", math.nan)
        if record.epochs in self._rungs.levels:
            self._sampling.note_rung(record.number, record.epochs, score)
        if self._rungs.decide(record.number, record.epochs, score):
            return None
        return (
            f"rung_score {score:.4g} after epoch {record.epochs} is not among the best "
            f"1/{self._rungs.reduction_factor} of the trials at this rung"
        )


def build_rungs(study: StudyConfig) -> Rungs | None:
    """The stopping rule of a study; None if it stops no trial early."""
    config = study.scheduler
    if not isinstance(config, AshaConfig):
        return None
    return Rungs(config.grace_epochs, config.reduction_factor, study.budget.epochs, config.brackets)
