"""What is measured at the end of a trial, by which bound, and within which time."""

import sys

import pytest
import torch
from networks import family
from torch import nn

from spaces.training import EvaluationConfig
from trainers.bounds import IntervalPass, ball
from trainers.cost import dense_flops
from trainers.data import Split
from trainers.evaluate import count_positive, evaluate, evaluate_by_intervals, rung_radii
from trainers.lowering import simplify
from trainers.lowering.memory import memory_plan
from trainers.lowering.shipping import shipping_cost

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


class TestRungScore:
    @pytest.mark.parametrize(
        ("settings", "train_epsilon", "radii"),
        [
            ({}, 0.3, [0.02]),
            ({"rung_radius_factor": 0.5}, 0.0, [0.1]),
            ({"rung_score": "training_radius"}, 0.0, [0.0]),
            ({"rung_score": "training_radius"}, 0.15, [0.15]),
            ({"rung_score": "training_radius"}, 0.3, [0.2]),
            ({"rung_score": "mean_radii"}, 0.1, [0.05, 0.1, 0.15, 0.2]),
        ],
    )
    def test_radii_by_hand(self, settings, train_epsilon, radii):
        config = question(radius=0.2, **settings)
        assert rung_radii(config, train_epsilon) == pytest.approx(radii)

    @pytest.mark.parametrize(
        ("settings", "passes"),
        [
            ({}, 2),
            ({"rung_radius_factor": 1.0}, 1),
            ({"rung_score": "training_radius"}, 2),
            ({"rung_score": "training_radius", "radius": 0.01}, 1),
            ({"rung_score": "mean_radii"}, 4),
        ],
    )
    def test_it_is_the_mean_of_verified_accuracies_and_no_radius_is_measured_twice(
        self, settings, passes, monkeypatch
    ):
        model, split = a_split()
        interval, calls = IntervalPass(model), []
        margins = interval.margins
        monkeypatch.setattr(interval, "margins", lambda *a: calls.append(a) or margins(*a))
        config = question(epoch_examples=6, **settings)
        found = evaluate_by_intervals(interval, split, config, train_epsilon=0.012)
        assert len(calls) == passes

        def verified(radius):
            x, y = split.x[:6], split.y[:6]
            with torch.no_grad():
                return count_positive(margins(x, y, *ball(x, radius)).margins_BK, y) / 6

        expected = [verified(radius) for radius in rung_radii(config, 0.012)]
        assert found["rung_score"] == pytest.approx(sum(expected) / len(expected))
        assert found["verified_accuracy"] == verified(config.radius)

    def test_at_radius_zero_it_is_the_natural_accuracy(self):
        model, split = a_split()
        config = question(rung_score="training_radius")
        found = evaluate_by_intervals(IntervalPass(model), split, config, train_epsilon=0.0)
        assert found["rung_score"] == found["natural_accuracy"] == 1.0


def test_what_the_network_needs_where_it_ships_is_counted_and_its_latency_taken_on_request():
    model, split = a_split()
    program = simplify(model, split.x.shape[1:])
    plan = memory_plan(program, split.x.shape[1:])
    found = evaluate(model, split, question(methods=["ibp"]), split_name="validation").metrics
    assert found["compacted_flops"] == dense_flops(program, split.x.shape[1:])
    assert (found["flash_bytes"], found["ram_bytes"]) == (plan.flash_bytes, plan.ram_bytes)
    assert not {"latency_s", "latency_256_s"} & found.keys()
    asked = question(methods=["ibp"], latency=True)
    timed = evaluate(model, split, asked, split_name="validation").metrics
    assert 0.0 < timed["latency_s"] < timed["latency_256_s"] < 1.0


def test_a_network_that_cannot_be_compacted_is_counted_whole():
    class HardCoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Linear(36, 3)
            self.first.weight.data[0] = 0.0

        def forward(self, x):
            return self.second(self.first(x).relu().view(-1, 36))

    found = shipping_cost(HardCoded(), (1, 5, 5))
    assert found["compacted_flops"] == 2 * (4 * 9 * 9 + 36 * 3)
