"""Thinning by epsilon-dominance: hand-worked fronts, then what holds for all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.epsilon import Tolerance, stand_ins
from analysis.errors import FrontError
from analysis.pareto import nondominated

MIXED = ("maximize", "minimize")


def tolerances(*texts: str) -> list[Tolerance]:
    return [Tolerance.parse("it", text) for text in texts]


def test_a_point_that_is_hardly_better_is_stood_for() -> None:
    # Less than 0.005 more accurate for three times the FLOPs; a tenth more for twice as many.
    points = [(0.804, 30), (0.8, 10), (0.9, 20)]
    assert stand_ins(points, MIXED, tolerances("0.005", "0")) == [1, 1, 2]


def test_a_percentage_is_of_the_value() -> None:
    points = [(0.9, 104), (0.89, 100)]
    assert stand_ins(points, MIXED, tolerances("0", "5%")) == [0, 0]
    assert stand_ins(points, MIXED, tolerances("0", "3%")) == [0, 1]
    assert stand_ins(points, MIXED, tolerances("2%", "0")) == [1, 1]


def test_the_tolerance_itself_is_within_it_whatever_the_rounding() -> None:
    points = [(0.925, 20), (0.92, 10)]
    assert stand_ins(points, MIXED, tolerances("0.005", "0")) == [1, 1]


def test_of_points_that_stand_for_each_other_the_first_is_kept() -> None:
    points = [(0.90, 100), (0.89, 99), (0.88, 98), (0.87, 97)]
    # Each stands for its neighbours, but not for the next but one.
    assert stand_ins(points, MIXED, tolerances("0.01", "1")) == [0, 0, 2, 2]


def test_without_tolerance_only_equal_points_are_stood_for() -> None:
    points = [(0.9, 10), (0.8, 5), (0.9, 10)]
    assert stand_ins(points, MIXED, tolerances("0", "0")) == [0, 1, 0]


def test_in_a_circle_the_first_is_kept_though_another_stands_for_it() -> None:
    # Each epsilon-dominates the next (1 worse in two) and not the one before (2 worse in one).
    points = [(0, 1, 2), (2, 0, 1), (1, 2, 0)]
    assert stand_ins(points, ("minimize",) * 3, tolerances("1", "1", "1")) == [0, 0, 2]


figures = st.integers(0, 20).map(float)
points_of_two = st.lists(st.tuples(figures, figures), min_size=1, max_size=15)
given_two = st.sampled_from([("0", "0"), ("1", "3"), ("2", "20%"), ("50%", "10%"), ("4", "0")])


def stands_for(kept, other, directions, within) -> bool:
    for a, b, direction, tolerance in zip(kept, other, directions, within, strict=True):
        small, large = (a, b) if direction == "minimize" else (b, a)
        by = tolerance.value * large if tolerance.relative else tolerance.value
        if small > large + by + 1e-9:
            return False
    return True


@given(points_of_two, given_two)
def test_every_point_is_stood_for_and_none_that_is_kept_by_another(points, texts) -> None:
    within = tolerances(*texts)
    keep = nondominated(points, MIXED)
    front = [p for p, kept in zip(points, keep, strict=True) if kept]
    places = stand_ins(front, MIXED, within)
    kept = [front[k] for k in sorted(set(places))]
    assert all(places[k] == k for k in set(places))
    assert all(stands_for(front[k], p, MIXED, within) for p, k in zip(front, places, strict=True))
    assert all(any(stands_for(k, p, MIXED, within) for k in kept) for p in points)
    for a in kept:
        assert not any(stands_for(b, a, MIXED, within) for b in kept if b is not a)


@given(
    st.lists(st.tuples(figures, figures, figures), min_size=1, max_size=15),
    st.sampled_from([("1", "1", "1"), ("2", "10%", "0"), ("5", "5", "30%")]),
)
def test_every_point_of_three_figures_is_stood_for(points, texts) -> None:
    directions, within = ("maximize", "maximize", "minimize"), tolerances(*texts)
    places = stand_ins(points, directions, within)
    assert all(
        stands_for(points[k], p, directions, within) for p, k in zip(points, places, strict=True)
    )


@given(points_of_two, given_two, st.randoms(use_true_random=False))
def test_what_is_kept_does_not_depend_on_the_order_of_recording(points, texts, random) -> None:
    def kept(some: list[tuple[float, float]]) -> set[tuple[float, float]]:
        order = sorted(some, key=lambda p: (-p[0], p[1]))  # as a table is ordered
        return {order[k] for k in stand_ins(order, MIXED, tolerances(*texts))}

    mixed = points.copy()
    random.shuffle(mixed)
    assert kept(mixed) == kept(points)


def test_a_thousand_points_take_no_time() -> None:
    values = np.random.default_rng(0).random((1000, 3))
    assert len(stand_ins(values, ("minimize",) * 3, tolerances("0.1", "5%", "0"))) == 1000


@pytest.mark.parametrize("text", ["much", "-0.1", "nan", "inf", "-5%", "%", ""])
def test_what_is_no_tolerance_is_told(text: str) -> None:
    with pytest.raises(FrontError, match="epsilon of it: .* for example 5%"):
        Tolerance.parse("it", text)
