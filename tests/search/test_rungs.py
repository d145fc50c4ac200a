"""Asynchronous successive halving."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.rungs import Rungs


def test_rungs_lie_at_grace_times_powers_of_the_factor_below_the_last_epoch() -> None:
    assert Rungs(3, 3, 20).levels == (3, 9)
    assert Rungs(3, 3, 27).levels == (3, 9)
    assert Rungs(3, 3, 28).levels == (3, 9, 27)
    assert Rungs(1, 2, 9).levels == (1, 2, 4, 8)
    assert Rungs(20, 3, 20).levels == ()


def test_a_rung_worked_by_hand() -> None:
    rungs = Rungs(2, 3, 20)
    # arrivals in order; n // 3 is 0, 0, 1, 1, 1, 2, and at least one may always go on
    arrivals = [(0, 0.5, True), (1, 0.4, False), (2, 0.6, True), (3, 0.55, False)]
    arrivals += [(4, 0.7, True), (5, 0.65, True), (6, 0.62, False)]
    for trial, score, goes_on in arrivals:
        assert rungs.decide(trial, 2, score) is goes_on, trial


def test_between_rungs_a_trial_goes_on_whatever_its_score() -> None:
    rungs = Rungs(2, 3, 20)
    assert rungs.decide(0, 2, 0.9)
    assert rungs.decide(1, 1, -5.0)
    assert rungs.decide(0, 3, -5.0)
    assert rungs.decide(0, 5, math.nan)


def test_a_rung_is_decided_once_and_late_arrivals_count_for_the_highest_rung_reached() -> None:
    rungs = Rungs(2, 2, 20)
    assert rungs.decide(0, 2, 0.9)
    assert rungs.decide(0, 2, 0.1)
    assert rungs.decide(0, 5, 0.9)  # first report after rung 4
    assert not rungs.decide(1, 4, 0.5)
    assert not rungs.decide(2, 2, 0.5)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_goes_on_and_beats_nobody(score: float) -> None:
    rungs = Rungs(1, 2, 8)
    assert not rungs.decide(0, 1, score)
    assert rungs.decide(1, 1, 0.0)
    assert not rungs.decide(2, 1, -0.5)


def test_equal_scores_all_go_on() -> None:
    rungs = Rungs(1, 3, 8)
    assert all(rungs.decide(trial, 1, 0.1) for trial in range(10))


def test_brackets_start_later_and_do_not_compete() -> None:
    rungs = Rungs(1, 3, 10, brackets=2)
    assert rungs.decide(0, 1, 0.9)
    assert rungs.decide(1, 1, 0.0)  # bracket 1 has its first rung at epoch 3
    assert rungs.decide(1, 3, 0.1)
    assert not rungs.decide(2, 1, 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(2, 5))
def test_same_decisions_as_sorting_the_whole_rung(scores: list[float], factor: int) -> None:
    rungs = Rungs(1, factor, 2)
    for number, score in enumerate(scores):
        seen = sorted(scores[: number + 1], reverse=True)
        cutoff = seen[max(1, len(seen) // factor) - 1]
        assert rungs.decide(number, 1, score) is (score >= cutoff)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), max_size=40), st.floats(0, 1))
def test_rungs_rebuilt_from_recorded_scores_decide_alike(
    history: list[tuple[int, float]], score: float
) -> None:
    lived, rebuilt = Rungs(1, 2, 9, brackets=2), Rungs(1, 2, 9, brackets=2)
    for number, (epoch, value) in enumerate(history):
        lived.decide(number, epoch, value)
        rebuilt.record(number, epoch, value)
    for epoch in range(1, 10):
        trial = 1000 + epoch
        assert lived.decide(trial, epoch, score) is rebuilt.decide(trial, epoch, score)
