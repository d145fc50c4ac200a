"""What is measured at the end of a trial, by which bound, and within which time."""

import sys

import pytest
import torch
from networks import family

from spaces.training import EvaluationConfig
from trainers.data import Split
from trainers.evaluate import evaluate

MODULE = sys.modules[evaluate.__module__]  # the function's name hides it


def question(**settings):
    return EvaluationConfig.model_validate({"radius": 0.02, "examples": 6, **settings})


def a_split():
    model, x = family("cnn", 1, num_examples=8)
    return model, Split(x, model(x).argmax(1))


def test_every_setting_reaches_the_cascade(monkeypatch):
    asked = {}
    verify_radii = MODULE.verify_radii

    def listening(model, x, y, radii, **options):
        asked.update(options, radii=radii, num_examples=len(x))
        return verify_radii(model, x, y, radii, **options)

    monkeypatch.setattr(MODULE, "verify_radii", listening)
    model, split = a_split()
    config = question(radii=[0.01], methods=["ibp", "exact"], timeout_s=7.0, budget_s=70.0)
    found = evaluate(model, split, config, split_name="validation", seed=3)
    assert asked == {
        "radii": (0.02, 0.01), "num_examples": 6, "methods": ("ibp", "exact"), "timeout_s": 7.0,
        "budget_s": 70.0, "attack_steps": 20, "attack_restarts": 2, "seed": 3,
    }  # fmt: skip
    assert found.provenance() == {
        "split": "validation", "bound": "ibp+exact", "radius": 0.02, "num_examples": 6,
        "num_timeouts": 0,
    }  # fmt: skip
    assert found.metrics["verified_accuracy"] == found.metrics["falsified_accuracy_bound"]


@pytest.mark.parametrize("limit", ["timeout_s", "budget_s"])
def test_what_time_does_not_allow_is_not_verified_and_is_counted(limit):
    model, split = a_split()
    found = evaluate(model, split, question(**{limit: 0.0}), split_name="validation")
    assert found.metrics["natural_accuracy"] == 1.0
    assert found.metrics["verified_accuracy"] == 0.0
    assert found.metrics["falsified_accuracy_bound"] == 1.0
    assert found.provenance()["num_timeouts"] == 6
    assert torch.is_grad_enabled()
