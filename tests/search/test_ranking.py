"""Who is on the front."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_trials import toy_study

from search.ranking import GrowingFront, front, pareto_ranks, violation
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


def test_a_front_grows_by_one_trial_at_a_time(tmp_path: Path) -> None:
    growing = GrowingFront(toy_study(tmp_path, constraints=["natural_accuracy >= 0.6"]))
    assert growing.add(record(0, 0.8, 0.7, 6))
    assert not growing.add(record(1, 0.7, 0.7, 7))  # dominated by 0
    assert growing.add(record(2, 0.8, 0.7, 6))  # equal to 0
    assert growing.add(record(3, 0.9, 0.1, 99))
    assert growing.members == {0, 2, 3}
    assert growing.add(record(4, 0.8, 0.7, 5))  # dominates 0 and 2
    assert growing.members == {3, 4}
    assert not growing.add(record(4, 0.8, 0.7, 5))  # entered once more
    assert not growing.add(record(5, 0.5, 1.0, 1))  # infeasible
    assert not growing.add(record(6, 1.0, 1.0, 1, state="stopped"))
    assert growing.members == {3, 4}


@pytest.mark.parametrize("seed", range(5))
def test_a_growing_front_is_the_front(tmp_path: Path, seed: int) -> None:
    study = toy_study(tmp_path, constraints=["natural_accuracy >= 0.2"])
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, (80, 3)) / 5  # coarse, so that there are ties
    growing = GrowingFront(study)
    records = []
    for number, (natural, verified, flops) in enumerate(values):
        records.append(record(number, natural, verified, flops))
        growing.add(records[-1])
        ranks = pareto_ranks(study, records)
        assert growing.members == {n for n, rank in ranks.items() if rank == 0}
        assert growing.members == {r.number for r in front(study, records)}
