"""The JSON Schema that editors use says about a file what StudyConfig says."""

import copy
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from spaces import SearchSpace, StudyConfig

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
VALIDATOR = Draft202012Validator(StudyConfig.model_json_schema())


def changed(path, value):
    """The digits example with another value at a path."""
    tree = yaml.safe_load(EXAMPLES[0].read_text())
    *parents, last = path
    place = tree
    for key in parents:
        place = place[key]
    place[last] = copy.deepcopy(value)
    return tree


def test_schemas_are_schemas():
    Draft202012Validator.check_schema(StudyConfig.model_json_schema())
    Draft202012Validator.check_schema(SearchSpace.model_json_schema())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path):
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


RIGL = ("space", "topology", "choice", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*RIGL, "density"), 0.1),
        ((*RIGL, "density"), {"choice": [0.1, 0.2]}),
        ((*RIGL, "update_every"), {"low": 10, "high": 50, "step": 10}),
        (("space", "model", "widths"), [64, {"low": 32, "high": 64}]),
        (("space", "model"), {"python": "nets:make"}),
        (("space", "model"), {"choice": [{"family": "mlp"}, {"python": "nets:make"}]}),
        (("space", "loss"), {"name": "sabr", "subselection_ratio_start": {"low": 0.5, "high": 1}}),
        (("space", "loss"), {"choice": [{"name": "ibp"}, {"name": "staps", "attack_steps": 4}]}),
        (("space", "optimizer", "swa_start"), {"choice": [0.7, 1.0]}),
        (("data",), {"python": "sets:make"}),
        (("data", "augment"), {"shift": {"low": 0, "high": 2}}),
    ],
)
def test_holes_are_accepted(path, value):
    tree = changed(path, value)
    StudyConfig.from_dict(tree)
    VALIDATOR.validate(tree)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("data", "validation_fraction"), {"low": 0.1, "high": 0.2}),
        ((*RIGL, "density"), 0),
        ((*RIGL, "density"), {"low": 0.5, "high": 1.2}),
        ((*RIGL, "density"), {"choice": []}),
        ((*RIGL, "density"), {"low": 0.5}),
        ((*RIGL, "drop"), {"low": 1, "high": 2}),
        ((*RIGL, "densty"), 0.1),
        (("space", "loss"), {"name": "mtl_ibp", "alpha": 2}),
        (("space", "loss"), {"name": "sabr", "alpha": 0.1}),
        (("space", "loss"), {"name": "taps", "attacked_relus": {"low": 0, "high": 2}}),
        ((*RIGL, "method"), "rigel"),
        (("space", "topology"), {"density": 0.1}),
        (("space", "topology"), {"choice": []}),
        (("space", "epochs"), 3),
        (("space", "model", "widths"), [0]),
        (("data", "name"), {"choice": ["digits"]}),
        (("evaluation", "radius"), {"low": 0.1, "high": 0.2}),
        (("budget", "trials"), 0),
        (("objectives",), ["natural_acuracy"]),
        (("constraints",), [3]),
    ],
)
def test_what_the_study_refuses_the_schema_refuses(path, value):
    tree = changed(path, value)
    with pytest.raises(ValueError):
        StudyConfig.from_dict(tree)
    assert not VALIDATOR.is_valid(tree)
