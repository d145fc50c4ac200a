"""Which trials of a study are on its front, and in which order the others follow."""

from __future__ import annotations

from collections.abc import Iterable

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
    records = tuple(records)
    ranks = pareto_ranks(study, records)
    return tuple(record for record in records if ranks.get(record.number) == 0)


def violation(study: StudyConfig, record: TrialRecord) -> float:
    """By how much a completed trial misses the study's constraints, summed; 0 if it holds them."""
    return sum(max(0.0, c.violation(record.metrics)) for c in study.constraints)
