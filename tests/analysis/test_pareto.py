"""Pareto sets against hand-worked examples, then against the definition."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.pareto import hypervolume, knee, nondominated, pareto_front

MIXED = ("maximize", "minimize")


def test_a_point_is_dropped_when_another_is_no_worse_anywhere_and_better_somewhere() -> None:
    points = [(0.9, 10), (0.9, 20), (0.8, 5), (0.7, 5), (0.95, 30)]
    assert nondominated(points, MIXED) == [True, False, True, False, True]


def test_equal_points_are_all_kept() -> None:
    assert nondominated([(0.9, 10), (0.9, 10), (0.1, 99)], MIXED) == [True, True, False]


def test_no_points_have_no_front() -> None:
    assert nondominated([], MIXED) == []
    assert hypervolume([], MIXED, (0.0, 1.0)) == 0.0


@pytest.mark.parametrize(
    ("points", "directions", "words"),
    [
        ([(0.5, math.nan)], MIXED, "point 0 is not a number in objective 1"),
        ([(0.5, 1.0), (math.inf, 1.0)], MIXED, "point 1 is infinite in objective 0"),
        ([(0.5,)], MIXED, "point 0 has 1 values for 2 objectives"),
        ([(0.5, 1.0)], ("maximize", "up"), "'up'"),
    ],
)
def test_what_cannot_be_compared_is_refused(points, directions, words) -> None:
    with pytest.raises(ValueError, match=words):
        nondominated(points, directions)


values = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)
directions = st.tuples(*[st.sampled_from(["maximize", "minimize"])] * 3)


@given(values, directions)
def test_the_front_is_what_the_definition_says(points, directions) -> None:
    signs = [1 if d == "minimize" else -1 for d in directions]

    def dominates(a, b) -> bool:
        pairs = [(s * u, s * v) for s, u, v in zip(signs, a, b, strict=True)]
        return all(u <= v for u, v in pairs) and any(u < v for u, v in pairs)

    expected = [not any(dominates(q, p) for q in points) for p in points]
    assert nondominated(points, directions) == expected


def test_hypervolume_is_the_area_between_the_points_and_the_reference() -> None:
    # Two boxes above (0, 10): 0.5 wide and 8 high, then 0.4 more, 5 high.
    assert hypervolume([(0.5, 2), (0.9, 5)], MIXED, (0.0, 10)) == pytest.approx(0.5 * 8 + 0.4 * 5)


def test_a_point_worse_than_the_reference_adds_no_volume() -> None:
    assert hypervolume([(0.5, 12)], MIXED, (0.0, 10)) == 0.0


@given(values, directions)
def test_dominated_points_add_no_volume(points, directions) -> None:
    reference = [5.0 if d == "minimize" else -1.0 for d in directions]
    kept = [p for p, k in zip(points, nondominated(points, directions), strict=True) if k]
    assert hypervolume(points, directions, reference) == pytest.approx(
        hypervolume(kept, directions, reference)
    )


def test_the_knee_is_the_point_nearest_to_the_best_of_everything() -> None:
    # Scaled costs: (1, 0), (0.25, 0.2), (0, 1); distances 1, 0.32, 1.
    assert knee([(0.5, 10), (0.8, 30), (0.9, 110)], MIXED) == 1


def test_the_knee_does_not_depend_on_units_or_on_objectives_that_all_share() -> None:
    points = [(0.5, 10, 7), (0.8, 30, 7), (0.9, 110, 7)]
    scaled = [(100 * a, b / 1000, c) for a, b, c in points]
    three = (*MIXED, "maximize")
    assert knee(points, three) == knee(scaled, three) == 1
    assert knee(points[:1], three) == 0


RECORDS = [
    {"name": "a", "verified_accuracy": 0.8, "inference_flops": 10},
    {"name": "b", "verified_accuracy": 0.7, "inference_flops": 20},
    {"name": "c", "verified_accuracy": 0.9, "inference_flops": 30},
]


def test_pareto_front_knows_which_way_each_metric_is_better() -> None:
    front = pareto_front(RECORDS, ["verified_accuracy", "inference_flops"])
    assert [r["name"] for r in front] == ["a", "c"]


def test_pareto_front_takes_directions_for_names_of_your_own_and_data_frames() -> None:
    frame = pd.DataFrame(RECORDS).rename(columns={"inference_flops": "joules"})
    front = pareto_front(frame, {"verified_accuracy": "maximize", "joules": "minimize"})
    assert isinstance(front, pd.DataFrame)
    assert list(front["name"]) == ["a", "c"]


def test_pareto_front_names_an_unknown_metric_and_a_record_without_it() -> None:
    with pytest.raises(ValueError, match="joules"):
        pareto_front(RECORDS, ["joules"])
    with pytest.raises(ValueError, match="record 0 has no density"):
        pareto_front(RECORDS, ["density"])
    with pytest.raises(ValueError, match="neither more nor less is better"):
        pareto_front(RECORDS, ["epoch"])
    with pytest.raises(ValueError, match="at least one"):
        pareto_front(RECORDS, [])
