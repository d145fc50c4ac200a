"""Which trials count as good, and which as bad."""

from collections.abc import Collection
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.tpe import Rungs, Tpe

X = {"x": FloatDistribution(0.0, 1.0)}


def tpe(startup_trials: int = 0) -> Tpe:
    return Tpe([X], RandomSampler(seed=0), startup_trials, seed=0)


class Constant(RandomSampler):
    """Proposes one value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def sample_independent(self, *_: Any) -> float:
        return self._value


def ended(x: float, *values: float, violated: float | None = None) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE if values else TrialState.PRUNED,
        values=values or None,
        params={"x": x},
        distributions=X,
        constraints=None if violated is None else {"c": violated},
    )


def divided(
    *trials: FrozenTrial, objectives: int = 2, rungs: Rungs | None = None
) -> tuple[list[float], list[float]]:
    study = optuna.create_study(directions=["maximize"] * objectives)
    study.add_trials(trials)
    sampler = Tpe([X], RandomSampler(seed=0), 0, seed=0, rungs=rungs)
    good, bad = sampler.divide(study, study.get_trials())
    return [t.params["x"] for t in good], [t.params["x"] for t in bad]


def test_a_quarter_of_the_completed_trials_is_good() -> None:
    trials = [ended(k / 8, float(k), float(k)) for k in range(8)]
    assert divided(*trials)[0] == [6 / 8, 7 / 8]


def test_a_tenth_is_good_with_one_objective() -> None:
    trials = [ended(k / 20, float(k)) for k in range(20)]
    assert divided(*trials, objectives=1)[0] == [18 / 20, 19 / 20]


def test_stopped_trials_are_bad_and_do_not_make_more_completed_ones_good() -> None:
    completed = [ended(k / 10, float(k), float(k)) for k in range(10)]
    stopped = [ended(0.5) for _ in range(90)]
    good, bad = divided(*completed, *stopped)
    assert good == [0.7, 0.8, 0.9]
    assert bad.count(0.5) == 91


def test_nothing_is_good_while_no_trial_has_completed() -> None:
    assert divided(ended(0.1), ended(0.2)) == ([], [0.1, 0.2])


def test_feasible_trials_are_good_first_then_those_that_violate_least() -> None:
    feasible = [ended(0.1, 0.0, 0.0, violated=-1.0)]
    infeasible = [ended(0.5 + k / 100, 9.0, 9.0, violated=1.0 + k) for k in range(7)]
    assert divided(*feasible, *infeasible)[0] == [0.1, 0.5]


class Told:
    """Rungs whose leaders are given."""

    def __init__(self, *leaders: int, judged: Collection[int] = ()) -> None:
        self._leaders, self._judged = leaders, judged

    def judged(self) -> Collection[int]:
        return self._judged

    def leaders(self, least: int, share: float) -> Collection[int]:
        assert (least, share) == (5, 0.25)
        return self._leaders


def test_while_few_have_completed_those_that_lead_at_a_rung_are_good() -> None:
    completed = [ended(k / 10, float(k), float(k)) for k in range(5)]
    stopped = [ended(0.9), ended(0.8)]
    assert divided(*completed[:4], *stopped, rungs=Told(1, 5))[0] == [0.1, 0.8]
    assert divided(*completed, *stopped, rungs=Told(1, 5))[0] == [0.3, 0.4]


def test_while_no_rung_has_enough_trials_the_completed_ones_count() -> None:
    completed = [ended(0.1, 1.0, 1.0), ended(0.2, 2.0, 2.0)]
    assert divided(*completed, rungs=Told())[0] == [0.2]


def test_trials_that_wait_at_a_rung_count_towards_the_start() -> None:
    def proposed(*judged: int) -> float:
        sampler = Tpe([X], Constant(0.123), 2, seed=0, rungs=Told(0, judged=judged))
        study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
        study.add_trials([ended(0.5, 1.0, 1.0)])
        study.ask({"x": X["x"]})  # the first one of its own runs on
        return study.ask().suggest_float("x", 0.0, 1.0)

    assert proposed() == 0.123
    assert proposed(1) != 0.123


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_a_model_is_made_from_any_number_of_objectives(objectives: int) -> None:
    study = optuna.create_study(directions=["maximize"] * objectives, sampler=tpe())
    study.add_trials([ended(k / 30, *([-abs(k - 24.0)] * objectives)) for k in range(31)])
    proposed = [study.ask().suggest_float("x", 0.0, 1.0) for _ in range(9)]
    assert sum(0.7 < x < 0.9 for x in proposed) >= 5


def test_stopped_trials_keep_proposals_away() -> None:
    def num_above(*, stopped: bool) -> int:
        """Of 100 proposals around the best trial, those on the side where trials were stopped."""
        study = optuna.create_study(directions=["maximize"] * 2, sampler=tpe())
        study.add_trials([ended(0.5, 2.0, 2.0), ended(0.1, 1.0, 1.0), ended(0.9, 1.0, 1.0)])
        study.add_trials([ended(0.5 + k / 100) for k in range(1, 16) if stopped])
        above = 0
        for _ in range(100):
            trial = study.ask()
            above += trial.suggest_float("x", 0.0, 1.0) > 0.5
            study.tell(trial, state=TrialState.FAIL)
        return above

    assert num_above(stopped=True) < num_above(stopped=False) - 10


def test_a_parameter_without_observations_is_drawn_from_its_whole_range() -> None:
    y = {"y": FloatDistribution(0.0, 1.0)}
    sampler = Tpe([X, y], RandomSampler(seed=0), 0, seed=0)
    study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
    study.add_trials([ended(0.2, 1.0, 1.0), ended(0.8, 1.0, 1.0)])
    drawn = [study.ask().suggest_float("y", 0.0, 1.0) for _ in range(20)]
    assert min(drawn) < 0.3
    assert max(drawn) > 0.7
