"""Which examples an epoch trains on: all of them, or a part that grows."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trials import METHODS, config, sparse

from spaces.fidelity import FidelityConfig
from trainers import build, train
from trainers.batches import Batches, nested_order
from trainers.data import Split, augment, load_data
from trainers.device import generator


@pytest.fixture(scope="module")
def data():
    return load_data(config().data, torch.device("cpu"))


def numbered(labels):
    """Examples whose one value is their index."""
    y = torch.tensor(labels)
    return Split(torch.arange(len(y), dtype=torch.float32).view(-1, 1), y)


def batches(num_examples, batch_size=1, epochs=10, seed=0, **fidelity):
    trial = config(epochs=epochs, batch_size=batch_size, fidelity=fidelity, seed=seed)
    return Batches(trial, numbered([i % 2 for i in range(num_examples)]))


def used(batches, epoch):
    """Indices of the examples of an epoch."""
    return {int(i) for x, _ in batches.of(epoch) for i in x.flatten()}


class TestGrowth:
    def test_by_hand(self):
        found = batches(100, data_start=0.2, data_full_at=0.5)
        assert [found.num_examples(epoch) for epoch in range(10)] == [20, 36, 52, 68, 84] + [
            100
        ] * 5
        assert found.total_steps == 260 + 500

    def test_up_to_the_last_epoch(self):
        found = batches(100, epochs=4, data_start=0.2, data_full_at=1.0)
        assert [found.num_examples(epoch) for epoch in range(5)] == [20, 40, 60, 80, 100]

    def test_every_epoch_has_full_batches_and_one_at_least(self):
        found = batches(100, batch_size=30, data_start=0.1, data_full_at=0.5)
        assert [found.num_examples(epoch) for epoch in (0, 1, 2, 3)] == [30, 30, 46, 64]
        assert [found.num_steps(epoch) for epoch in (0, 1, 2, 3, 9)] == [1, 1, 1, 2, 3]
        assert all(len(y) == 30 for epoch in range(10) for _, y in found.of(epoch))
        assert batches(20, batch_size=30, data_start=0.1).num_steps(0) == 1

    @given(
        start=st.floats(0.01, 1.0),
        full_at=st.floats(0.01, 1.0),
        epochs=st.integers(1, 60),
        size=st.integers(1, 40),
    )
    def test_it_never_shrinks_and_ends_with_everything(self, start, full_at, epochs, size):
        found = batches(97, size, epochs, data_start=start, data_full_at=full_at)
        counts = [found.num_examples(epoch) for epoch in range(epochs)]
        assert counts == sorted(counts)
        assert counts[0] == max(round(start * 97), size)
        for epoch, count in enumerate(counts):
            assert count == 97 or epoch < full_at * epochs
        assert found.total_steps == sum(count // size for count in counts)


class TestExamples:
    def test_later_epochs_contain_earlier_ones(self):
        found = batches(50, data_start=0.1, data_full_at=0.7)
        sets = [used(found, epoch) for epoch in range(8)]
        assert [len(s) for s in sets] == [found.num_examples(epoch) for epoch in range(8)]
        assert all(earlier <= later for earlier, later in pairwise(sets))
        assert len(sets[0]) == 5 and sets[-1] == set(range(50))

    def test_they_depend_on_the_seed(self):
        first, again, other = (
            used(batches(50, data_start=0.2, seed=seed), 0) for seed in (0, 0, 1)
        )
        assert first == again != other

    def test_each_class_has_its_share_of_every_part(self):
        labels = [0] * 60 + [1] * 30 + [2] * 9 + [3]
        y = torch.tensor(labels)
        order = nested_order(y, generator(0, "any"))
        assert sorted(order.tolist()) == list(range(100))
        for n in range(101):
            counts = y[order[:n]].bincount(minlength=4)
            for count, share in zip(counts.tolist(), (0.6, 0.3, 0.09, 0.01), strict=True):
                assert abs(count - share * n) <= 1.5

    def test_a_class_s_examples_come_in_random_order(self):
        y = torch.zeros(100, dtype=torch.int64)
        first, second = (nested_order(y, generator(seed, "any")) for seed in (0, 1))
        assert not torch.equal(first, second) and first.tolist() != list(range(100))

    def test_batches_are_drawn_anew_in_each_epoch(self):
        found = batches(50, batch_size=10, data_start=0.2, data_full_at=0.01)
        first, second = ([y for x, y in found.of(epoch)] for epoch in (1, 2))
        assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_off_is_what_it_was_without_the_setting(data):
    trial = config(data={"name": "digits", "augment": {"shift": 1}}, batch_size=200, seed=3)
    assert trial.fidelity == FidelityConfig() and trial.fidelity.data_start == 1.0
    for epoch in (0, 2):
        order = torch.randperm(len(data.train), generator=generator(3, f"batches {epoch}"))
        noise = generator(3, f"augment {epoch}")
        found = list(Batches(trial, data.train).of(epoch))
        assert len(found) == len(data.train) // 200
        for step, (x, y) in enumerate(found):
            index = order[200 * step : 200 * (step + 1)]
            assert torch.equal(x, augment(trial.data.augment, data.train.x[index], noise))
            assert torch.equal(y, data.train.y[index])


PART = {"data_start": 0.4, "data_full_at": 0.7}


class TestTraining:
    def test_the_radius_goes_by_epochs(self, data):
        epsilon = {"warmup": 0.0, "ramp_end": 1.0, "shape": "linear"}
        part, whole = (
            build(sparse("static", epochs=4, epsilon=epsilon, fidelity=fidelity), data)
            for fidelity in (PART, {})
        )
        assert part.batches.epoch_ends == (2, 5, 9, 14) and whole.batches.epoch_ends == ()
        radius = part.config.evaluation.radius
        for quarters in range(1, 5):
            found, expected = part.run_epoch(), whole.run_epoch()
            assert found["train_epsilon"] == pytest.approx(radius * quarters / 4)
            assert found["train_epsilon"] == pytest.approx(expected["train_epsilon"])
        assert found["train_epsilon"] == radius

    def test_all_else_goes_by_steps(self, data):
        training = train(sparse("gmp", epochs=4, fidelity=PART), data)
        assert training.step == training.batches.total_steps == 14
        assert training.learning_rate.total_steps == 14
        assert training.optimizer.param_groups[0]["lr"] == training.learning_rate(14)

    def test_training_costs_as_many_steps_as_were_made(self, data):
        trial = config(topology={"method": "dense"}, loss={"name": "natural"}, fidelity=PART)
        training = build(trial, data)
        dense = 2 * (64 * 32 + 32 * 10)
        for epoch in range(3):
            before = training.training_flops
            training.run_epoch()
            steps = training.batches.num_steps(epoch)
            assert training.training_flops - before == 3 * dense * steps * 128

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_ends_with_its_density(self, data, method):
        training = train(sparse(method, epochs=4, fidelity=PART), data)
        assert training.step == training.batches.total_steps
        total = sum(weight.numel() for weight in training.weights.values())
        density = 1.0 if method == "dense" else 0.3
        kept = sum(training.sparsifier.counts.values())
        assert round(density * total) - training.topology.grain < kept <= round(density * total)

    def test_the_mean_loss_is_over_the_steps_of_the_epoch(self, data):
        still = config(
            topology={"method": "dense"}, loss={"name": "natural"}, optimizer={"lr": 1e-9},
            fidelity=PART,
        )  # fmt: skip
        training = build(still, data)
        losses = [training.run_epoch()["train_loss"] for _ in range(3)]
        assert losses == pytest.approx([losses[-1]] * 3, rel=0.05)
