"""Intervals and tests of shares, by hand and against the definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.intervals import can_be_told_apart, largest_p_value, wilson


def test_wilson_intervals_are_those_of_the_tables() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_the_same_number_of_right_answers_tells_nothing() -> None:
    assert largest_p_value(250, 250, 300) == 1.0


def test_a_perfect_network_leaves_no_choice_of_pairing() -> None:
    # It is right wherever the other one is wrong: six coins fall the same way, twice 1/64.
    assert largest_p_value(100, 94, 100) == pytest.approx(2 / 64)
    assert can_be_told_apart(94, 100, 100)
    assert largest_p_value(100, 95, 100) == pytest.approx(2 / 32)
    assert not can_be_told_apart(95, 100, 100)


def test_the_least_favourable_pairing_counts() -> None:
    # 3 of 4 and 1 of 4: the second may be right where the first is wrong, so that they differ on
    # all four, 3 to 1. Two-sided: 2 (1 + 4) / 16.
    assert largest_p_value(3, 1, 4) == pytest.approx(10 / 16)


def mcnemar(only_first: int, only_second: int) -> float:
    total = only_first + only_second
    few = min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(few + 1)) / 2**total)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[st.integers(0, n)] * 2, st.just(n))))
def test_it_is_the_largest_over_all_pairings(counts: tuple[int, int, int]) -> None:
    first, second, n = counts
    both = range(max(0, first + second - n), min(first, second) + 1)
    largest = max(mcnemar(first - k, second - k) for k in both)
    assert largest_p_value(first, second, n) == pytest.approx(largest, rel=1e-9)


def test_many_examples_need_neither_time_nor_large_numbers() -> None:
    assert not can_be_told_apart(50_000, 50_200, 100_000)
    assert can_be_told_apart(50_000, 51_000, 100_000)
    assert largest_p_value(0, 100_000, 100_000) == 0.0
