"""Exact verdicts on the members of a front, once a search has ended."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from analysis.errors import TicketError
from analysis.files import write_whole
from analysis.judge import Judge, Limits
from analysis.ticket import load_ticket
from search.records import ExactVerdicts, Observer, StudyResult, TrialRecord
from search.tracking import MlflowTracker
from trainers.evaluate import first_examples
from trainers.verify import AVAILABLE_METHODS

EXACT = "exact.json"
TIMEOUT_S = 60.0
_SHARE_OF_SEARCH, _LEAST_S, _MOST_S = 1 / 3, 60.0, 3600.0


def certify_front(
    result: StudyResult,
    *,
    timeout_s: float = TIMEOUT_S,
    budget_s: float | None = None,
    workers: int | None = None,
    observers: Sequence[Observer] | None = None,
) -> StudyResult:
    """Find exact verdicts for each member of a search's front, and record them with its trial.

    On the validation split, the same examples, radius and attack as at the trial's end, by all
    steps that there are; best verified accuracy first. Members that have them already, from an
    earlier call or an interrupted one, are left alone. An example is given up after `timeout_s`
    seconds, everything after `budget_s` (`certification_budget` when None), of which each member
    gets an equal share of what is left. A member whose verdicts time left behind those of its own
    trial gets no figures. `workers` programs are solved at a time (None: one for each CPU).
    `observers` are told (when None, a new writer to the study's MLflow store).

    A member whose ticket cannot be read or contradicts its own figures is told to the observers,
    and the others go on.
    """
    if observers is None:
        tracker = MlflowTracker(result.study.tracking.uri)
        tracker.on_study_start(result.run, result.records)
        observers = (tracker,)
        tracker.on_study_end(result.run, result.records)
    path = result.run.folder / EXACT
    known = _read(path)
    todo = [record for record in result.front if record.number not in known]
    todo.sort(key=lambda record: -record.metrics.get("verified_accuracy", 0.0))
    budget_s = certification_budget(result.records) if budget_s is None else budget_s
    for observer in observers:
        observer.on_certify_start(known, todo, budget_s)
    deadline = time.perf_counter() + budget_s
    try:
        for place, record in enumerate(todo):
            left = max(0.0, deadline - time.perf_counter()) / (len(todo) - place)
            found = _certified(record, Limits.from_now(timeout_s, left, workers))
            if isinstance(found, ExactVerdicts):
                known[record.number] = found
                _write(path, known)
            for observer in observers:
                observer.on_certified(record, found)
    finally:
        for observer in observers:
            observer.on_certify_end()
    return replace(result, exact=known)


def certification_budget(records: Sequence[TrialRecord]) -> float:
    """Seconds for all exact verdicts: a third of what the trials took, 1 minute to 1 hour."""
    spent = sum(record.seconds for record in records)
    return min(max(_SHARE_OF_SEARCH * spent, _LEAST_S), _MOST_S)


def _certified(record: TrialRecord, limits: Limits) -> ExactVerdicts | str:
    """Exact verdicts, or why there are none."""
    try:
        return _verdicts(record, limits)
    except ValueError as error:  # all errors that name a mistake in a ticket, data or network
        return str(error)


def _verdicts(record: TrialRecord, limits: Limits) -> ExactVerdicts | str:
    if record.ticket is None:
        raise TicketError("the trial has left no ticket")
    started = time.perf_counter()
    judge = Judge(load_ticket(record.ticket), record.ticket, limits)
    told = judge.ticket.provenance
    x_BCHW, y_B = first_examples(judge.load(told.split), told.num_examples)
    results = judge.verdicts(x_BCHW, y_B, (told.radius,), AVAILABLE_METHODS)
    found, own = results[told.radius], record.metrics.get("verified_accuracy", 0.0)
    if own > found.falsified_accuracy_bound + math.ceil(len(y_B) / 1000) / len(y_B) + 1e-9:
        raise TicketError(
            f"{record.name} claims verified_accuracy {own:.4f}, but counterexamples leave "
            f"{found.falsified_accuracy_bound:.4f}: one of them is wrong; report it, with "
            f"{record.ticket}"
        )
    num_late = found.method.count("timeout")
    if num_late and found.verified_accuracy < own:
        return (
            f"time ran out with {num_late} examples open and fewer verified than by the trial "
            "itself; --resume goes on"
        )
    return ExactVerdicts(
        verified_accuracy=found.verified_accuracy,
        falsified_accuracy_bound=found.falsified_accuracy_bound,
        bound="+".join(AVAILABLE_METHODS),
        split=told.split,
        num_examples=len(y_B),
        num_unknown=found.verdicts.count("unknown"),
        seconds=round(time.perf_counter() - started, 3),
    )


def _read(path: Path) -> dict[int, ExactVerdicts]:
    if not path.exists():
        return {}
    return {int(k): ExactVerdicts(**v) for k, v in json.loads(path.read_text()).items()}


def _write(path: Path, known: Mapping[int, ExactVerdicts]) -> None:
    document = {str(number): asdict(found) for number, found in sorted(known.items())}
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode())
