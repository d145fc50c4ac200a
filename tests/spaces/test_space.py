"""A search space: names of parameters, and the two directions between parameters and trials."""

import pickle
import random
import subprocess
import sys

import pytest
from given_spaces import space_of

from spaces import ConfigError, SearchSpace, TrialConfig, decode, suggest
from spaces.model import CnnConfig
from spaces.topology import DenseConfig
from spaces.trial import flatten

TREE = {
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.05},
    "batch_size": {"low": 32, "high": 128, "step": 32},
    "model": {"family": "mlp", "widths": {"choice": [[64, 32], [128]]}},
    "topology": {
        "choice": [
            {
                "method": "rigl",
                "density": {"low": 0.02, "high": 0.3, "log": True},
                "drop_fraction": {"low": 0.1, "high": 0.5},
            },
            {"method": "snip", "density": 0.1},
        ]
    },
    "loss": {"name": "ibp", "kappa": {"low": 0.0, "high": 0.7}},
    "epsilon": {"train_factor": {"low": 1.0, "high": 1.5}},
    "optimizer": {"lr": {"low": 0.0003, "high": 0.01, "log": True}},
}
RIGL = {
    "batch_size": 96,
    "model.mlp.widths": "[64,32]",
    "topology.method": "rigl",
    "topology.rigl.density": 0.1,
    "topology.rigl.drop_fraction": 0.25,
    "loss.ibp.kappa": 0.5,
    "epsilon.train_factor": 1.25,
    "optimizer.lr": 0.001,
}
SNIP = {name: value for name, value in RIGL.items() if not name.startswith("topology.rigl")} | {
    "topology.method": "snip"
}


class Script:
    """A trial that answers from a script and records what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def suggest_float(self, name, low, high, *, step=None, log=False):
        self.asked.append((name, low, high, step, log))
        return self.answers[name]

    def suggest_int(self, name, low, high, *, step=1, log=False):
        self.asked.append((name, low, high, step, log))
        return self.answers[name]

    def suggest_categorical(self, name, choices):
        self.asked.append((name, tuple(choices)))
        return self.answers[name]


def test_suggest_asks_for_the_holes_of_the_active_branch_in_the_order_of_the_file():
    trial = Script(RIGL)
    assert suggest(SearchSpace(TREE), trial) == RIGL
    assert trial.asked == [
        ("batch_size", 32, 128, 32, False),
        ("model.mlp.widths", ("[64,32]", "[128]")),
        ("topology.method", ("rigl", "snip")),
        ("topology.rigl.density", 0.02, 0.3, None, True),
        ("topology.rigl.drop_fraction", 0.1, 0.5, None, False),
        ("loss.ibp.kappa", 0.0, 0.7, None, False),
        ("epsilon.train_factor", 1.0, 1.5, None, False),
        ("optimizer.lr", 0.0003, 0.01, None, True),
    ]


def test_suggest_does_not_ask_for_the_other_branch():
    trial = Script(SNIP)
    assert suggest(SearchSpace(TREE), trial) == SNIP
    assert not any("rigl" in question[0] for question in trial.asked)


def test_decode_builds_the_trial():
    config = decode(SearchSpace(TREE), RIGL)
    assert config == TrialConfig.model_validate(
        {
            "data": {"name": "digits"},
            "evaluation": {"radius": 0.05},
            "batch_size": 96,
            "model": {"family": "mlp", "widths": [64, 32]},
            "topology": {"method": "rigl", "density": 0.1, "drop_fraction": 0.25},
            "loss": {"name": "ibp", "kappa": 0.5},
            "epsilon": {"train_factor": 1.25},
            "optimizer": {"lr": 0.001},
        }
    )


def test_encode_is_the_inverse_of_decode():
    space = SearchSpace(TREE)
    assert space.encode(space.decode(RIGL)) == RIGL
    assert space.encode(space.decode(SNIP)) == SNIP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer.lr": None}, "optimizer.lr: None must be a number"),
        ({"batch_size": 100}, "batch_size: 100 is not a step of [32, 128], step 32"),
        ({"batch_size": 64.5}, "batch_size: 64.5 must be an integer"),
        ({"loss.ibp.kappa": 0.8}, "loss.ibp.kappa: 0.8 must lie in [0.0, 0.7]"),
        (
            {"model.mlp.widths": "[1]"},
            "model.mlp.widths: '[1]' must be one of {[64,32], [128]}",
        ),
        ({"topology.method": "set"}, "topology.method: 'set' must be one of {rigl, snip}"),
        ({"kappa": 1}, "kappa: the space has no such parameter here"),
    ],
)
def test_decode_refuses_wrong_parameters(change, message):
    with pytest.raises(ConfigError) as caught:
        SearchSpace(TREE).decode(RIGL | change)
    assert str(caught.value) == message


def test_decode_refuses_missing_parameters_and_those_of_another_branch():
    space = SearchSpace(TREE)
    with pytest.raises(ConfigError, match=r"^topology\.rigl\.density: the parameter is missing"):
        space.decode(SNIP | {"topology.method": "rigl"})
    with pytest.raises(ConfigError, match=r"^topology\.rigl\.density: the space has no such"):
        space.decode(SNIP | {"topology.rigl.density": 0.1})


def test_encode_refuses_a_trial_outside_the_space():
    space = SearchSpace(TREE)
    outside = space.decode(RIGL).model_copy(update={"seed": 7})
    with pytest.raises(ConfigError, match="does not contain") as caught:
        space.encode(outside)
    assert caught.value.problems[1:] == ("seed: not 0",)


def test_encode_says_which_setting_does_not_fit():
    space = SearchSpace(TREE)
    for change, problem in (
        ({"batch_size": 48}, "batch_size: not in [32, 128], step 32"),
        ({"model": CnnConfig()}, "model.mlp.widths: the trial has none"),
        ({"topology": DenseConfig()}, "topology.method: not in {rigl, snip}"),
    ):
        outside = space.decode(RIGL).model_copy(update=change)
        with pytest.raises(ConfigError) as caught:
            space.encode(outside)
        assert caught.value.problems[1] == problem


def test_a_sample_is_fixed_by_its_generator():
    space = SearchSpace(TREE)
    first = [space.sample(random.Random(3)) for _ in range(2)]
    assert first[0] == first[1] != space.sample(random.Random(4))


def test_parameters_tell_kind_condition_and_domain():
    shown = {p.path: (p.kind, p.condition, p.describe()) for p in SearchSpace(TREE).parameters()}
    assert shown["batch_size"] == ("int", (), "[32, 128], step 32")
    assert shown["model.mlp.widths"] == ("categorical", (), "{[64,32], [128]}")
    assert shown["topology.rigl.density"] == (
        "float",
        (("topology.method", "rigl"),),
        "[0.02, 0.3], log",
    )


def test_the_items_of_a_list_may_be_holes():
    space = space_of(model={"family": "mlp", "widths": [{"low": 32, "high": 128}, 64]})
    assert [p.path for p in space.parameters()] == ["model.mlp.widths.0"]
    config = space.decode({"model.mlp.widths.0": 40})
    assert config.model.widths == (40, 64)
    assert space.encode(config) == {"model.mlp.widths.0": 40}


def test_variants_of_one_method_are_numbered():
    space = space_of(
        topology={
            "choice": [
                {"method": "rigl", "density": {"low": 0.01, "high": 0.05}},
                {"method": "rigl", "density": {"low": 0.2, "high": 0.3}},
            ]
        }
    )
    assert [p.path for p in space.parameters()] == [
        "topology.method",
        "topology.rigl.density",
        "topology.rigl#2.density",
    ]
    params = {"topology.method": "rigl#2", "topology.rigl#2.density": 0.25}
    config = space.decode(params)
    assert (config.topology.method, config.topology.density) == ("rigl", 0.25)
    assert space.encode(config) == params


def test_a_fixed_variant_has_no_method_parameter():
    space = space_of(topology={"method": "rigl", "density": {"low": 0.1, "high": 0.2}})
    assert [p.path for p in space.parameters()] == ["topology.rigl.density"]


def test_a_network_of_the_users_own_needs_no_family_and_takes_holes_in_its_arguments():
    space = space_of(
        model={
            "python": "nets:make",
            "arguments": {"width": {"low": 8, "high": 64}, "act": {"choice": ["relu", "elu"]}},
        }
    )
    config = space.decode({"model.python.arguments.width": 8, "model.python.arguments.act": "elu"})
    assert config.model.family == "python"
    assert config.model.arguments == {"width": 8, "act": "elu"}


def test_shorthand_works_inside_a_choice():
    space = space_of(model={"choice": [{"family": "mlp"}, {"python": "nets:make"}]})
    assert space.decode({"model.family": "python"}).model.python == "nets:make"


def test_choices_of_several_types_keep_their_values():
    space = space_of(evaluation={"radius": 0.1, "examples": {"choice": [None, 100]}})
    assert space.decode({"evaluation.examples": None}).evaluation.examples is None
    assert space.decode({"evaluation.examples": 100}).evaluation.examples == 100


def test_flatten_names_leaves_by_their_path():
    flat = flatten(SearchSpace(TREE).decode(RIGL))
    assert flat["topology.method"] == "rigl"
    assert flat["topology.density"] == 0.1
    assert flat["model.widths"] == "[64,32]"
    assert flat["evaluation.examples"] == "null"
    assert flat["model.batch_norm"] is False
    assert all(isinstance(value, str | int | float) for value in flat.values())


def test_a_space_can_be_sent_to_another_process():
    space = SearchSpace(TREE)
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_space_and_a_trial_are_read_from_files(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "data: {name: digits}\nevaluation: {radius: 0.1}\nbatch_size: {low: 1, high: 9}"
    )
    assert SearchSpace.from_yaml(path).decode({"batch_size": 5}).batch_size == 5
    with pytest.raises(ConfigError) as caught:
        TrialConfig.from_yaml(path)
    assert str(caught.value) == (
        f"{path}:\nbatch_size: {{'low': 1, 'high': 9}} must be a valid integer; "
        "ranges and choices may stand in `space` only"
    )
    path.write_text("data: {name: digits}\nevaluation: {radius: 2}")
    with pytest.raises(ConfigError) as caught:
        SearchSpace.from_yaml(path)
    assert str(caught.value).startswith(f"{path}:\nevaluation.radius: 2 must be less than")


def test_spaces_imports_neither_torch_nor_ray_nor_optuna():
    code = (
        "import sys, spaces, spaces.schema\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'numpy', 'trainers', 'analysis', 'search'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
