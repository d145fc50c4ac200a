"""What is wrong with a space is told in full when it is read: place, value, rule, what to do."""

import itertools
import random
import re

import pytest
from given_spaces import problems

from spaces import ConfigError, SearchSpace, TrialConfig
from spaces import corners as corners_module
from spaces.walk import Walker

METHODS = (
    "dense, static, snip, grasp, synflow, set, rigl, sparsevlr, ctre, gmp, stability, gap, acdc, "
    "deadwooding, gibbs, slimming, hard_concrete, jackpots"
)


def rigl(**settings):
    return problems(topology={"choice": [{"method": "rigl", **settings}]})


ONE_PROBLEM = [
    (
        {"density": {"low": 0.5, "high": 1.2}},
        "space.topology.rigl.density.high: 1.2 must be less than or equal to 1; allowed: > 0, <= 1",
    ),
    (
        {"density": 0},
        "space.topology.rigl.density: 0 must be greater than 0; allowed: > 0, <= 1",
    ),
    (
        {"density": {"choice": []}},
        "space.topology.rigl.density.choice: is empty: list at least one alternative",
    ),
    (
        {"density": {"choice": [0.1, 0.1]}},
        "space.topology.rigl.density.choice.1: 0.1 appears twice: remove it",
    ),
    (
        {"density": {"choice": 0.1}},
        "space.topology.rigl.density.choice: 0.1 must be a list of alternatives",
    ),
    (
        {"density": {"low": 0.3, "high": 0.1}},
        "space.topology.rigl.density: low (0.3), high (0.1): low must be less than high, "
        "or write the value alone",
    ),
    (
        {"density": {"low": 0.1}},
        "space.topology.rigl.density.high: is missing; a range is {low: ..., high: ...}",
    ),
    (
        {"density": {"low": 0.1, "high": 0.2, "setp": 0.1}},
        "space.topology.rigl.density.setp: unknown key of a range or choice; did you mean step?",
    ),
    (
        {"density": {"low": 0.1, "high": 0.2, "log": "yes"}},
        "space.topology.rigl.density.log: 'yes' must be true or false",
    ),
    (
        {"density": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}},
        "space.topology.rigl.density.step: does not go with log: remove one of them",
    ),
    (
        {"density": {"low": 0.1, "high": 0.45, "step": 0.1}},
        "space.topology.rigl.density: low (0.1), high (0.45): "
        "high - low must be a multiple of step (0.1)",
    ),
    (
        {"update_every": {"low": 1, "high": 9.5}},
        "space.topology.rigl.update_every.high: 9.5 must be a valid integer, "
        "got a number with a fractional part; allowed: >= 1",
    ),
    (
        {"update_every": {"low": 10, "high": 100, "step": 0}},
        "space.topology.rigl.update_every.step: 0 must be above 0",
    ),
    (
        {"density": True},
        "space.topology.rigl.density: True must be a number",
    ),
    (
        {"drop": {"low": 1, "high": 2}},
        "space.topology.rigl.drop: takes no number, so it cannot be a range: use {choice: [...]}",
    ),
    (
        {"drop": {"choice": ["magnitud"]}},
        "space.topology.rigl.drop.choice.0: 'magnitud' must be 'magnitude', 'sensitivity', "
        "'stability', 'adversarial_gradient', 'cosine', 'momentum' or 'random'; did you mean "
        "magnitude?",
    ),
    (
        {"drop_fracton": 0.1},
        "space.topology.rigl.drop_fracton: unknown key; did you mean drop_fraction?",
    ),
]


@pytest.mark.parametrize(("settings", "line"), ONE_PROBLEM)
def test_one_problem_is_one_line(settings, line):
    assert rigl(**settings) == [line]


def test_log_needs_a_positive_low():
    assert problems(loss={"name": "ibp", "kappa": {"low": 0, "high": 1, "log": True}}) == [
        "space.loss.ibp.kappa.low: 0.0 must be above 0 when log is true"
    ]


def test_an_unknown_variant_lists_the_known_ones():
    assert problems(topology={"choice": [{"method": "rigel"}]}) == [
        f"space.topology.choice.0.method: 'rigel' must be one of: {METHODS}; did you mean rigl?"
    ]
    assert problems(topology={"density": 0.1}) == [
        f"space.topology.method: is missing; one of: {METHODS}"
    ]
    assert problems(topology={"method": {"choice": ["rigl"]}}) == [
        f"space.topology.method: {{'choice': ['rigl']}} must be one of: {METHODS}; to choose, "
        "write topology: {choice: [{method: ..., ...}, ...]}"
    ]


def test_missing_settings_are_named():
    with pytest.raises(ConfigError) as caught:
        SearchSpace({"evaluation": {}})
    assert caught.value.problems == (
        "space.evaluation.radius: is missing",
        "space.data: is missing",
    )


def test_all_problems_are_told_at_once():
    assert problems(
        model={"family": "mlp", "widths": [{"low": 0, "high": 64}, 0]},
        topology={"choice": [{"method": "rigl", "density": {"low": 0.5, "high": 1.2}}]},
        optimiser={},
    ) == [
        "space.model.mlp.widths.0.low: 0 must be greater than or equal to 1; "
        "allowed: >= 1, <= 65536",
        "space.model.mlp.widths.1: 0 must be greater than or equal to 1; allowed: >= 1, <= 65536",
        "space.topology.rigl.density.high: 1.2 must be less than or equal to 1; allowed: > 0, <= 1",
        "space.optimiser: unknown key; did you mean optimizer?",
    ]


def test_ends_that_cannot_go_together_are_refused():
    epsilon = {"warmup": {"low": 0.0, "high": 0.3}, "ramp_end": {"low": 0.2, "high": 0.8}}
    assert problems(epsilon=epsilon) == [
        "space.epsilon: ramp_end (0.2) must be greater than warmup (0.3): raise ramp_end or lower "
        "warmup; happens with epsilon.warmup = 0.3 and epsilon.ramp_end = 0.2"
    ]


def test_a_rule_broken_by_fixed_values_names_no_hole():
    assert problems(epsilon={"warmup": 0.5, "ramp_end": 0.2}) == [
        "space.epsilon: ramp_end (0.2) must be greater than warmup (0.5): raise ramp_end or lower "
        "warmup"
    ]


IMPOSSIBLE = {
    "topology": {
        "choice": [
            {"method": "rigl", "grow": {"choice": ["gradient", "certified_gradient"]}},
            {"method": "snip", "saliency": "certified"},
        ]
    },
    "loss": {"choice": [{"name": "ibp"}, {"name": "natural"}]},
}
IMPOSSIBLE_LINES = [
    "space: topology.grow: certified_gradient needs a certified loss, but loss.name is natural: "
    "use grow: gradient, or a certified loss such as ibp; happens with topology.method = rigl and "
    "topology.rigl.grow = certified_gradient and loss.name = natural",
    "space: topology.saliency: certified needs a certified loss, but loss.name is natural: use "
    "saliency: natural, or a certified loss such as ibp; happens with topology.method = snip and "
    "loss.name = natural",
]


def test_choices_that_cannot_go_together_are_refused():
    assert problems(**IMPOSSIBLE) == IMPOSSIBLE_LINES


def test_they_are_found_as_well_when_there_are_too_many_combinations_to_try_all(monkeypatch):
    many = {
        "epsilon": {"train_factor": {"low": 1.0, "high": 2.0}},
        "optimizer": {
            name: {"low": 0.1, "high": 0.5}
            for name in ("lr", "weight_decay", "l1", "momentum", "clip_norm", "lr_factor")
        },
    }
    monkeypatch.setattr(corners_module, "MAX_CORNERS", 200)
    assert sorted(problems(**many, **IMPOSSIBLE)) == IMPOSSIBLE_LINES


def test_every_pair_of_values_is_tried_where_not_all_combinations_can_be(monkeypatch):
    monkeypatch.setattr(corners_module, "MAX_CORNERS", 0)
    holes = {name: {"low": 0.1, "high": 0.5} for name in ("lr", "weight_decay", "l1", "momentum")}
    loss = {"choice": [{"name": "ibp", "kappa": {"low": 0, "high": 1}}, {"name": "natural"}]}
    parts = {"optimizer": holes, "loss": loss, "batch_size": {"choice": [1, 2, 3]}}
    walker = Walker(holes=True)
    root = walker.part(
        TrialConfig, {"data": {"name": "digits"}, "evaluation": {"radius": 0.1}, **parts}, ""
    )
    tried = list(corners_module._assignments(root))
    assert len(tried) < 20  # of 144 combinations
    for first, second in itertools.combinations(
        [{"batch_size": n} for n in (1, 2, 3)]
        + [{f"optimizer.{name}": end} for name in holes for end in (0.1, 0.5)]
        + [{"loss.ibp.kappa": end} for end in (0.0, 1.0)]
        + [{"loss.name": "natural"}],
        2,
    ):
        possible = first.keys() != second.keys() and not (
            "loss.ibp.kappa" in first and "loss.name" in second
        )
        pair = first.items() | second.items()
        assert any(pair <= assignment.items() for assignment in tried) == possible, pair


def test_a_large_space_is_read_quickly_and_every_sample_decodes():
    holes = {
        "distribution": {"choice": ["uniform", "erdos_renyi", "erk"]},
        "drop": {"choice": ["magnitude", "sensitivity", "random"]},
        "grow": {"choice": ["gradient", "certified_gradient", "random"]},
        "drop_fraction": {"low": 0.1, "high": 0.5},
        "drop_schedule": {"choice": ["cosine", "constant", "linear"]},
        "update_every": {"low": 10, "high": 100, "log": True},
        "update_end": {"low": 0.5, "high": 0.9},
        "regrowth_rate": {"low": 0.8, "high": 1.0},
    }
    space = SearchSpace(
        {
            "data": {"name": "digits"},
            "evaluation": {"radius": 0.05},
            "topology": {"choice": [{"method": "rigl", **holes}, {"method": "set", **holes}]},
            "epsilon": {
                "warmup": {"low": 0.0, "high": 0.2},
                "ramp_end": {"low": 0.3, "high": 1.0},
            },
            "loss": {"choice": [{"name": "ibp", "kappa": {"low": 0, "high": 1}}]},
        }
    )
    rng = random.Random(0)
    assert len({space.decode(space.sample(rng)).topology.method for _ in range(50)}) == 2


def test_errors_never_show_pydantics_addresses():
    assert not any(re.search(r"https?://|pydantic", line) for line in rigl(density="x", drop=3))
