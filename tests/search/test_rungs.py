"""Asynchronous successive halving."""

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.orders import Figures, pareto_places
from search.rungs import Asha, Moasha, build_rule
from spaces.constraint import Constraint


def goes_on(rungs: Asha, trial: int, epoch: int, score: float) -> bool:
    return rungs.decide(trial, epoch, (score,)) is None


def test_rungs_lie_at_grace_times_powers_of_the_factor_below_the_last_epoch() -> None:
    assert Asha(3, 3, 20).levels == (3, 9)
    assert Asha(3, 3, 27).levels == (3, 9)
    assert Asha(3, 3, 28).levels == (3, 9, 27)
    assert Asha(1, 2, 9).levels == (1, 2, 4, 8)
    assert Asha(20, 3, 20).levels == ()


def test_a_rung_worked_by_hand() -> None:
    rungs = Asha(2, 3, 20)
    # arrivals in order; n // 3 is 0, 0, 1, 1, 1, 2, and at least one may always go on
    arrivals = [(0, 0.5, True), (1, 0.4, False), (2, 0.6, True), (3, 0.55, False)]
    arrivals += [(4, 0.7, True), (5, 0.65, True), (6, 0.62, False)]
    for trial, score, expected in arrivals:
        assert goes_on(rungs, trial, 2, score) is expected, trial


def test_between_rungs_a_trial_goes_on_whatever_its_score() -> None:
    rungs = Asha(2, 3, 20)
    assert goes_on(rungs, 0, 2, 0.9)
    assert goes_on(rungs, 1, 1, -5.0)
    assert goes_on(rungs, 0, 3, -5.0)
    assert goes_on(rungs, 0, 5, math.nan)


def test_a_rung_is_decided_once_and_late_arrivals_count_for_the_highest_rung_reached() -> None:
    rungs = Asha(2, 2, 20)
    assert goes_on(rungs, 0, 2, 0.9)
    assert goes_on(rungs, 0, 2, 0.1)
    assert goes_on(rungs, 0, 5, 0.9)  # first report after rung 4
    assert not goes_on(rungs, 1, 4, 0.5)
    assert not goes_on(rungs, 2, 2, 0.5)


def test_leaders_are_the_best_share_at_the_highest_rung_with_enough_trials() -> None:
    rungs = Asha(1, 2, 8)
    assert rungs.leaders(1, 0.5) == []
    assert rungs.judged() == set()
    for trial, score in enumerate((0.1, 0.5, 0.3, 0.5, 0.2)):
        rungs.record(trial, 1, (score,))
    rungs.record(0, 2, (0.9,))
    rungs.record(2, 2, (0.8,))
    assert rungs.judged() == {0, 1, 2, 3, 4}
    assert rungs.leaders(6, 0.5) == []
    assert rungs.leaders(5, 0.25) == [1, 3]  # two of five, equal scores by number
    assert rungs.leaders(3, 0.5) == [1, 3, 2]
    assert rungs.leaders(2, 0.5) == [0]


def test_a_score_that_is_not_finite_never_leads() -> None:
    rungs = Asha(1, 2, 8)
    for trial, score in enumerate((math.nan, math.inf, 0.1)):
        rungs.record(trial, 1, (score,))
    assert rungs.leaders(3, 1.0) == [2]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_goes_on_and_beats_nobody(score: float) -> None:
    rungs = Asha(1, 2, 8)
    assert not goes_on(rungs, 0, 1, score)
    assert goes_on(rungs, 1, 1, 0.0)
    assert not goes_on(rungs, 2, 1, -0.5)


def test_equal_scores_all_go_on() -> None:
    rungs = Asha(1, 3, 8)
    assert all(goes_on(rungs, trial, 1, 0.1) for trial in range(10))


def test_brackets_start_later_and_do_not_compete() -> None:
    rungs = Asha(1, 3, 10, brackets=2)
    assert goes_on(rungs, 0, 1, 0.9)
    assert goes_on(rungs, 1, 1, 0.0)  # bracket 1 has its first rung at epoch 3
    assert goes_on(rungs, 1, 3, 0.1)
    assert not goes_on(rungs, 2, 1, 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(2, 5))
def test_same_decisions_as_sorting_the_whole_rung(scores: list[float], factor: int) -> None:
    rungs = Asha(1, factor, 2)
    for number, score in enumerate(scores):
        seen = sorted(scores[: number + 1], reverse=True)
        cutoff = seen[max(1, len(seen) // factor) - 1]
        assert goes_on(rungs, number, 1, score) is (score >= cutoff)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), max_size=40), st.floats(0, 1))
def test_rungs_rebuilt_from_recorded_scores_decide_alike(
    history: list[tuple[int, float]], score: float
) -> None:
    lived, rebuilt = Asha(1, 2, 9, brackets=2), Asha(1, 2, 9, brackets=2)
    for number, (epoch, value) in enumerate(history):
        goes_on(lived, number, epoch, value)
        rebuilt.record(number, epoch, (value,))
    for epoch in range(1, 10):
        trial = 1000 + epoch
        assert goes_on(lived, trial, epoch, score) is goes_on(rebuilt, trial, epoch, score)


# Several objectives -------------------------------------------------------------------------------


def order(losses: Any, costs: Any = None, violations: Any = None, factor: int = 2) -> list[int]:
    """The place of each of the trials at a rung."""
    table = np.asarray(losses, dtype=float)
    n = len(table)
    figures = Figures(
        table,
        np.zeros((n, 0)) if costs is None else np.asarray(costs, dtype=float).reshape(n, -1),
        np.zeros(n) if violations is None else np.asarray(violations, dtype=float),
    )
    return pareto_places(figures, range(n), factor)


def test_fronts_come_first_and_within_one_the_trials_that_differ_most() -> None:
    # The front is (0, 4), (1.5, 1.5), (4, 0); nearest to the ideal point is the one in the middle.
    places = order([[0, 4], [1.5, 1.5], [1.6, 1.6], [4, 0]], factor=1)
    assert places[1] == 0
    assert sorted([places[0], places[3]]) == [1, 2]
    assert places[2] == 3


def test_scales_of_objectives_do_not_matter() -> None:
    losses = np.array([[0, 4], [1, 2.5], [2, 2], [3, 0.5], [5, 5]])
    assert order(losses, factor=1) == order(losses * [1e6, 1e-6], factor=1)


def test_a_newcomer_that_dominates_all_is_first_and_one_dominated_by_most_is_late() -> None:
    others = [[k, 9 - k] for k in range(1, 9)]
    costs = list(range(9))
    assert order([*others, [0, 0]], [*costs[:8], 0])[-1] == 0
    assert order([*others, [9, 9]], [*costs[:8], 4])[-1] == 8


def test_equal_trials_share_a_place() -> None:
    assert order([[1, 1]] * 5) == [0] * 5


def test_infeasible_trials_follow_all_feasible_ones_by_their_violation() -> None:
    places = order([[0, 0], [5, 5], [1, 1]], violations=[0.2, 0.0, 0.1])
    assert places == [2, 0, 1]


def test_a_cheap_trial_cannot_hide_a_hopeless_score_behind_its_price() -> None:
    # Costs 1 to 9, losses falling with cost as they usually do; the cheapest learns nothing.
    costs = np.arange(1.0, 10.0)
    losses = (1.0 / costs)[:, None]
    losses[0] = 1.4
    assert order(losses, costs, factor=3)[0] >= 3
    # while one that does as well as somewhat dearer ones is not stopped for being cheap
    losses[0] = 0.3
    assert order(losses, costs, factor=3)[0] < 3


def naive_rank(table: np.ndarray, index: int) -> int:
    left, rank = set(range(len(table))), 0
    while True:
        front = {
            i
            for i in left
            if not any((table[j] <= table[i]).all() and (table[j] < table[i]).any() for j in left)
        }
        if index in front:
            return rank
        left, rank = left - front, rank + 1


vectors = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=24)


@given(vectors, st.integers(1, 4))
def test_places_agree_with_naive_fronts(rows: list[tuple[int, int]], factor: int) -> None:
    table = np.asarray(rows, dtype=float)
    quota = max(1, len(rows) // factor)
    ranks = [naive_rank(table, i) for i in range(len(rows))]
    for index, place in enumerate(order(table, factor=factor)):
        before = sum(rank < ranks[index] for rank in ranks)
        upto = sum(rank <= ranks[index] for rank in ranks)
        assert before <= place < max(upto, before + quota + 1)
        if not any((row < table[index]).any() for row in table):
            assert place == 0, "as good as all others in everything"


@given(vectors, st.integers(0, 23), st.integers(2, 4))
def test_a_newcomer_that_dominates_all_always_goes_on(
    rows: list[tuple[int, int]], seed: int, factor: int
) -> None:
    costs = np.random.default_rng(seed).permutation(len(rows) + 1)
    costs[-1] = costs.min()
    assert order([*rows, (-1, -1)], costs, factor=factor)[-1] == 0


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=2, max_size=30), st.integers(2, 4))
def test_one_that_many_others_beat_in_everything_never_goes_on(
    rows: list[tuple[int, int, int]], factor: int
) -> None:
    table = np.asarray(rows, dtype=float)
    quota = max(1, len(rows) // factor)
    places = order(table[:, :2], table[:, 2], factor=factor)
    for row, place in zip(table, places, strict=True):
        better = ((table <= row).all(axis=1) & (table < row).any(axis=1)).sum()
        assert place >= quota or better < quota


@given(vectors, st.integers(1, 4))
def test_places_are_the_same_whichever_trials_are_asked_for(
    rows: list[tuple[int, int]], factor: int
) -> None:
    table = np.asarray(rows, dtype=float)
    figures = Figures(table[:, :1], table[:, 1:], np.zeros(len(rows)))
    places = pareto_places(figures, range(len(rows)), factor)
    assert places == [pareto_places(figures, [k], factor)[0] for k in range(len(rows))]


def test_equal_costs_say_nothing() -> None:
    losses = [[k % 7, k % 5] for k in range(20)]
    assert order(losses, [3.0] * 20) == order(losses)


@pytest.mark.slow
def test_a_decision_among_ten_thousand_trials_takes_no_time() -> None:
    rng = np.random.default_rng(0)
    figures = Figures(rng.random((10_000, 2)), rng.random((10_000, 1)), np.zeros(10_000))
    started = time.perf_counter()
    pareto_places(figures, [9_999], 3)
    assert time.perf_counter() - started < 1.0


def moasha(**changes: Any) -> Moasha:
    settings: dict[str, Any] = {
        "objectives": ("natural_accuracy", "verified_accuracy", "inference_flops"),
        "constraints": (Constraint.parse("inference_flops <= 100"),),
        "grace_epochs": 1,
        "reduction_factor": 2,
        "max_epochs": 5,
    }
    return Moasha(**{**settings, **changes})


def report(natural: float, rung: float, flops: float) -> dict[str, float]:
    figures = {"natural_accuracy": natural, "rung_score": rung, "planned_inference_flops": flops}
    return {**figures, "verified_accuracy": 0.0, "inference_flops": 9e9}


def test_a_view_holds_what_says_something_at_a_rung() -> None:
    assert tuple(moasha().view(report(0.9, 0.7, 130.0))) == (-0.9, -0.7, 130.0, 30.0)
    assert math.isnan(moasha().view({"natural_accuracy": 0.9})[1])


def test_the_rule_stops_and_says_why() -> None:
    rule = moasha()
    assert rule.decide(0, 1, rule.view(report(0.9, 0.7, 50))) is None
    reason = rule.decide(1, 1, rule.view(report(0.8, 0.6, 50)))
    assert reason == (
        "after epoch 1 it is not among the best 1/2 of the 2 trials at this rung (natural_accuracy "
        "0.8, rung_score 0.6, planned_inference_flops 50)"
    )
    assert rule.decide(2, 1, rule.view(report(math.nan, 0.9, 10))) is not None
    assert rule.decide(3, 1, rule.view(report(0.95, 0.9, 200))) is not None, "dearer than allowed"
    assert rule.decide(4, 1, rule.view(report(0.95, 0.9, 50))) is None


def test_in_the_promotion_variant_a_waiting_trial_goes_on_when_more_have_come() -> None:
    rule = moasha(pauses=True)
    rule.decide(0, 1, rule.view(report(0.9, 0.9, 50)))
    assert rule.decide(1, 1, rule.view(report(0.8, 0.8, 50))) is not None
    assert rule.promotable({1}) is None, "one of two may go on, and that is trial 0"
    for number in (2, 3):
        rule.decide(number, 1, rule.view(report(0.1, 0.1, 50)))
    assert rule.promotable({1, 2, 3}) == 1
    rule.record(1, 2, rule.view(report(0.8, 0.8, 50)))
    rule.decide(4, 1, rule.view(report(0.85, 0.85, 50)))
    assert rule.promotable({2, 3}) is None, "0 and 4 are the better half of five"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_promotion_lets_the_best_third_of_a_rung_go_on_whatever_the_order(
    scores: list[tuple[float, float]],
) -> None:
    rule = moasha(reduction_factor=3, objectives=("natural_accuracy",), constraints=(), pauses=True)
    waiting = {
        number
        for number, (natural, _) in enumerate(scores)
        if rule.decide(number, 1, rule.view(report(natural, 0.0, 1.0))) is not None
    }
    while (number := rule.promotable(waiting)) is not None:
        waiting.remove(number)
    ranked = sorted(range(len(scores)), key=lambda k: -scores[k][0])
    best = ranked[: len(scores) // 3]
    assert not waiting & {k for k in best if scores[k][0] > scores[ranked[len(scores) // 3]][0]}


def test_rules_are_those_that_the_study_names(tmp_path: Any) -> None:
    from toy_trials import toy_study

    names = {"asha": Asha, "moasha": Moasha, "fifo": type(None)}
    for name, kind in names.items():
        settings = {"name": name} if name == "fifo" else {"name": name, "grace_epochs": 1}
        assert type(build_rule(toy_study(tmp_path, scheduler=settings))) is kind


def test_what_a_network_needs_where_it_ships_is_compared_by_what_stands_for_it():
    names = ("natural_accuracy", "compacted_flops", "latency_s", "flash_bytes", "inference_flops")
    constraints = [Constraint.parse("flash_bytes <= 64KiB"), Constraint.parse("density <= 0.5")]
    rule = Moasha(names, constraints, 1, 2, 8)
    few = {"natural_accuracy": 0.9, "planned_inference_flops": 5e3, "planned_density": 0.4}
    view = rule.view({**few, "planned_num_active_parameters": 1e9})
    assert rule.told(view) == (
        "natural_accuracy 0.9, planned_inference_flops 5000, planned_num_active_parameters 1e+09"
    )
    assert view[-1] == 0.0  # a limit in bytes says nothing of a count
    assert rule.violation({**few, "planned_density": 0.75}) == pytest.approx(0.25)
