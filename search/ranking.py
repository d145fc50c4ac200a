"""Which trials of a study are on its front, and in which order the others follow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from analysis.pareto import nondominated
from search.records import TrialRecord
from spaces.study import StudyConfig


def pareto_ranks(study: StudyConfig, records: Iterable[TrialRecord]) -> dict[int, int]:
    """Rank of each completed trial by number; rank 0 is the front.

    Trials that satisfy every constraint come first: rank k of them is the front that is left when
    ranks below k are taken away. Each of the others follows, by its summed violation; they are
    never on the front, even when no trial is feasible.
    """
    completed = [record for record in records if record.state == "completed"]
    open_ = [record for record in completed if violation(study, record) == 0.0]
    ranks: dict[int, int] = {}
    level = 0
    while open_:
        values = [[record.metrics[name] for name in study.objectives] for record in open_]
        kept = nondominated(values, study.directions)
        ranks.update({r.number: level for r, keep in zip(open_, kept, strict=True) if keep})
        open_ = [r for r, keep in zip(open_, kept, strict=True) if not keep]
        level += 1
    infeasible = [record for record in completed if record.number not in ranks]
    infeasible.sort(key=lambda record: violation(study, record))
    ranks.update({r.number: max(level, 1) + place for place, r in enumerate(infeasible)})
    return ranks


def front(study: StudyConfig, records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The records on the front, in their order."""
    open_ = [r for r in records if r.state == "completed" and violation(study, r) == 0.0]
    values = [[record.metrics[name] for name in study.objectives] for record in open_]
    kept = nondominated(values, study.directions)
    return tuple(record for record, keep in zip(open_, kept, strict=True) if keep)


class GrowingFront:
    """The front of the trials that have completed so far: `members`, by number.

    A trial that is not on the front when it completes, or is pushed off it later, never returns:
    one more trial costs one comparison with each member.
    """

    def __init__(self, study: StudyConfig) -> None:
        self._study = study
        self._signs = [-1.0 if d == "maximize" else 1.0 for d in study.directions]
        self._numbers: list[int] = []
        self._costs = np.empty((0, len(self._signs)))

    @property
    def members(self) -> frozenset[int]:
        """The numbers of the trials on the front."""
        return frozenset(self._numbers)

    def add(self, record: TrialRecord) -> bool:
        """Enter a trial; return whether the front has changed. Entering it again does nothing."""
        if record.state != "completed" or record.number in self._numbers:
            return False
        if violation(self._study, record) > 0.0:
            return False
        cost = np.multiply(self._signs, [record.metrics[name] for name in self._study.objectives])
        if ((self._costs <= cost).all(axis=1) & (self._costs < cost).any(axis=1)).any():
            return False
        beaten = (cost <= self._costs).all(axis=1) & (cost < self._costs).any(axis=1)
        stay = np.flatnonzero(np.logical_not(beaten))
        self._numbers = [*(self._numbers[place] for place in stay), record.number]
        self._costs = np.vstack([self._costs[stay], cost])
        return True


def violation(study: StudyConfig, record: TrialRecord) -> float:
    """By how much a completed trial misses the study's constraints, summed; 0 if it holds them."""
    return sum(max(0.0, c.violation(record.metrics)) for c in study.constraints)
