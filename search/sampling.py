"""Proposing trials by Optuna and telling it what came out; the trials' durable journal.

Everything that a resumed search needs is in the journal: parameters, records and rung views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from search.journal import JournalFile
from search.known_trials import EARLIER_RUN
from search.records import INTERRUPTED, TrialRecord
from search.rungs import StoppingRule, build_rule
from search.samplers import build_sampler
from search.warm_start import Earlier, add_earlier
from spaces.holes import Scalar
from spaces.study import StudyConfig

JOURNAL = "trials.journal"
_RECORD, _RUNG = "goldenticket.record", "goldenticket.rung."


class Sampling:
    """Asks an Optuna study for parameters and tells it the outcome, each exactly once per trial.

    Only a completed trial gives values. A trial stopped at a rung is told PRUNED, without its
    low-fidelity values; a failed one is told FAIL. One that waits, or was interrupted, has told
    nothing yet. Trials of earlier studies come before its own, and are none of them: Optuna's
    numbers count both, a record's number only its own.
    """

    def __init__(self, study: StudyConfig, folder: Path, earlier: Earlier | None = None) -> None:
        self.study = study
        self._folder = folder
        self.space = study.search_space()
        self._asked: dict[int, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna_study = optuna.create_study(
            storage=JournalStorage(JournalFile(folder / JOURNAL)),
            study_name=study.name,
            directions=[str(direction) for direction in study.directions],  # type: ignore[misc]
            load_if_exists=True,
        )
        self.warm_start = add_earlier(self.optuna_study, study, earlier)
        """What a person is to be told of trials that were added just now."""
        known = self.optuna_study.get_trials(deepcopy=False)
        num_known = len(known)
        self._num_earlier = sum(EARLIER_RUN in trial.user_attrs for trial in known)
        self.rule = build_rule(study)
        """Early stopping, with all that trials have reported at rungs so far."""
        if self.rule is not None:
            for number, epoch, view in self.rung_views():
                self.rule.record(number, epoch, view)
        rungs = None
        if self.rule is not None and self.rule.pauses:  # else those that are stopped tell enough
            rungs = _OwnTrials(self.rule, self._num_earlier)
        self.optuna_study.sampler = build_sampler(study, num_known, rungs)

    def ask(self) -> tuple[int, dict[str, Scalar]]:
        """Number and parameters of a new trial."""
        trial = self.optuna_study.ask()
        number = self._number(trial)
        self._asked[number] = trial
        return number, self.space.suggest(trial)

    def note_rung(self, number: int, epoch: int, view: Sequence[float]) -> None:
        """Keep what the rule of early stopping saw of a running trial at a rung."""
        self._asked[number].set_user_attr(f"{_RUNG}{epoch}", list(view))

    def note(self, record: TrialRecord) -> None:
        """Keep the record of a trial that waits, or goes on."""
        self._asked[record.number].set_user_attr(_RECORD, _to_json(record))

    def tell(self, record: TrialRecord) -> None:
        """Tell the outcome of a trial that has ended, and keep its record."""
        trial = self._asked.pop(record.number)
        trial.set_user_attr(_RECORD, _to_json(record))
        if record.state == "completed":
            for constraint in self.study.constraints:
                trial.set_constraint(str(constraint), constraint.violation(record.metrics))
            values = [record.metrics[name] for name in self.study.objectives]
            self.optuna_study.tell(trial, values)
        elif record.state == "stopped":
            self.optuna_study.tell(trial, state=TrialState.PRUNED)
        else:
            self.optuna_study.tell(trial, state=TrialState.FAIL)

    def history(self) -> list[TrialRecord]:
        """Records of all trials of an earlier run; those that it left running are interrupted."""
        return [record for trial in self._own() if (record := self._restore(trial)) is not None]

    def rung_views(self) -> Iterator[tuple[int, int, tuple[float, ...]]]:
        """Number, epoch and view of every rung that any trial has reached."""
        for trial in self._own():
            for key, view in trial.user_attrs.items():
                if key.startswith(_RUNG):
                    yield self._number(trial), int(key.removeprefix(_RUNG)), tuple(view)

    def _own(self) -> list[FrozenTrial]:
        return self.optuna_study.get_trials(deepcopy=False)[self._num_earlier :]

    def _number(self, trial: Trial | FrozenTrial) -> int:
        return trial.number - self._num_earlier

    def _restore(self, trial: FrozenTrial) -> TrialRecord | None:
        known: dict[str, Any] | None = trial.user_attrs.get(_RECORD)
        record = self._unrecorded(trial) if known is None else self._recorded(trial, known)
        if trial.state.is_finished():
            return record
        if record is None:
            self.optuna_study.tell(trial.number, state=TrialState.FAIL)
            return None
        self._asked[record.number] = Trial(self.optuna_study, trial._trial_id)
        if record.state in ("completed", "stopped", "failed"):  # killed before it was told
            self.tell(record)
        return record

    def _recorded(self, trial: FrozenTrial, known: dict[str, Any]) -> TrialRecord:
        params = dict(trial.params)
        # The folder may have been moved, or brought here from another machine.
        own = self._folder.absolute() / "tickets" / f"trial_{self._number(trial)}"
        ticket = own if known["ticket"] else None
        config = None if known["invalid"] else self.space.decode(params)
        fields = {k: v for k, v in known.items() if k not in ("ticket", "invalid")}
        record = TrialRecord(self._number(trial), params, config, ticket=ticket, **fields)
        if record.state == "running":
            return replace(record, state="interrupted", reason=INTERRUPTED)
        return record

    def _unrecorded(self, trial: FrozenTrial) -> TrialRecord | None:
        """A trial that ran when the driver died; None if it was still being proposed."""
        params = dict(trial.params)
        try:
            config = self.space.decode(params)
        except ValueError:
            return None
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return TrialRecord(
            self._number(trial), params, config, started, state="interrupted", reason=INTERRUPTED
        )


@dataclass(frozen=True)
class _OwnTrials:
    """What a rule knows of a search's own trials, by Optuna's numbers."""

    rule: StoppingRule
    num_earlier: int

    def judged(self) -> set[int]:
        return {number + self.num_earlier for number in self.rule.judged()}

    def leaders(self, least: int, share: float) -> list[int]:
        return [number + self.num_earlier for number in self.rule.leaders(least, share)]


def _to_json(record: TrialRecord) -> dict[str, Any]:
    return {
        "state": record.state,
        "started": record.started,
        "ended": record.ended,
        "epochs": record.epochs,
        "seconds": record.seconds,
        "metrics": dict(record.metrics),
        "provenance": dict(record.provenance),
        "reason": record.reason,
        "lost_workers": record.lost_workers,
        "ticket": str(record.ticket) if record.ticket else None,
        "invalid": record.config is None,
    }
