"""Densities of layers as holes, and rules between the topology, the loss and the model."""

import random

import pytest
from given_spaces import FIXED, problems, space_of
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from spaces import SearchSpace

# Searched densities of layers


SEARCHED = {"method": "set", "density": 0.1, "distribution": "searched"}
RATIO = {"low": 0.2, "high": 5, "log": True}


def test_densities_of_layers_are_searched():
    space = space_of(topology={**SEARCHED, "layer_ratios": [RATIO, 1.0, RATIO]})
    names = ["topology.set.layer_ratios.0", "topology.set.layer_ratios.2"]
    assert [hole.path for hole in space.parameters()] == names
    config = space.decode({names[0]: 0.5, names[1]: 3.0})
    assert config.topology.layer_ratios == (0.5, 1.0, 3.0)
    assert space.encode(config) == {names[0]: 0.5, names[1]: 3.0}


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(1.01, 1e3)), min_size=2, max_size=6),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=30)
def test_densities_of_layers_round_trip(ends, seed):
    ratios = [{"low": low, "high": high, "log": True} for low, high in ends]
    model = {"family": "mlp", "widths": [8] * (len(ends) - 1)}
    space = space_of(topology={**SEARCHED, "layer_ratios": ratios}, model=model)
    params = space.sample(random.Random(seed))
    config = space.decode(params)
    assert list(config.topology.layer_ratios) == list(params.values())
    assert space.encode(config) == params


def test_whole_lists_may_be_chosen_from():
    lists = [[1.0, 1.0, 1.0], [4.0, 1.0, 2.0]]
    space = space_of(topology={**SEARCHED, "layer_ratios": {"choice": lists}})
    config = space.decode({"topology.set.layer_ratios": "[4.0,1.0,2.0]"})
    assert config.topology.layer_ratios == (4.0, 1.0, 2.0)


def test_editors_accept_them_too():
    validator = Draft202012Validator(SearchSpace.model_json_schema())
    validator.validate(FIXED | {"topology": {**SEARCHED, "layer_ratios": [RATIO, 1.0, RATIO]}})
    wrong = {**SEARCHED, "layer_ratios": [{"low": 0, "high": 1}]}
    assert not validator.is_valid(FIXED | {"topology": wrong})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {},
            ": distribution: searched needs the density of each layer relative to the others: add "
            "layer_ratios, for example [1.0, {low: 0.2, high: 5.0, log: true}, 2.0] for three "
            "layers",
        ),
        (
            {"distribution": "erk", "layer_ratios": [1, RATIO]},
            ": layer_ratios belongs to distribution: searched, but distribution is erk: remove "
            "layer_ratios, or set distribution: searched",
        ),
        (
            {"distribution": {"choice": ["searched", "erk"]}, "layer_ratios": [1, 1, 1]},
            ": layer_ratios belongs to distribution: searched, but distribution is erk: remove "
            "layer_ratios, or set distribution: searched; happens with "
            "topology.set.distribution = erk",
        ),
        (
            {"layer_ratios": [{"low": 0, "high": 2}, 1, 1]},
            ".layer_ratios.0.low: 0 must be greater than 0; allowed: > 0, <= 1000000",
        ),
        (
            {"layer_ratios": RATIO},
            ".layer_ratios: is a list: write a range for an item of it, or use {choice: [...]}",
        ),
    ],
)
def test_wrong_densities_of_layers(changes, line):
    assert problems(topology={**SEARCHED, **changes}) == [f"space.topology.set{line}"]


# Rules between topology, loss and model


NEEDS_LOSS = (
    "needs a certified loss, but loss.name is natural: use grow: gradient, or a certified loss "
    "such as ibp"
)


@pytest.mark.parametrize("loss", ["pgd", "natural"])
def test_growth_by_the_certified_gradient_needs_a_certified_loss(loss):
    natural = {"loss": {"name": loss}}
    assert problems(topology={"method": "sparsevlr"}, **natural) == [
        "space: topology.grow: certified_gradient (the default of method: sparsevlr) "
        + NEEDS_LOSS.replace("natural", loss)
    ]
    assert problems(topology={"method": "set", "grow": "certified_gradient"}, **natural) == [
        "space: topology.grow: certified_gradient " + NEEDS_LOSS.replace("natural", loss)
    ]
    space_of(topology={"method": "sparsevlr", "grow": "gradient"}, **natural)


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_the_certified_saliency_needs_a_certified_loss(method):
    saliency = {"choice": ["natural", "certified"]}
    loss = {"choice": [{"name": "natural"}, {"name": "crown_ibp"}]}
    assert problems(topology={"method": method, "saliency": saliency}, loss=loss) == [
        "space: topology.saliency: certified needs a certified loss, but loss.name is natural: use "
        "saliency: natural, or a certified loss such as ibp; happens with "
        f"topology.{method}.saliency = certified and loss.name = natural"
    ]


CERTIFIED = ["ibp", "crown_ibp", "sabr", "mtl_ibp", "taps", "staps"]


@pytest.mark.parametrize("loss", CERTIFIED)
def test_every_loss_with_bounds_counts_as_certified(loss):
    space_of(topology={"method": "sparsevlr"}, loss={"name": loss})
    space_of(topology={"method": "snip", "saliency": "certified"}, loss={"name": loss})


@pytest.mark.parametrize("loss", ["natural", "pgd", *CERTIFIED])
def test_every_loss_may_weigh_stability(loss):
    space = space_of(loss={"name": loss, "stability_weight": {"low": 0.0, "high": 0.1}})
    assert [hole.path for hole in space.parameters()] == [f"loss.{loss}.stability_weight"]


def test_what_the_losses_add_is_searched():
    loss = {
        "choice": [
            {"name": "sabr", "subselection_ratio": {"low": 0.1, "high": 0.9}},
            {"name": "mtl_ibp", "alpha": {"low": 0.001, "high": 0.5, "log": True}},
            {"name": "taps", "attacked_relus": {"choice": [1, 2]}},
            {"name": "staps", "gradient_scale": {"low": 1, "high": 8}},
        ]
    }
    names = [hole.path for hole in space_of(loss=loss).parameters()]
    assert names == [
        "loss.name", "loss.sabr.subselection_ratio", "loss.mtl_ibp.alpha",
        "loss.taps.attacked_relus", "loss.staps.gradient_scale",
    ]  # fmt: skip
    start = {"name": "sabr", "subselection_ratio_start": {"low": 0.5, "high": 1.0}}
    space = space_of(loss=start)
    config = space.decode({"loss.sabr.subselection_ratio_start": 0.75})
    assert (config.loss.subselection_ratio_start, config.loss.subselection_ratio) == (0.75, 0.4)


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (
            {"name": "sabr", "subselection_ratio": 0},
            "sabr.subselection_ratio: 0 must be greater than 0; allowed: > 0, <= 1",
        ),
        (
            {"name": "mtl_ibp", "alpha": {"low": 0.5, "high": 1.5}},
            "mtl_ibp.alpha.high: 1.5 must be less than or equal to 1; allowed: >= 0, <= 1",
        ),
        (
            {"name": "taps", "attacked_relus": 0},
            "taps.attacked_relus: 0 must be greater than or equal to 1; allowed: >= 1, <= 1000",
        ),
        ({"name": "ibp", "alpha": 0.5}, "ibp.alpha: unknown key"),
    ],
)
def test_wrong_settings_of_losses(loss, line):
    (problem,) = problems(loss=loss)
    assert problem.startswith(f"space.loss.{line}")


NO_SCALES = (
    "space: topology.method: slimming prunes by the scales of batch normalisation, but "
    "model.batch_norm is false: set it to true, or use another method with granularity: unit"
)


def test_slimming_needs_scales():
    slimming = {"method": "slimming"}
    assert problems(topology=slimming) == [NO_SCALES]
    choice = {"choice": [{"method": "rigl"}, slimming]}
    model = {"family": "cnn", "batch_norm": {"choice": [True, False]}}
    assert problems(topology=choice, model=model) == [
        f"{NO_SCALES}; happens with topology.method = slimming and model.cnn.batch_norm = False"
    ]
    for allowed in ({"family": "resnet"}, {"family": "cnn7"}, {"python": "nets:make"}):
        space_of(topology=slimming, model=allowed)


@pytest.mark.parametrize(
    ("model", "num_layers"),
    [
        ({"family": "mlp", "widths": [8]}, 2),
        ({"family": "mlp", "widths": [8, 8, 8]}, 4),
        ({"family": "cnn"}, 4),
        ({"family": "cnn", "channels": [4], "hidden": []}, 2),
        ({"family": "cnn7"}, 7),
        ({"family": "resnet", "blocks": [1]}, 5),  # stem, two and a shortcut, out
        ({"family": "resnet", "blocks": [1, 1]}, 8),
        ({"family": "resnet", "blocks": [2, 3]}, 14),
    ],
)
def test_there_is_a_ratio_for_each_layer_with_weights(model, num_layers):
    assert space_of(model=model).decode({}).model.num_weight_layers == num_layers
    ratios = [1.0] * num_layers
    space_of(topology={**SEARCHED, "layer_ratios": ratios}, model=model)
    assert problems(topology={**SEARCHED, "layer_ratios": [*ratios, RATIO]}, model=model) == [
        f"space: topology.layer_ratios has {num_layers + 1} values, but the network of "
        f"model.family: {model['family']} has {num_layers} layers with weights: give one value for "
        "each, from the first to the last"
    ]


def test_the_layers_of_the_users_own_network_are_not_known_yet():
    space_of(topology={**SEARCHED, "layer_ratios": [1.0] * 9}, model={"python": "nets:make"})


def test_a_searched_depth_must_fit_the_ratios():
    widths = {"choice": [[8, 8], [8]]}
    searched = {**SEARCHED, "layer_ratios": [RATIO, RATIO, RATIO]}
    assert problems(topology=searched, model={"family": "mlp", "widths": widths}) == [
        "space: topology.layer_ratios has 3 values, but the network of model.family: mlp has 2 "
        "layers with weights: give one value for each, from the first to the last; happens with "
        "model.mlp.widths = [8]"
    ]


# Grafting


def test_grafted_networks_keep_their_units():
    grafting = {"fraction": {"low": 0, "high": 0.5}}
    for method in ("rigl", "gmp"):
        topology = {"method": method, "granularity": {"choice": ["weight", "unit"]}}
        assert problems(topology=topology, grafting=grafting) == [
            "space: grafting.fraction: 0.5 gives each unit of a layer a line of its own, but "
            f"topology.method: {method} with granularity: unit removes units as a whole: use "
            "another granularity, or set grafting.fraction to 0; happens with "
            f"topology.{method}.granularity = unit and grafting.fraction = 0.5"
        ]
    slimming = {"topology": {"method": "slimming"}, "model": {"family": "cnn7"}}
    (line,) = problems(**slimming, grafting={"fraction": 0.1})
    assert "use another method, or set grafting.fraction to 0" in line
    space_of(**slimming, grafting={"fraction": 0})


@pytest.mark.parametrize(
    ("grafting", "line"),
    [
        ({"fraction": 1.5}, "space.grafting.fraction: 1.5 must be less than or equal to 1"),
        ({"fraction": {"low": 0, "high": 2}}, "space.grafting.fraction.high: 2 must be"),
        ({"start": 1}, "space.grafting.start: 1 must be less than 1"),
        ({"examples": 0}, "space.grafting.examples: 0 must be"),
        ({"granularity": "unit"}, "space.grafting.granularity"),
        ({"fractions": 0.5}, "space.grafting.fractions: unknown key; did you mean fraction"),
    ],
)
def test_settings_of_grafting_are_checked(grafting, line):
    (problem,) = problems(grafting=grafting)
    assert problem.startswith(line)
