"""What a network will cost at the end of its training, told after each epoch."""

import pytest
import torch
from torch import nn
from trials import METHODS, config, sparse

from spaces.topology import AcdcConfig, GmpConfig, RigLConfig, StaticConfig
from trainers import build
from trainers.data import load_data
from trainers.evaluate import FinalCounts, model_cost
from trainers.topology import build_topology

NAMES = ("density", "num_active_parameters", "inference_flops")
SHAPES = {"0.weight": torch.Size((10, 10)), "1.weight": torch.Size((5, 20))}
FULL = {"0.weight": 100, "1.weight": 100}


@pytest.fixture(scope="module")
def data():
    return load_data(config().data, torch.device("cpu"))


class TestFinalCounts:
    def counts(self, topology, counts, step=0):
        return build_topology(topology, SHAPES, 100).final_counts(counts, step, 100)

    def test_layers_that_are_ranked_together_are_taken_to_shrink_alike(self):
        gmp = GmpConfig(density=0.1)
        assert self.counts(gmp, FULL) == {"0.weight": 10.0, "1.weight": 10.0}
        half_way = {"0.weight": 30, "1.weight": 10}
        planned = build_topology(gmp, SHAPES, 100).planned_total(50)
        assert self.counts(gmp, half_way, 50) == {
            "0.weight": 30 * 20 / planned, "1.weight": 10 * 20 / planned,
        }  # fmt: skip

    def test_a_budget_by_layer_is_known_from_the_start(self):
        gmp = GmpConfig(density=0.1, distribution="searched", layer_ratios=(1.0, 3.0))
        assert self.counts(gmp, FULL) == {"0.weight": 5, "1.weight": 15}
        rigl = RigLConfig(
            density=0.1, distribution="uniform", regrowth_rate=0.5, update_every=10, update_end=1.0
        )
        starting = {"0.weight": 20, "1.weight": 20}
        assert self.counts(rigl, starting) == {"0.weight": 10, "1.weight": 10}

    def test_what_changes_no_more_is_what_it_is(self):
        # A ticket's masks may be spread over the layers otherwise than the config would.
        given = {"0.weight": 19, "1.weight": 1}
        assert self.counts(StaticConfig(density=0.1), given) is given
        assert self.counts(AcdcConfig(density=0.1), given, 100) is given


class TestCost:
    def planned(self, model, shape, weights, lines=0):
        found = model_cost(model, shape, final=FinalCounts(weights, lines))
        return tuple(found[f"planned_{name}"] for name in NAMES)

    def test_by_hand(self):
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
        # 3 + 2 of 30 weights, and 7 biases.
        assert self.planned(model, (4,), {"0.weight": 3, "2.weight": 2}) == (5 / 30, 12, 10)

    def test_a_share_of_what_is_kept_influences_nothing(self):
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
        with torch.no_grad():
            model[2].weight[:, 0] = 0.0  # so that 4 of the first layer's 20 weights are idle
        weights = {"0.weight": 10, "2.weight": 4}
        assert self.planned(model, (4,), weights) == (14 / 30, 21, 2 * (10 * 16 / 20 + 4))

    def test_a_weight_of_a_convolution_is_used_at_every_position(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        weights = {"0.weight": 5, "3.weight": 6}
        assert self.planned(model, (1, 6, 6), weights)[2] == 2 * (5 * 16 + 6)

    def test_lines_to_come_are_parameters(self, data):
        trial = sparse("static", grafting={"fraction": 0.5, "start": 0.6})
        reports = epochs_of(trial, data)
        assert [r["num_grafted_units"] for r in reports] == [0, 14]
        assert reports[0]["planned_num_active_parameters"] == reports[1]["num_active_parameters"]


def epochs_of(trial, data):
    training, reports = build(trial, data), []
    while not training.finished:
        reports.append(training.run_epoch())
    return reports


@pytest.mark.parametrize("method", METHODS)
def test_density_and_parameters_are_known_from_the_first_epoch(data, method):
    reports = epochs_of(sparse(method, epochs=3), data)
    for name in NAMES:
        assert reports[-1][f"planned_{name}"] == pytest.approx(reports[-1][name], rel=1e-12)
    total = 64 * 16 + 16 * 12 + 12 * 10
    # With whole units, up to one unit's weights may be missing from what is planned.
    tolerance = 80 / total if method in ("slimming", "rigl") else 0.5 / total
    for report in reports:
        assert report["planned_density"] == pytest.approx(reports[-1]["density"], abs=tolerance)
        assert report["planned_num_active_parameters"] == pytest.approx(
            reports[-1]["num_active_parameters"], abs=tolerance * total
        )


@pytest.mark.parametrize("method", ["static", "snip", "gibbs"])
def test_what_has_its_final_counts_is_planned_as_it_is(data, method):
    for report in epochs_of(sparse(method), data):
        assert [report[f"planned_{name}"] for name in NAMES] == [report[name] for name in NAMES]


def test_weights_that_are_kept_but_never_move_are_not_planned(data):
    topology = {"method": "set", "density": 0.03, "update_every": 3, "drop_fraction": 0.5}
    training = build(config(topology=topology, model={"family": "mlp", "widths": [64, 32]}), data)
    while not training.finished:
        report = training.run_epoch()
    num_kept = sum(training.sparsifier.counts.values())
    assert report["density"] < num_kept / (64 * 64 + 64 * 32 + 32 * 10), "some are idle"
    assert [report[f"planned_{name}"] for name in NAMES] == [report[name] for name in NAMES]


def test_weights_that_have_just_grown_are_planned_though_they_are_still_zero(data):
    topology = {"method": "rigl", "density": 0.3, "update_every": 5, "drop_fraction": 0.5}
    first, *_ = epochs_of(sparse("rigl", topology=topology, epochs=3), data)
    assert first["density"] < 0.2, "the last step of the epoch is an update"
    assert first["planned_density"] == pytest.approx(0.3, abs=1e-3)
