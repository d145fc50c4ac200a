"""Exact verdicts: one program for each class that bounds leave open, most dangerous first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from trainers.verify.relu_program import (
    TIGHT,
    Array,
    ReluProgram,
    least_margin,
    reach_of_tolerances,
)

SOLVER_MARGIN = 1e-5
"""Share of the largest logit by which a program must prove more than bounds must, at least."""

Outcome = Literal["verified", "falsified", "open", "timeout"]
Replay = Callable[[Array], bool]


@torch.no_grad()
def decide(
    program: ReluProgram,
    classes: Sequence[int],
    slack: float,
    unit: float,
    deadline: float,
    replay: Replay,
) -> Outcome:
    """The verdict on one example whose margins to all but `classes` are proven.

    Verified when no margin can be as small as `slack`, what bounds must prove, plus SOLVER_MARGIN
    of `unit`, the largest logit, or, where that is more, what the solver's tolerances can hide.
    Falsified when `replay` finds the solver's point to be a counterexample; if it does not, the
    program is solved once more, to the end and with a tighter tolerance. "open" when a least margin
    is too near to zero to tell.
    """
    outcome: Outcome = "verified"
    for k in classes:
        hidden = max(SOLVER_MARGIN, reach_of_tolerances(program, k, unit))
        answer = _sign(program, k, slack + hidden * unit, unit, deadline, replay)
        if answer == "falsified":
            return answer
        outcome = answer if answer != "verified" else outcome
    return outcome


def _sign(
    program: ReluProgram, k: int, at_most: float, unit: float, deadline: float, replay: Replay
) -> Outcome:
    for tries in ({}, {"tolerance": TIGHT, "to_the_end": True}):
        answer, point = least_margin(
            program,
            k,
            at_most=at_most,
            deadline=deadline,
            unit=unit,
            **tries,  # type: ignore[arg-type]
        )
        if answer == "positive":
            return "verified"
        if point is not None and replay(point):
            return "falsified"
        if time.perf_counter() >= deadline:
            return "timeout"
    return "open"
