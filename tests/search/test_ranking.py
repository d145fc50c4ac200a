"""Who is on the front."""

from pathlib import Path
from typing import Any

import pytest
from toy_trials import toy_study

from search.ranking import front, pareto_ranks, violation
from search.records import TrialRecord


def record(number: int, natural: float, verified: float, flops: float, **more: Any) -> TrialRecord:
    metrics = {
        "natural_accuracy": natural,
        "verified_accuracy": verified,
        "inference_flops": flops,
    }
    return TrialRecord(number, {}, None, 0.0, **{"state": "completed", "metrics": metrics, **more})


def test_fronts_are_peeled_off_one_after_the_other(tmp_path: Path) -> None:
    study = toy_study(tmp_path)
    records = [
        record(0, 0.9, 0.8, 10),
        record(1, 0.8, 0.7, 5),  # cheaper than 0: also on the front
        record(2, 0.8, 0.7, 6),  # dominated by 1 only
        record(3, 0.7, 0.6, 7),  # dominated by 1 and 2
        record(4, 0.8, 0.7, 5),  # equal to 1
    ]
    assert pareto_ranks(study, records) == {0: 0, 1: 0, 4: 0, 2: 1, 3: 2}
    assert [r.number for r in front(study, records)] == [0, 1, 4]


def test_stopped_and_failed_trials_take_no_part(tmp_path: Path) -> None:
    records = [
        record(0, 0.5, 0.5, 10),
        record(1, 0.9, 0.9, 1, state="stopped"),
        record(2, 0.9, 0.9, 1, state="failed"),
        record(3, 0.9, 0.9, 1, state="running"),
    ]
    assert pareto_ranks(toy_study(tmp_path), records) == {0: 0}


def test_infeasible_trials_follow_by_violation_and_are_never_on_the_front(tmp_path: Path) -> None:
    study = toy_study(tmp_path, constraints=["natural_accuracy >= 0.85"])
    records = [record(0, 0.7, 0.9, 1), record(1, 0.9, 0.1, 99), record(2, 0.8, 0.9, 1)]
    assert pareto_ranks(study, records) == {1: 0, 2: 1, 0: 2}
    assert violation(study, records[0]) == pytest.approx(0.15)
    assert front(study, records[::2]) == ()
    assert pareto_ranks(study, records[::2]) == {2: 1, 0: 2}
