"""Stochastic weight averaging: means by hand, under masks, through a whole training."""

import io

import pytest
import torch
from torch import nn

from spaces import TrialConfig
from trainers import build, train
from trainers.averaging import WeightAverage, estimate_statistics
from trainers.data import load_data

DATA = {"name": "digits"}


@pytest.fixture(scope="module")
def data():
    return load_data(config().data, torch.device("cpu"))


def config(**changes):
    base = {
        "data": DATA,
        "evaluation": {"radius": 0.05, "examples": 60, "epoch_examples": 60},
        "epochs": 4,
        "batch_size": 180,
        "model": {"family": "mlp", "widths": [16, 12], "batch_norm": True},
        "topology": {"method": "static", "density": 0.3},
        "optimizer": {"lr": 0.02, "swa_start": 0.25},
    }
    return TrialConfig.model_validate({**base, **changes})


def observed(values, after=0.0):
    """The mean of one layer's weight, set to each of `values` in turn."""
    model = nn.Linear(len(values[0]), 1, bias=False)
    average = WeightAverage(model, after)
    for epoch, value in enumerate(values, 1):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([value]))
        average.observe(epoch)
    if average.started:
        average.write()
    return model.weight.detach()[0].tolist()


class TestMean:
    def test_of_three_epochs_by_hand(self):
        assert observed([[1.0, -3.0], [2.0, 1.0], [6.0, 5.0]]) == [3.0, 1.0]

    def test_of_the_epochs_after_the_start(self):
        assert observed([[1.0], [2.0], [6.0]], after=1.0) == [4.0]
        assert observed([[1.0], [2.0], [6.0]], after=1.5) == [4.0]
        assert observed([[1.0], [2.0], [6.0]], after=3.0) == [6.0], "nothing to average"

    def test_a_weight_that_was_pruned_for_a_while_does_not_shrink(self):
        assert observed([[4.0, 1.0], [0.0, 2.0], [2.0, 0.0]]) == [3.0, 1.5]

    def test_a_weight_that_was_always_pruned_is_zero(self):
        assert observed([[0.0, 1.0], [0.0, 1.0]]) == [0.0, 1.0]

    def test_equal_weights_are_their_mean_exactly(self):
        assert observed([[0.1, -0.7]] * 7) == torch.tensor([0.1, -0.7]).tolist()


class TestStatistics:
    def test_they_are_the_mean_over_batches(self):
        model = nn.Sequential(nn.BatchNorm1d(1, momentum=0.1), nn.Dropout(0.5))
        batches = torch.tensor([[[1.0], [3.0]], [[2.0], [8.0]]])
        assert estimate_statistics(model, batches) == 4
        # Means 2 and 5; unbiased variances 2 and 18.
        assert model[0].running_mean.tolist() == [3.5]
        assert model[0].running_var.tolist() == [10.0]
        assert model[0].momentum == 0.1 and model[0].training and model[1].training

    def test_without_batch_normalisation_nothing_runs(self):
        assert estimate_statistics(nn.Linear(2, 2), iter([None])) == 0


def epochs_of(training):
    """The network's parameters after each epoch but the last, and the training at its end."""
    weights = []
    while not training.finished:
        weights.append({n: p.detach().clone() for n, p in training.model.named_parameters()})
        training.run_epoch()
    return weights[1:]


def test_the_result_is_the_mean_of_the_later_epochs(data):
    plain = build(config(optimizer={"lr": 0.02}), data)
    before = epochs_of(plain)
    averaged = train(config(), data)
    for name, parameter in averaged.model.named_parameters():
        # Epochs 2, 3 and 4 of the same training without averaging.
        last = plain.model.get_parameter(name)
        expected = (before[1][name] + before[2][name] + last) / 3
        torch.testing.assert_close(parameter, expected)
    assert averaged.training_flops > plain.training_flops


def test_running_statistics_are_those_of_the_averaged_network(data):
    training = train(config(), data)
    norms = [m for m in training.model.modules() if isinstance(m, nn.BatchNorm1d)]
    found = [norm.running_mean.clone() for norm in norms]
    estimate_statistics(training.model, (x for x, _ in training.batches.of(training.epoch)))
    for norm, mean in zip(norms, found, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert int(norm.num_batches_tracked) == training.batches.num_steps(training.epoch)


def test_off_is_off(data):
    plain, off = (
        train(config(optimizer={"lr": 0.02, **swa}), data) for swa in ({}, {"swa_start": 1.0})
    )
    state = plain.model.state_dict()
    assert all(torch.equal(state[n], v) for n, v in off.model.state_dict().items())
    assert not off.average.started


METHODS = {
    "set": {"method": "set", "update_every": 2},
    "units": {"method": "rigl", "update_every": 2, "granularity": "unit"},
    "gmp": {"method": "gmp", "update_every": 2},
    "acdc": {"method": "acdc", "cycles": 1},
    "gibbs": {"method": "gibbs"},
    "hard_concrete": {"method": "hard_concrete"},
    "jackpots": {"method": "jackpots", "search_start": 0.3},
    "jackpots, units": {"method": "jackpots", "search_start": 0.3, "granularity": "unit"},
}
"""Masks that move, gates, and frozen weights."""


@pytest.mark.parametrize("method", METHODS)
class TestMethods:
    def trial(self, method):
        return config(topology={"density": 0.3, **METHODS[method]})

    def test_masks_are_exact_and_pruned_weights_zero(self, data, method):
        training = train(self.trial(method), data)
        total = sum(weight.numel() for weight in training.weights.values())
        kept = sum(int(mask.sum()) for mask in training.masks.values())
        assert round(0.3 * total) - training.topology.grain < kept <= round(0.3 * total)
        for name, weight in training.weights.items():
            pruned = weight.detach()[~training.masks[name]]
            assert not pruned.any() and not pruned.signbit().any()
        assert training.average.started
        before = {name: value.clone() for name, value in training.model.state_dict().items()}
        training.sparsifier.settle()
        for name, value in training.model.state_dict().items():
            assert torch.equal(value, before[name]), "settling again changes nothing"

    def test_resuming_equals_an_uninterrupted_run(self, data, method):
        trial = self.trial(method)
        whole, part = train(trial, data), build(trial, data)
        for _ in range(2):
            part.run_epoch()
        saved = io.BytesIO()
        torch.save(part.state_dict(), saved)
        saved.seek(0)
        resumed = build(trial, data)
        resumed.load_state_dict(torch.load(saved, weights_only=True))
        while not resumed.finished:
            resumed.run_epoch()
        state = whole.model.state_dict()
        assert all(torch.equal(state[n], v) for n, v in resumed.model.state_dict().items())
        assert whole.training_flops == resumed.training_flops

    def test_the_end_can_be_restored(self, data, method):
        trial = self.trial(method)
        whole, restored = train(trial, data), build(trial, data)
        restored.load_state_dict(whole.state_dict())
        assert restored.finished
        state = whole.model.state_dict()
        assert all(torch.equal(state[n], v) for n, v in restored.model.state_dict().items())


def test_weights_that_are_searched_among_stay_what_they_are(data):
    topology = {"method": "jackpots", "density": 0.3, "search_start": 0.3}
    training = train(config(topology=topology, optimizer={"lr": 0.02, "swa_start": 0.5}), data)
    plain = train(config(topology=topology, optimizer={"lr": 0.02}), data)
    for name, weight in training.weights.items():
        seen = training.average.counts[name] > 0
        both = seen & training.masks[name] & plain.masks[name]
        torch.testing.assert_close(weight[both], plain.weights[name][both])


def test_what_is_reported_is_the_averaged_network(data):
    training = build(config(), data)
    while not training.finished:
        metrics = training.run_epoch()
    final = training.final_metrics()
    assert metrics["natural_accuracy"] == pytest.approx(final["natural_accuracy"], abs=1e-6)
