"""Losses with an attack in them: exact values where they can be worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spaces.training import IbpLossConfig, MtlIbpLossConfig, PgdLossConfig, SabrLossConfig
from trainers.bounds import IntervalPass, ball
from trainers.losses import build_loss
from trainers.losses.adversary import adversarial

PLAIN = {"kappa": 0.0, "kappa_start": 0.0}
NO_WARMUP = {**PLAIN, "warmup_regularizer": 0.0}


def capped():
    """The margin of class 1 is relu(x) - relu(x - 0.5) = min(x, 0.5), in two units."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0), model[0].bias.copy_(torch.tensor([0.0, -0.5]))
        model[2].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -1.0]])), model[2].bias.zero_()
    return model


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


def batch(n=32):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 4, generator=generator)
    return x, (x[:, 0] > 0.5).long() + (x[:, 1] > 0.5).long()


def cross_entropy(margin):
    return math.log1p(math.exp(-margin))


HALF, ONE = torch.tensor([[0.5]]), torch.tensor([1])


def certified(config, progress=1.0):
    """Of the example 0.5 with class 1, at epsilon 0.4."""
    with torch.no_grad():
        terms = build_loss(config, capped(), HALF)(HALF, ONE, 0.4, progress)
    return float(terms.certified)


class TestAttack:
    def test_it_ends_in_the_corner_of_a_linear_network(self):
        model = nn.Sequential(nn.Linear(2, 2, bias=False))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[-1.0, 3.0], [1.0, -2.0]]))
        loss = build_loss(PgdLossConfig(), model, torch.rand(2, 2))
        x, y_B = torch.tensor([[0.5, 0.5], [0.1, 0.9]]), torch.tensor([0, 1])
        # logit 0 - logit 1 = -2 a + 5 b: class 0 suffers from a up and b down, class 1 the other
        # way round; the data range ends at 0 and 1.
        found = adversarial(loss, loss.config, x, y_B, 0.25)
        torch.testing.assert_close(found, torch.tensor([[0.75, 0.25], [0.0, 1.0]]))
        assert torch.equal(x, torch.tensor([[0.5, 0.5], [0.1, 0.9]]))

    def test_steps_start_at_x_and_shrink(self):
        config = PgdLossConfig(attack_steps=2, attack_step_size=0.25)
        loss = build_loss(config, capped(), HALF)
        # Down by 0.25 * 0.4, then by half of it.
        torch.testing.assert_close(
            adversarial(loss, config, HALF, ONE, 0.4), torch.tensor([[0.5 - 0.1 - 0.05]])
        )

    def test_more_steps_find_more(self):
        x, y_B = batch()
        model = network().eval()
        losses = []
        for steps in (1, 5, 20):
            loss = build_loss(PgdLossConfig(attack_steps=steps), model, x)
            found = adversarial(loss, loss.config, x, y_B, 0.3)
            assert bool(((found - x).abs() <= 0.3 + 1e-6).all())
            assert bool(((found >= 0) & (found <= 1)).all())
            losses.append(float(F.cross_entropy(model(found), y_B).detach()))
        assert F.cross_entropy(model(x), y_B) < losses[0] <= losses[1] + 1e-3 <= losses[2] + 2e-3


class TestPgd:
    def test_by_hand(self):
        # x' = 0.1, where the margin is 0.1.
        config = PgdLossConfig(kappa=0.25, kappa_start=0.75)
        terms = build_loss(config, capped(), HALF)(HALF, ONE, 0.4, 0.5)
        natural, worst = cross_entropy(0.5), cross_entropy(0.1)
        assert float(terms.certified.detach()) == pytest.approx(worst, rel=1e-6)
        assert float(terms.total.detach()) == pytest.approx((natural + worst) / 2, rel=1e-6)
        assert int(terms.num_certified) == 1

    def test_batch_normalisation_is_that_of_the_natural_inputs(self):
        x, y_B = batch()
        model = network()
        loss = build_loss(PgdLossConfig(**PLAIN), model, x)
        terms = loss(x, y_B, 0.2, 1.0)
        attacked = adversarial(loss, loss.config, x, y_B, 0.2)
        norm = model[1]
        hidden = model[0](x)
        mean, variance = hidden.mean(0), hidden.var(0, unbiased=False)
        normal = (model[0](attacked) - mean) / (variance + norm.eps).sqrt()
        logits = model[2:](normal * norm.weight + norm.bias)
        torch.testing.assert_close(terms.total, F.cross_entropy(logits, y_B))
        gradients = torch.autograd.grad(terms.total, list(model.parameters()))
        by_hand = torch.autograd.grad(F.cross_entropy(logits, y_B), list(model.parameters()))
        for one, other in zip(gradients, by_hand, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class TestSabr:
    def test_by_hand(self):
        # Intervals of [0.1, 0.9]: relu(x) >= 0.1, relu(x - 0.5) <= 0.4.
        assert certified(IbpLossConfig(**NO_WARMUP)) == pytest.approx(cross_entropy(-0.3), rel=1e-5)
        # x' = 0.5 - 0.2, and the box [0.1, 0.5], where the second unit is off.
        config = SabrLossConfig(subselection_ratio=0.5, **NO_WARMUP)
        assert certified(config) == pytest.approx(cross_entropy(0.1), rel=1e-5)

    def test_shrinking_radii_by_hand(self):
        # Behind the first ReLU [0.1, 0.5] becomes [0.2, 0.4].
        config = SabrLossConfig(subselection_ratio=0.5, relu_shrink=0.5, **NO_WARMUP)
        assert certified(config) == pytest.approx(cross_entropy(0.2), rel=1e-5)

    def test_the_box_lies_in_the_ball_and_the_data_range(self):
        loss = build_loss(SabrLossConfig(subselection_ratio=0.25), capped(), HALF)
        x, y_B = torch.tensor([[0.5], [0.1], [0.95]]), torch.tensor([1, 1, 0])
        lower, upper = loss.box(x, y_B, 0.2, 1.0)
        # Points 0.5 - 0.15; max(0.1 - 0.15, 0); and 0.95, where the margin is flat.
        torch.testing.assert_close(lower, torch.tensor([[0.3], [0.0], [0.9]]))
        torch.testing.assert_close(upper, torch.tensor([[0.4], [0.05], [1.0]]))

    def test_lambda_goes_from_its_start_to_its_end(self):
        config = SabrLossConfig(subselection_ratio=0.1, subselection_ratio_start=0.7)
        loss = build_loss(config, capped(), HALF)
        assert (loss.box_share(0.0), loss.box_share(1.0)) == (0.7, 0.1)
        assert loss.box_share(0.5) == pytest.approx(0.4)
        lower, upper = loss.box(HALF, ONE, 0.2, 0.5)
        assert float(upper - lower) == pytest.approx(2 * 0.4 * 0.2, rel=1e-5)

    @pytest.mark.parametrize("progress", [0.3, 1.0])
    def test_with_lambda_1_it_is_ibp(self, progress):
        x, y_B = batch()
        settings = {"kappa": 0.2, "stability_weight": 0.1}
        sabr = build_loss(SabrLossConfig(subselection_ratio=1.0, **settings), network(), x)
        ibp = build_loss(IbpLossConfig(kappa_start=0.3, **settings), network(), x)
        assert torch.equal(sabr(x, y_B, 0.1, progress).total, ibp(x, y_B, 0.1, progress).total)

    def test_stability_is_that_of_the_whole_ball(self):
        x, y_B = batch()
        weights = (0.0, 1.0)
        sabr, ibp = (
            [
                build_loss(cls(stability_weight=w, **PLAIN), network(), x)(x, y_B, 0.1, 1.0).total
                for w in weights
            ]
            for cls in (SabrLossConfig, IbpLossConfig)
        )
        torch.testing.assert_close(sabr[1] - sabr[0], ibp[1] - ibp[0], rtol=1e-4, atol=1e-5)


class TestMtlIbp:
    def test_by_hand(self):
        # Intervals -0.3; the attack within 0.5 * 0.4 ends at 0.3, where the margin is 0.3.
        config = MtlIbpLossConfig(alpha=0.25, attack_factor=0.5, **NO_WARMUP)
        expected = 0.25 * cross_entropy(-0.3) + 0.75 * cross_entropy(0.3)
        assert certified(config) == pytest.approx(expected, rel=1e-5)

    def test_alpha_goes_from_its_start_to_its_end(self):
        config = MtlIbpLossConfig(alpha=0.2, alpha_start=0.6, **NO_WARMUP)
        for progress, alpha in ((0.0, 0.6), (0.5, 0.4), (1.0, 0.2)):
            expected = alpha * cross_entropy(-0.3) + (1 - alpha) * cross_entropy(0.1)
            assert certified(config, progress) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("progress", [0.3, 1.0])
    def test_with_alpha_1_it_is_ibp(self, progress):
        x, y_B = batch()
        mtl = build_loss(MtlIbpLossConfig(alpha=1.0, kappa=0.2), network(), x)
        ibp = build_loss(IbpLossConfig(kappa=0.2, kappa_start=0.3), network(), x)
        assert torch.equal(mtl(x, y_B, 0.1, progress).total, ibp(x, y_B, 0.1, progress).total)

    def test_with_alpha_0_it_is_adversarial_training(self):
        x, y_B = batch()
        mtl = build_loss(MtlIbpLossConfig(alpha=0.0, **NO_WARMUP), network(), x)
        pgd = build_loss(PgdLossConfig(**PLAIN), network(), x)
        first, second = (loss(x, y_B, 0.1, 0.4) for loss in (mtl, pgd))
        torch.testing.assert_close(first.total, second.total)
        gradients = [
            torch.autograd.grad(terms.total, list(loss.model.parameters()))
            for terms, loss in ((first, mtl), (second, pgd))
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_points_of_a_box_without_width_are_the_pass_itself(training):
    x, y_B = batch()
    model = network().train(training)
    interval = IntervalPass(model)
    result = interval.margins(x, y_B, *ball(x, 0.0))
    logits_BK, norms = interval.points(x, result.norms)
    torch.testing.assert_close(logits_BK, result.logits_BK)
    expected = result.logits_BK.gather(1, y_B[:, None]) - result.logits_BK
    torch.testing.assert_close(result.margins_BK, expected, rtol=1e-4, atol=1e-5)
    assert norms.keys() == {1}
    assert int(model[1].num_batches_tracked) == int(training)


def test_points_without_norms_are_a_natural_pass():
    x, _ = batch()
    ours, plain = network(), network()
    logits_BK, _ = IntervalPass(ours).points(x)
    torch.testing.assert_close(logits_BK, plain(x))
    torch.testing.assert_close(ours[1].running_var, plain[1].running_var)
