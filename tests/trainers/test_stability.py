"""Normalised ReLU stability: exact values, its gains, and what it adds to the certified losses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spaces.training import (
    CrownIbpLossConfig,
    IbpLossConfig,
    MtlIbpLossConfig,
    NaturalLossConfig,
    PgdLossConfig,
    SabrLossConfig,
    TapsLossConfig,
)
from trainers.bounds import IntervalPass, ball
from trainers.losses import build_loss
from trainers.losses.stability import nrs, nrs_penalty, relu_gains
from trainers.models import Residual
from trainers.wiring import Wiring


def hinge():
    """Inputs of the ReLUs: x - 0.5 and 0.5 - 2 x."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        model[0].bias.copy_(torch.tensor([-0.5, 0.5]))
    return model


def with_batch_norm(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    nn.init.uniform_(model[1].weight, -2.0, 2.0)
    return model


def batch(n=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 4, generator=generator)
    return x, (x[:, 0] > 0.5).long() + (x[:, 1] > 0.5).long()


class TestNrs:
    def test_by_hand(self):
        lower = torch.tensor([[-1.0, 0.5], [-3.0, -2.0]])
        upper = torch.tensor([[1.0, 2.0], [1.0, -0.5]])
        # Products l * u: -1 and -3 in the first unit, 1 and 1 in the second.
        expected = [(math.tanh(0.0) + math.tanh(2.0)) / 2, -math.tanh(2.0)]
        torch.testing.assert_close(nrs(lower, upper), torch.tensor(expected))

    def test_a_gain_divides_by_its_square(self):
        lower, upper = torch.tensor([[-4.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        # -4 / 2^2 = -1, and -1 / 0^2 is as unstable as it gets.
        result = nrs(lower, upper, torch.tensor([-2.0, 0.0]))
        torch.testing.assert_close(result, torch.tensor([0.0, 1.0]))

    def test_a_channel_is_the_mean_over_examples_and_positions(self):
        lower = torch.tensor([[-1.0, -2.0], [-3.0, -1.0]]).view(2, 1, 1, 2)
        upper = torch.tensor([1.0]).expand(2, 1, 1, 2)
        expected = (0.0 + math.tanh(1.0) + math.tanh(2.0) + 0.0) / 4
        torch.testing.assert_close(nrs(lower, upper), torch.tensor([expected]))
        assert nrs(lower, upper, torch.ones(1)).item() == pytest.approx(expected, rel=1e-6)

    def test_no_gradient_reaches_the_gain(self):
        lower = torch.tensor([[-1.0]], requires_grad=True)
        gain = torch.ones(1, requires_grad=True)
        nrs(lower, torch.tensor([[0.5]]), gain).sum().backward()
        assert gain.grad is None
        # d/dl of -tanh(1 + l u) = -u (1 - tanh(1 + l u)^2): raising l makes the unit stabler.
        torch.testing.assert_close(lower.grad, torch.tensor([[-0.5 * (1 - math.tanh(0.5) ** 2)]]))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 1000), st.floats(0.1, 10.0))
    def test_is_bounded_and_blind_to_the_scale_of_batch_normalisation(self, seed, scale):
        generator = torch.Generator().manual_seed(seed)
        center, radius = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
        lower, upper = center - radius.abs(), center + radius.abs()
        gain = 1.0 + torch.rand(4, dtype=torch.float64, generator=generator)
        result = nrs(lower, upper, gain)
        assert result.shape == (4,) and bool((result.abs() <= 1.0).all())
        scaled = nrs(lower * scale, upper * scale, gain * scale)
        torch.testing.assert_close(result, scaled, rtol=1e-4, atol=1e-6)


class TestRelusOfANetwork:
    def test_gains_are_those_of_batch_normalisation(self):
        model = with_batch_norm()
        gains = relu_gains(model, Wiring.of(model))
        assert gains.keys() == {0}
        torch.testing.assert_close(gains[0], model[1].weight.detach().abs())
        assert not gains[0].requires_grad

    def test_the_gain_of_a_sum_is_that_of_independent_units(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)
                self.norm_a, self.norm_b = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
                self.out = nn.Linear(1, 2)

            def forward(self, x):
                return self.out((self.norm_a(self.a(x)) + self.norm_b(self.b(x))).relu())

        model = Net()
        nn.init.constant_(model.norm_a.weight, 3.0)
        nn.init.constant_(model.norm_b.weight, 4.0)
        assert relu_gains(model, Wiring.of(model)) == {0: torch.tensor([5.0])}

    def test_the_penalty_weighs_units_equally_not_layers(self):
        model = with_batch_norm().eval()
        x, y_B = batch()
        result = IntervalPass(model).margins(x, y_B, *ball(x, 0.1))
        (lower_1, upper_1), (lower_2, upper_2) = result.pre_activations
        first = nrs(lower_1, upper_1, model[1].weight.detach())
        expected = (first.sum() + nrs(lower_2, upper_2).sum()) / (6 + 5)
        gains = relu_gains(model, Wiring.of(model))
        torch.testing.assert_close(nrs_penalty(result, gains), expected)

    def test_a_network_without_relu_has_none(self):
        model = nn.Sequential(nn.Linear(4, 3))
        x, y_B = batch()
        result = IntervalPass(model).margins(x, y_B, *ball(x, 0.1))
        assert float(nrs_penalty(result, {})) == 0.0


CONFIGS = [
    NaturalLossConfig, PgdLossConfig, IbpLossConfig, CrownIbpLossConfig, SabrLossConfig,
    MtlIbpLossConfig,
]  # fmt: skip


def settings_of(config, **settings):
    """Those that the loss has."""
    return config(**{k: v for k, v in settings.items() if k in config.model_fields})


@pytest.mark.parametrize("config", CONFIGS)
class TestLoss:
    def test_by_hand(self, config):
        x, y_B = torch.tensor([[0.5]]), torch.tensor([1])
        model = hinge()
        terms = [
            build_loss(config(stability_weight=w), model, torch.rand(2, 1))(x, y_B, 0.25, 1.0)
            for w in (0.0, 0.5)
        ]
        # For x in [0.25, 0.75]: x - 0.5 in [-1/4, 1/4], 0.5 - 2 x in [-1, 0].
        stability = -(math.tanh(1 - 1 / 16) + math.tanh(1.0)) / 2
        difference = float(terms[1].total.detach() - terms[0].total.detach())
        assert difference == pytest.approx(0.5 * stability, rel=1e-5)
        for name in ("natural", "certified"):
            torch.testing.assert_close(getattr(terms[0], name), getattr(terms[1], name))

    def test_nothing_is_added_while_the_radius_is_zero(self, config):
        x, y_B = batch()
        terms = build_loss(config(stability_weight=1.0), with_batch_norm(), x)(x, y_B, 0.0, 0.0)
        torch.testing.assert_close(terms.total, terms.natural)

    def test_it_makes_relus_stabler(self, config):
        model, (x, y_B) = with_batch_norm(), batch()
        loss = build_loss(
            settings_of(config, stability_weight=10.0, kappa=1.0, warmup_regularizer=0.0), model, x
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        found = []
        for _ in range(30):
            terms = loss(x, y_B, 0.1, 1.0)
            found.append(float((terms.total - terms.natural).detach()))
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        assert found[-1] < found[0] - 0.1

    def test_the_gains_are_those_of_the_moment(self, config):
        model, (x, y_B) = with_batch_norm(), batch()
        loss = build_loss(
            settings_of(config, stability_weight=1.0, kappa=0.5, warmup_regularizer=0.0),
            model.eval(),
            x,
        )
        nn.init.constant_(model[1].weight, 1e-4)
        small = loss(x, y_B, 0.1, 1.0)
        result = IntervalPass(model).margins(x, y_B, *ball(x, 0.1))
        expected = nrs_penalty(result, {0: model[1].weight})
        added = small.total - (small.natural + small.certified) / 2
        torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-5)

    def test_running_statistics_are_updated_once(self, config):
        model, (x, y_B) = with_batch_norm(), batch()
        build_loss(config(stability_weight=1.0), model, x)(x, y_B, 0.1, 0.5)
        assert int(model[1].num_batches_tracked) == 1

    def test_what_it_costs(self, config):
        x, _ = batch()
        without, with_it = (
            build_loss(config(stability_weight=w), hinge(), torch.rand(2, 1)) for w in (0.0, 1.0)
        )
        extra = with_it.passes(0.1, 1.0) - without.passes(0.1, 1.0)
        assert extra == {"natural": 2, "pgd": 2, "sabr": 3}.get(config().name, 0)
        assert with_it.passes(0.0, 0.0) == 1


def test_shrunken_radii_do_not_enter_it():
    model, (x, y_B) = with_batch_norm(), batch()
    weights = (0.0, 1.0)
    plain, shrunk = (
        [
            build_loss(
                TapsLossConfig(stability_weight=w, relu_shrink=s, warmup_regularizer=0.0), model, x
            )(x, y_B, 0.1, 1.0).total
            for w in weights
        ]
        for s in (1.0, 0.5)
    )
    torch.testing.assert_close(plain[1] - plain[0], shrunk[1] - shrunk[0], rtol=1e-4, atol=1e-5)


def test_a_residual_network_can_be_trained_with_it():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model = nn.Sequential(Residual(layers, nn.Identity()), nn.ReLU(), nn.Linear(4, 3))
    x, y_B = batch()
    terms = build_loss(IbpLossConfig(stability_weight=0.1), model, x)(x, y_B, 0.1, 0.5)
    terms.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
