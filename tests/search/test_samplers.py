"""What samplers propose: the same for the same seed, in every branch, within the constraints."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from toy_trials import toy_study

from search.samplers import Sobol, build_sampler, groups, value_at
from spaces import ConfigError, StudyConfig
from spaces.space import SearchSpace

SAMPLERS = ("tpe", "nsga2", "nsga3", "gp", "random", "qmc")
LEARNING = ("tpe", "nsga2", "nsga3", "gp")


def open_study(study: StudyConfig, num_known: int = 0) -> optuna.Study:
    return optuna.create_study(
        directions=[str(direction) for direction in study.directions],  # type: ignore[misc]
        sampler=build_sampler(study, num_known),
    )


def propose(study: StudyConfig, asked: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]]:
    trial = asked.ask()
    return trial, study.search_space().suggest(trial)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_proposes_the_same_trials(name: str, tmp_path: Path) -> None:
    study = toy_study(tmp_path, sampler={"name": name}, seed=3)
    found = []
    for _ in range(2):
        asked = open_study(study)
        found.append([])
        for number in range(14):
            trial, params = propose(study, asked)
            asked.tell(trial, [0.5 + 0.01 * number, 0.1 * (number % 3), 1e6 + number])
            found[-1].append(params)
    assert found[0] == found[1]
    other = toy_study(tmp_path, sampler={"name": name}, seed=4)
    assert propose(other, open_study(other))[1] != found[0][0]


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.slow
def test_constraints_that_trials_were_told_with_are_learned(name: str, tmp_path: Path) -> None:
    # Accuracy rises with the learning rate, but a trial with more than 0.003 is not feasible.
    settings = {"nsga2": {"population_size": 8}, "nsga3": {"population_size": 8}}
    study = toy_study(
        tmp_path, sampler={"name": name, **settings.get(name, {})}, objectives=["verified_accuracy"]
    )

    def late_proposals(*, constrained: bool) -> float:
        """Mean of log10(lr) over the last quarter."""
        asked = open_study(study)
        found: list[float] = []
        for _ in range({"tpe": 60, "gp": 24}.get(name, 160)):
            trial, params = propose(study, asked)
            log_lr = float(np.log10(params["optimizer.lr"]))
            if constrained:
                trial.set_constraint("lr", log_lr - float(np.log10(0.003)))
            asked.tell(trial, log_lr)
            found.append(log_lr)
        return float(np.mean(found[-len(found) // 4 :]))

    assert late_proposals(constrained=True) < late_proposals(constrained=False) - 0.3


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_a_child_inherits_the_parameters_of_its_branch(name: str, tmp_path: Path) -> None:
    study = toy_study(tmp_path, sampler={"name": name, "population_size": 6}, seed=1)
    asked = open_study(study)
    densities: dict[str, list[float]] = {"topology.static.density": [], "topology.rigl.density": []}
    inherited = 0
    for _ in range(18):
        trial, params = propose(study, asked)
        (path,) = densities.keys() & params.keys()
        inherited += params[path] in densities[path]
        densities[path].append(params[path])
        asked.tell(trial, [0.9, params[path], 1e6])
    assert inherited >= 4  # of 12 children, each mutated with probability 1/3


def test_gp_is_refused_when_everything_depends_on_a_choice(tmp_path: Path) -> None:
    space = {
        "topology": {
            "choice": [
                {"method": "static", "density": {"low": 0.1, "high": 1.0}},
                {"method": "rigl", "density": {"low": 0.1, "high": 1.0}},
            ]
        }
    }
    with pytest.raises(ConfigError, match=r"gp models parameters .* depend on topology.method"):
        toy_study(tmp_path, sampler={"name": "gp"}, space=space)
    assert toy_study(tmp_path, sampler={"name": "tpe"}, space=space)


def test_sobol_points_cover_every_branch_evenly(tmp_path: Path) -> None:
    study = toy_study(tmp_path, sampler={"name": "qmc"})
    asked = open_study(study)
    params = [propose(study, asked)[1] for _ in range(64)]
    assert Counter(p["topology.method"] for p in params) == {"static": 32, "rigl": 32}
    eighths = Counter(int(8 * (np.log10(p["optimizer.lr"]) + 4) / 3) for p in params)
    assert set(eighths.values()) == {8}
    halves = Counter(
        (p["topology.method"], p[f"topology.{p['topology.method']}.density"] > 0.55) for p in params
    )
    assert set(halves.values()) == {16}


def test_a_sobol_point_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    space = toy_study(tmp_path).search_space()
    lr = FloatDistribution(1e-4, 1e-1, log=True)
    study = optuna.create_study()
    trials = [study.ask() for _ in range(6)]

    def draw(sampler: Sobol, number: int) -> float:
        frozen = study.get_trials()[trials[number].number]
        return float(sampler.sample_independent(study, frozen, "optimizer.lr", lr))

    sampler = Sobol(space, seed=5)
    inorder = [draw(sampler, number) for number in range(6)]
    assert [draw(Sobol(space, seed=5), number) for number in (5, 2)] == [inorder[5], inorder[2]]
    assert draw(sampler, 1) == inorder[1]
    assert draw(Sobol(space, seed=6), 1) != inorder[1]


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (FloatDistribution(2.0, 4.0), (2.0, 3.0, 4.0)),
        (FloatDistribution(0.01, 1.0, log=True), (0.01, 0.1, 1.0)),
        (FloatDistribution(0.0, 1.0, step=0.5), (0.0, 0.5, 1.0)),
        (IntDistribution(1, 3), (1, 2, 3)),
        (IntDistribution(0, 8, step=4), (0, 4, 8)),
        (IntDistribution(1, 7, log=True), (1, 2, 7)),  # sqrt(0.5 * 7.5) = 1.9
        (CategoricalDistribution(("a", "b", "c")), ("a", "b", "c")),
    ],
)
def test_a_share_of_a_domain(distribution: BaseDistribution, values: tuple[Any, ...]) -> None:
    found = [value_at(distribution, share) for share in (0.0, 0.5, 1.0 - 1e-12)]
    assert found == [pytest.approx(v) if isinstance(v, float) else v for v in values]


def test_groups_are_the_parameters_under_the_same_conditions(tmp_path: Path) -> None:
    space = toy_study(tmp_path).search_space()
    assert [set(group) for group in groups(space)] == [
        {"topology.method", "optimizer.lr"},
        {"topology.static.density"},
        {"topology.rigl.density"},
    ]
    assert [set(group) for group in groups(space, jointly=False)] == [
        {hole.path} for hole in space.parameters()
    ]
    single = SearchSpace({**study_tree(), "batch_size": {"choice": [32]}})
    assert groups(single) == []


def study_tree() -> dict[str, Any]:
    return {"data": {"name": "digits"}, "evaluation": {"radius": 0.1}}


def test_stopped_trials_count_as_known_but_failed_ones_do_not(tmp_path: Path) -> None:
    study = toy_study(tmp_path, sampler={"name": "tpe", "startup_trials": 2})
    start = toy_study(tmp_path, sampler={"name": "qmc"})
    first, points = open_study(study), open_study(start)
    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.PRUNED):
        trial, params = propose(study, first)
        assert params == propose(start, points)[1]
        first.tell(trial, state=state)
    assert propose(study, first)[1] != propose(start, points)[1]
