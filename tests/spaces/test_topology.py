"""Topology methods in a study file: every method can be searched, impossible pairs are refused."""

import random
from typing import get_args

import pytest
from given_spaces import problems, space_of
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces import TrialConfig
from spaces.sparsity import RankedConfig, SparseConfig, n_of_m
from spaces.topology import (
    CtreConfig,
    DropGrowConfig,
    GapConfig,
    GradualConfig,
    RigLConfig,
    SetConfig,
    StabilityConfig,
    StaticConfig,
    TopologyConfig,
)

CLASSES = get_args(get_args(TopologyConfig)[0])
METHODS = {cls.model_fields["method"].default: cls for cls in CLASSES}
SPARSE = {name: cls for name, cls in METHODS.items() if name != "dense"}
WITH_SCALES = {"family": "mlp", "batch_norm": True}


def topology(method, **chosen):
    return problems(topology={"method": method, **chosen})


# Every method


def test_there_are_eighteen_methods():
    assert len(METHODS) == 18


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_searched_by_its_name_alone(method):
    space = space_of(topology={"choice": [{"method": method}]}, model=WITH_SCALES)
    config = space.decode({"topology.method": method})
    assert type(config.topology) is METHODS[method]
    assert space.encode(config) == {"topology.method": method}
    assert space.topology_methods() == (method,)
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("method", SPARSE)
def test_each_sparse_method_has_a_density_to_search(method):
    density = {"low": 0.01, "high": 0.5, "log": True}
    space = space_of(topology={"method": method, "density": density}, model=WITH_SCALES)
    assert [hole.path for hole in space.parameters()] == [f"topology.{method}.density"]
    assert space.decode({f"topology.{method}.density": 0.25}).topology.density == 0.25


@pytest.mark.parametrize(("method", "cls"), METHODS.items())
def test_each_setting_is_described(method, cls):
    assert cls.__doc__
    undescribed = {
        name
        for name, field in cls.model_fields.items()
        if not field.description and len(get_args(field.annotation)) != 1
    }
    assert not undescribed


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(sorted(METHODS)), min_size=1, unique=True), st.integers(0, 2**32))
def test_any_methods_can_be_searched_together(methods, seed):
    variants = [{"method": m} for m in methods]
    for variant in variants:
        if variant["method"] != "dense":
            variant["density"] = {"low": 0.02, "high": 0.4, "log": True}
    space = space_of(topology={"choice": variants}, model=WITH_SCALES)
    assert space.topology_methods() == tuple(methods)
    params = space.sample(random.Random(seed))
    assert space.encode(space.decode(params)) == params


def test_without_a_topology_the_network_is_dense():
    assert space_of().topology_methods() == ("dense",)


def test_defaults_are_those_of_the_papers():
    assert (SetConfig().grow, RigLConfig().grow, CtreConfig().grow) == (
        "random", "gradient", "cosine",
    )  # fmt: skip
    assert (CtreConfig().drop_fraction, CtreConfig().drop_schedule) == (0.2, "constant")
    assert (StabilityConfig().drop, GapConfig().drop) == ("stability", "adversarial_gradient")
    assert SparseConfig().distribution == "erk"
    assert RankedConfig().distribution == "global"


# Drop and grow criteria


REGROWN = (
    "weights dropped for their large gradient would be grown again at once: use method: set, where "
    "they stay out, or grow: cosine, momentum or random"
)
OFF = (
    "because a unit that is off has neither momentum nor activations: use grow: gradient, "
    "certified_gradient or random"
)


@pytest.mark.parametrize("method", ["rigl", "sparsevlr"])
@pytest.mark.parametrize("grow", ["gradient", "certified_gradient"])
def test_growth_by_gradient_would_undo_the_adversarial_drop(method, grow):
    assert topology(method, drop="adversarial_gradient", grow=grow) == [
        f"space.topology.{method}: drop: adversarial_gradient does not go with grow: {grow} here, "
        f"because {REGROWN}"
    ]


def test_the_same_pair_is_found_among_choices():
    drop = {"choice": ["magnitude", "adversarial_gradient"]}
    assert topology("rigl", drop=drop, grow={"choice": ["random", "gradient"]}) == [
        "space.topology.rigl: drop: adversarial_gradient does not go with grow: gradient here, "
        f"because {REGROWN}; happens with topology.rigl.drop = adversarial_gradient and "
        "topology.rigl.grow = gradient"
    ]


@pytest.mark.parametrize("grow", ["gradient", "certified_gradient"])
def test_what_set_drops_stays_out_so_it_takes_the_pair(grow):
    space_of(topology={"method": "set", "drop": "adversarial_gradient", "grow": grow})


@pytest.mark.parametrize("method", ["set", "rigl", "sparsevlr"])
@pytest.mark.parametrize("grow", ["cosine", "momentum"])
def test_units_cannot_grow_by_what_they_do_not_have(method, grow):
    assert topology(method, granularity="unit", grow=grow) == [
        f"space.topology.{method}: grow: {grow} does not go with granularity: unit, {OFF}"
    ]


def test_units_among_choices_are_found_too():
    granularity = {"choice": ["weight", "unit"]}
    grow = {"choice": ["random", "cosine"]}
    assert topology("set", granularity=granularity, grow=grow) == [
        f"space.topology.set: grow: cosine does not go with granularity: unit, {OFF}; happens with "
        "topology.set.granularity = unit and topology.set.grow = cosine"
    ]


@pytest.mark.parametrize(
    ("method", "setting", "line"),
    [
        ("ctre", {"grow": "random"}, "ctre.grow: 'random' must be 'cosine'"),
        ("ctre", {"granularity": "unit"}, "ctre.granularity: 'unit' must be 'weight'"),
        ("slimming", {"granularity": "weight"}, "slimming.granularity: 'weight' must be 'unit'"),
        ("stability", {"drop": "magnitude"}, "stability.drop: 'magnitude' must be 'stability'"),
        (
            "gap",
            {"drop": "magnitude"},
            "gap.drop: 'magnitude' must be 'adversarial_gradient'",
        ),
        (
            "gibbs",
            {"granularity": "2:4"},
            "gibbs.granularity: '2:4' must be 'weight', 'kernel' or 'unit'",
        ),
        (
            "static",
            {"distribution": "global"},
            "static.distribution: 'global' must be 'uniform', 'erdos_renyi', 'erk' or 'searched'",
        ),
    ],
)
def test_what_a_method_is_made_of_is_not_to_be_chosen(method, setting, line):
    assert topology(method, **setting) == [f"space.topology.{line}"]


@pytest.mark.parametrize("method", ["set", "gmp"])
def test_every_criterion_can_drop_and_every_one_can_grow(method):
    base = DropGrowConfig if method == "set" else GradualConfig
    names = [name for name in ("drop", "grow") if name in base.model_fields]
    for name in names:
        criteria = list(get_args(base.model_fields[name].annotation))
        space = space_of(topology={"method": method, name: {"choice": criteria}})
        assert [
            getattr(space.decode({f"topology.{method}.{name}": c}).topology, name) for c in criteria
        ] == criteria


# Times


@pytest.mark.parametrize(
    ("method", "settings_", "line"),
    [
        (
            "gmp",
            {"start": {"low": 0.1, "high": 0.8}},
            "gmp: end (0.6) must be greater than start (0.8): raise end or lower start; happens "
            "with topology.gmp.start = 0.8",
        ),
        (
            "acdc",
            {"warmup": {"low": 0.1, "high": 0.5}, "final": {"low": 0.1, "high": 0.5}},
            "acdc: warmup (0.5) and final (0.5) must leave time for the phases between them: lower "
            "one, so that their sum is below 1; happens with topology.acdc.warmup = 0.5 and "
            "topology.acdc.final = 0.5",
        ),
        (
            "hard_concrete",
            {"search_end": 0.3},
            "hard_concrete: search_end (0.3) must be greater than search_start (0.4): raise "
            "search_end or lower search_start",
        ),
        (
            "gibbs",
            {"beta_start": 100, "beta_end": 10},
            "gibbs: beta_end (10) must be at least beta_start (100), so that masks become less "
            "random: raise beta_end or lower beta_start",
        ),
    ],
)
def test_phases_follow_each_other(method, settings_, line):
    assert topology(method, **settings_) == [f"space.topology.{line}"]


# Granularity


@pytest.mark.parametrize(
    ("text", "pair"), [("2:4", (2, 4)), ("1:16", (1, 16)), ("weight", None), ("unit", None)]
)
def test_n_of_m(text, pair):
    assert n_of_m(text) == pair


def test_a_pattern_bounds_the_density():
    SparseConfig(granularity="2:4", density=0.5)
    assert topology("static", granularity="2:4", density={"low": 0.1, "high": 0.6}) == [
        "space.topology.static: density: 0.6 is more than granularity: 2:4 can keep: lower it to "
        "0.5 or less; happens with topology.static.density = 0.6"
    ]
    choices = {"choice": ["weight", "1:4"]}
    assert topology("static", granularity=choices, density={"choice": [0.2, 0.5]}) == [
        "space.topology.static: density: 0.5 is more than granularity: 1:4 can keep: lower it to "
        "0.25 or less; happens with topology.static.granularity = 1:4 and "
        "topology.static.density = 0.5"
    ]


@pytest.mark.parametrize(
    ("granularity", "instead"), [("3:4", "2:4"), ("5:4", "2:4"), ("1:1", "1:2")]
)
def test_a_pattern_keeps_at_most_half(granularity, instead):
    n, m = granularity.split(":")
    assert topology("snip", granularity=granularity, density=0.1) == [
        f"space.topology.snip: granularity: {granularity} must keep at most half of each {m} "
        f"weights: use {instead}, or granularity: weight"
    ]


@pytest.mark.parametrize("hole", ["channel", {"choice": ["weight", "channel"]}, "0:4", "2-4"])
def test_a_granularity_that_does_not_exist_is_told_which_ones_do(hole):
    (line,) = topology("snip", granularity=hole)
    assert line.startswith("space.topology.snip.granularity")
    assert " does not have the right form; what is kept or pruned as a whole: weight, k" in line


def test_a_pattern_without_quotes_is_understood_and_corrected() -> None:
    # YAML 1.1 reads 2:4 as 2 * 60 + 4.
    with pytest.raises(ValueError, match='in quotes: granularity: "2:4"'):
        StaticConfig(density=0.3, granularity=124)
