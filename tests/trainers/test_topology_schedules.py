"""When drop/grow methods update, how much they drop, and the counts that follow."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.topology.schedules import (
    LayerUpdate,
    drop_fraction,
    interval,
    plan_layer,
    update_steps,
)


def test_updates_are_multiples_up_to_the_end() -> None:
    assert list(update_steps(10, 0.75, 100)) == [10, 20, 30, 40, 50, 60, 70]
    assert list(update_steps(25, 0.75, 100)) == [25, 50, 75]  # the end itself is included


def test_the_last_training_step_is_never_an_update() -> None:
    assert list(update_steps(25, 1.0, 100)) == [25, 50, 75]


@pytest.mark.parametrize(("every", "end"), [(101, 1.0), (1, 0.0), (50, 0.4)])
def test_there_may_be_no_update(every: int, end: float) -> None:
    assert list(update_steps(every, end, 100)) == []


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear"])
def test_every_schedule_starts_with_exactly_the_initial_fraction(schedule: str) -> None:
    assert drop_fraction(schedule, 0.3, 0.0) == 0.3


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.0), ("constant", 0.3), ("linear", 0.0)])
def test_ends_exactly(schedule: str, end: float) -> None:
    assert drop_fraction(schedule, 0.3, 1.0) == end


@pytest.mark.parametrize(
    ("schedule", "expected"), [("cosine", 0.2 * (1 + math.sqrt(0.5))), ("linear", 0.3)]
)
def test_a_quarter_of_the_way(schedule: str, expected: float) -> None:
    assert drop_fraction(schedule, 0.4, 0.25) == pytest.approx(expected, rel=1e-12)


def plan(
    size: int, final: int, *fractions: float, rate: float = 1.0, may_regrow: bool = True
) -> list[tuple[int, ...]]:
    updates = [(10 * (i + 1), f) for i, f in enumerate(fractions)]
    result = plan_layer(size, final, updates, regrowth_rate=rate, may_regrow=may_regrow)
    assert all(isinstance(update, LayerUpdate) for update in result)
    return [tuple(update) for update in result]


def test_rate_one_drops_the_integer_part_and_grows_as_many() -> None:
    assert plan(100, 25, 0.3, 0.15) == [(0, 0, 0, 25), (10, 7, 7, 25), (20, 3, 3, 25)]


def test_without_updates_the_start_is_the_final_count() -> None:
    assert plan(100, 25, rate=0.5) == [(0, 0, 0, 25)]


def test_a_rate_below_one_starts_denser_and_ends_exactly() -> None:
    # Backwards: 40 / (1 - 0.2 * 0.5) = 44.4 -> 44; 44 / (1 - 0.4 * 0.5) = 55.
    # Forwards: int(0.4 * 55) = 22 dropped, 11 grown; int(0.2 * 44) = 8 dropped, 4 grown.
    assert plan(100, 40, 0.4, 0.2, rate=0.5) == [(0, 0, 0, 55), (10, 22, 11, 44), (20, 8, 4, 40)]


def test_a_rate_above_one_starts_sparser_and_ends_exactly() -> None:
    # Backwards: 40 / (1 + 0.25) = 32; forwards: int(0.25 * 32) = 8 dropped, 16 grown.
    assert plan(100, 40, 0.25, rate=2.0) == [(0, 0, 0, 32), (10, 8, 16, 40)]


def test_the_start_is_capped_at_a_full_layer() -> None:
    # 90 / (1 - 0.4 * 0.5) = 112.5 does not fit: the layer starts full and 40 - 10 are grown back.
    assert plan(100, 90, 0.4, rate=0.5) == [(0, 0, 0, 100), (10, 40, 30, 90)]


def test_rounding_never_asks_for_negative_growth() -> None:
    # 10 / (1 - 0.05 * 0.99) = 10.52 -> 11, but int(0.05 * 11) = 0: one is dropped all the same.
    assert plan(100, 10, 0.05, rate=0.01) == [(0, 0, 0, 11), (10, 1, 0, 10)]


def test_without_regrowth_a_layer_drops_no_more_than_there_is_room_to_grow() -> None:
    assert plan(100, 90, 0.5) == [(0, 0, 0, 90), (10, 45, 45, 90)]
    assert plan(100, 90, 0.5, may_regrow=False) == [(0, 0, 0, 90), (10, 10, 10, 90)]
    assert plan(100, 100, 0.5, may_regrow=False) == [(0, 0, 0, 100), (10, 0, 0, 100)]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_every_plan_is_feasible_monotone_and_exact_at_the_end(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 500))
    final = data.draw(st.integers(1, size))
    fractions = data.draw(st.lists(st.floats(0.0, 0.99), max_size=12))
    rate = data.draw(st.floats(0.01, 2.0))
    may_regrow = data.draw(st.booleans())
    steps = plan(size, final, *fractions, rate=rate, may_regrow=may_regrow)
    assert steps[-1][3] == final
    for (*_, before), (_, num_drop, num_grow, after) in zip(steps, steps[1:], strict=False):
        kept = before - num_drop
        room = size - kept if may_regrow else size - before
        assert kept >= 1 and num_drop >= 0 and 0 <= num_grow <= room
        assert after == kept + num_grow and 1 <= after <= size
        assert (rate <= 1 and after <= before) or (rate >= 1 and after >= before)


@pytest.mark.parametrize(
    ("update_every", "span", "expected"),
    [(7, 10, 7), (None, 10_000, 100), (None, 500, 100), (None, 120, 24), (None, 3, 1)],
)
def test_without_an_interval_it_is_100_steps_or_a_fifth_of_the_time(
    update_every: int | None, span: int, expected: int
) -> None:
    assert interval(update_every, span) == expected
