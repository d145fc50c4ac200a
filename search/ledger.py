"""The ledger of a search: the one place that decides what becomes of a trial.

Executors only move trials to workers and reports back; proposing, early stopping, going on after a
fault, telling Optuna and telling observers happen here, in the driver, in the same way for every
executor.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from search.control import Order, read_order
from search.records import INTERRUPTED, Observer, SearchRun, TrialRecord, TrialState
from search.sampling import Sampling
from search.trial import Report, TrialJob

STOPPED = "the search was stopped by a person"
_ENDED = ("completed", "stopped", "failed")


class Ledger:
    """All trials of a search. An executor calls `ask`, then `report` until it returns False.

    A trial may come out of `ask` several times: when its worker was lost, when it waited at a rung
    and is promoted, and when the search is resumed. It then goes on from its checkpoint, under the
    same number, with the same parameters. Trials of an earlier run of the same search are taken
    over, and their scores stand on the rungs.
    """

    def __init__(
        self, run: SearchRun, sampling: Sampling, observers: Sequence[Observer] = ()
    ) -> None:
        self.run = run
        self.order: Order | None = None
        """What a person, or a full disk, wants: no trial is handed out any more."""
        self.problem: str | None = None
        """Why the search had to halt, other than by a person's wish."""
        self._sampling = sampling
        self._observers = tuple(observers)
        self._records = {record.number: record for record in sampling.history()}
        self._rule = sampling.rule
        self._waiting = deque(r.number for r in self.records if r.state == "interrupted")
        self._opened = time.time()

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All trials so far, by number."""
        return tuple(self._records[number] for number in sorted(self._records))

    def record(self, number: int) -> TrialRecord:
        """One trial."""
        return self._records[number]

    @property
    def num_left(self) -> int:
        """How many more trials the budget has."""
        return max(0, self.run.study.budget.trials - len(self._records))

    @property
    def is_done(self) -> bool:
        """Whether no trial is running and none will be handed out."""
        if any(record.state == "running" for record in self._records.values()):
            return False
        return self._is_closed or not (self._waiting or self.num_left or self._promotable())

    @property
    def is_finished(self) -> bool:
        """Whether every trial of the budget has had its due, so that nothing is left to resume."""
        ended = all(record.state in _ENDED for record in self._records.values())
        return ended and self.num_left == 0

    def ask(self) -> TrialJob | None:
        """A trial to run: one that goes on, else a new one; None if there is none at present.

        Parameters that make no valid trial are recorded as a failed one; then more are asked for.
        """
        self._read_order()
        if self._is_closed:
            return None
        if self._waiting:
            return self._go_on(self._waiting.popleft())
        promoted = self._promotable()
        if promoted is not None:
            return self._go_on(promoted)
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
            return self._job(self._records[number])
        return None

    def report(self, number: int, report: Report) -> bool:
        """Enter what a worker reported; return whether the trial goes on."""
        record = self._records[number]
        if record.state != "running":
            return False
        if record.seconds == 0.0:  # its first report: starting a worker is not the trial's time
            record = replace(record, started=time.time() - report.seconds)
        is_new = report.epoch > record.epochs or report.finished
        record = replace(
            record, epochs=max(report.epoch, record.epochs), seconds=record.seconds + report.seconds
        )
        if report.measurement is not None:
            new = report.measurement
            metrics = {**record.metrics, **new.metrics}
            record = replace(record, metrics=metrics, provenance=new.provenance, ticket=new.ticket)
        self._records[number] = record
        if report.error is not None:
            self._fault(record, report)
            return False
        if is_new:  # not an epoch that is done again after its worker was lost
            for observer in self._observers:
                observer.on_report(record)
        if report.finished:
            absent = self._absent_metrics(record)
            self._end(record, "failed" if absent else "completed", absent)
            return False
        return self._goes_on(record, report.epoch)

    def fail(self, number: int, error: str) -> bool:
        """Enter that a trial's worker was lost, or never started; False if it had ended before.

        The trial waits to go on in another one, unless it has lost too many.
        """
        record = self._records[number]
        if record.state != "running":
            return False
        retries = self.run.study.budget.retries
        if record.lost_workers and _same_words(error, record.reason):
            self._end(record, "failed", error)  # the trial's own fault, whatever it looks like
        elif record.lost_workers >= retries:
            self._end(record, "failed", f"{error}\n(after {record.lost_workers} more attempts)")
        else:
            self._pause(replace(record, lost_workers=record.lost_workers + 1), "interrupted", error)
            self._waiting.append(number)
        return True

    def expire(self, number: int, silent_s: float) -> bool:
        """Fail a trial that takes too long, silent for so many seconds; return whether it does."""
        record, limit = self._records[number], self.run.study.budget.trial_time_s
        if limit is None or record.state != "running" or record.seconds + silent_s <= limit:
            return False
        self._end(
            record,
            "failed",
            f"it ran longer than budget.trial_time_s ({limit:g} s): {record.seconds:.0f} s in "
            f"{record.epochs} epochs, then nothing for {silent_s:.0f} s",
        )
        return True

    def close(self) -> None:
        """End the search: what is running is interrupted; what waits is let go if all is done."""
        over = self.is_done and self.order is None and not self._is_late
        for record in self.records:
            if record.state == "paused" and (over or self.order == "stop"):
                self._end(record, "stopped", record.reason)
            elif record.state in ("running", "interrupted") and self.order == "stop":
                self._end(record, "stopped", STOPPED)
            elif record.state == "running":
                self._pause(record, "interrupted", INTERRUPTED)

    @property
    def _is_late(self) -> bool:
        limit = self.run.study.budget.wall_time_s
        return limit is not None and time.time() - self._opened > limit

    @property
    def _is_closed(self) -> bool:
        return self.order is not None or self._is_late

    def _read_order(self) -> None:
        if self.order is None:
            self.order = read_order(self.run.folder)

    def _promotable(self) -> int | None:
        if self._rule is None or not self._rule.pauses:
            return None
        waiting = {n for n, record in self._records.items() if record.state == "paused"}
        return self._rule.promotable(waiting) if waiting else None

    def _go_on(self, number: int) -> TrialJob:
        record = replace(self._records[number], state="running", ended=None)
        self._start(record)
        self._sampling.note(record)
        return self._job(record)

    def _job(self, record: TrialRecord) -> TrialJob:
        assert record.config is not None
        return TrialJob(
            record.number,
            record.config,
            (self.run.tickets / record.name).absolute(),
            self.run.checkpoint(record.number).absolute(),
            self.run.study.storage.checkpoint_s,
            self._rule.levels if self._rule is not None and self._rule.pauses else (),
            self.run.storage,
            record.epochs,
        )

    def _start(self, record: TrialRecord) -> None:
        self._records[record.number] = record
        for observer in self._observers:
            observer.on_trial_start(record)

    def _pause(self, record: TrialRecord, state: TrialState, reason: str) -> None:
        record = replace(record, state=state, reason=reason)
        self._records[record.number] = record
        self._sampling.note(record)
        for observer in self._observers:
            observer.on_trial_pause(record)

    def _end(self, record: TrialRecord, state: TrialState, reason: str | None) -> None:
        record = replace(record, state=state, reason=reason, ended=time.time())
        self._records[record.number] = record
        self._sampling.tell(record)
        self.run.checkpoint(record.number).unlink(missing_ok=True)
        for observer in self._observers:
            observer.on_trial_end(record)

    def _fault(self, record: TrialRecord, report: Report) -> None:
        assert report.error is not None
        if report.fault == "storage":
            self.problem = _last_line(report.error)
            self.order = "pause"
            self._pause(record, "interrupted", report.error)
        elif report.fault == "worker":
            self.fail(record.number, report.error)
        else:
            self._end(record, "failed", report.error)

    def _goes_on(self, record: TrialRecord, epoch: int) -> bool:
        self._read_order()
        if self.order == "stop":
            self._end(record, "stopped", STOPPED)
        elif self.order == "pause":
            self._pause(record, "interrupted", INTERRUPTED)
        elif not self.expire(record.number, 0.0):
            return self._passes_rung(record, epoch)
        return False

    def _passes_rung(self, record: TrialRecord, epoch: int) -> bool:
        if self._rule is None or epoch not in self._rule.levels:
            return True
        view = self._rule.view(record.metrics)
        self._sampling.note_rung(record.number, epoch, view)
        reason = self._rule.decide(record.number, epoch, view)
        if reason is None:
            return True
        if self._rule.pauses:
            self._pause(record, "paused", reason)
        else:
            self._end(record, "stopped", reason)
        return False

    def _absent_metrics(self, record: TrialRecord) -> str | None:
        study = self.run.study
        needed = [*study.objectives, *(constraint.metric for constraint in study.constraints)]
        absent = [n for n in needed if not math.isfinite(record.metrics.get(n, math.nan))]
        if not absent:
            return None
        values = ", ".join(f"{n} is {record.metrics.get(n, 'missing')}" for n in absent)
        return f"the trial ended without a finite value of each objective and constraint: {values}"


def _last_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[-1] if lines else ""


def _same_words(error: str, before: str | None) -> bool:
    """An exception that comes back word for word; deaths of processes are told alike and differ."""
    return "Traceback" in error and "died" not in error and _last_line(error) == _last_line(before)
