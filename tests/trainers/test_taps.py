"""TAPS and STAPS: where a network is cut, what is found behind, and how gradients cross the cut."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spaces.training import IbpLossConfig, StapsLossConfig, TapsLossConfig
from trainers.bounds import IntervalPass, ball
from trainers.bounds.cut import cuts
from trainers.bounds.trace import trace
from trainers.errors import ModelError
from trainers.losses import build_loss
from trainers.losses.taps import BoxLink, scale_gradient, weights_behind
from trainers.models import Residual

PLAIN = {"kappa": 0.0, "kappa_start": 0.0, "warmup_regularizer": 0.0}


def network(seed=0, inputs=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.BatchNorm1d(8),
        nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def linear_tail(seed=0):
    """The second ReLU is always on, so that all behind the first is linear."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(model[2].bias, 20.0)
    return model


def batch(n=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 4, generator=generator)
    return x, (x[:, 0] > 0.5).long() + (x[:, 1] > 0.5).long()


class TestCut:
    def test_it_is_as_early_as_the_number_of_relus_allows(self):
        # Values: 0 x, 1 linear, 2 norm, 3 relu, 4 linear, 5 norm, 6 relu, 7 logits.
        assert cuts(trace(network())) == {0: 6, 1: 3, 2: 0}

    def test_flattening_lies_behind_it(self):
        layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), nn.ReLU()]
        assert cuts(trace(nn.Sequential(*layers, nn.Linear(4, 2)))) == {0: 5, 1: 2, 2: 0}

    def test_a_residual_block_is_not_cut(self):
        block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model = nn.Sequential(
            nn.Linear(4, 4), nn.ReLU(), Residual(block, nn.Identity()), nn.ReLU(), nn.Linear(4, 3)
        )
        # Values: 2 first ReLU, 3 to 5 block, 6 sum, 7 ReLU, 8 logits; behind the sum is one ReLU.
        found = cuts(trace(model))
        assert found == {0: 7, 1: 6, 2: 2, 3: 0}

    def test_a_shortcut_around_the_last_relu_leaves_no_cut_before_it(self):
        block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model = nn.Sequential(
            nn.Linear(4, 4), nn.ReLU(), Residual(block, nn.Identity()), nn.Linear(4, 3)
        )
        assert cuts(trace(model)) == {0: 6, 1: 2, 2: 0}
        deep = nn.Sequential(nn.Linear(4, 4), Residual(nn.Sequential(*block, nn.ReLU()), nn.ReLU()))
        with pytest.raises(ModelError, match="attacked_relus is 1, but this network of 3 ReLU"):
            build_loss(TapsLossConfig(), nn.Sequential(*deep, nn.Linear(4, 3)), torch.rand(2, 4))

    def test_unused_values_are_no_obstacle(self):
        class Unused(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

            def forward(self, x):
                hidden = self.a(x).relu()
                self.b(x).relu()
                return self.b(self.a(hidden).relu())

        model = Unused()
        numbers = cuts(trace(model))
        assert sorted(numbers) == [0, 1, 2]
        loss = build_loss(TapsLossConfig(), model, torch.rand(2, 4))
        assert loss(*batch(), 0.1, 1.0).total.isfinite()

    def test_the_weights_behind_are_counted(self):
        assert weights_behind(IntervalPass(network()), 3) == ["3.weight", "6.weight"]

    @pytest.mark.parametrize("config", [TapsLossConfig, StapsLossConfig])
    def test_a_network_with_too_few_relus_is_refused(self, config):
        with pytest.raises(ModelError, match=r"attacked_relus is 2, .* in front of its last 1:"):
            build_loss(config(attacked_relus=2), network(), torch.rand(2, 4))
        shallow = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
        with pytest.raises(ModelError, match=r"1 ReLU layers cannot be cut: .* deeper network"):
            build_loss(config(), shallow, torch.rand(2, 4))


class TestLink:
    def test_by_hand(self):
        # A box [0, 4]: each end has a say up to 2 away from it.
        lower, upper = torch.zeros(1, 1), torch.full((1, 1), 4.0)
        for point, to_lower, to_upper in (
            (0.0, 1.0, 0.0), (1.0, 0.5, 0.0), (2.0, 0.0, 0.0), (3.5, 0.0, 0.75), (4.0, 0.0, 1.0),
        ):  # fmt: skip
            ends = lower.clone().requires_grad_(), upper.clone().requires_grad_()
            out = BoxLink.apply(*ends, torch.tensor([[point]]))
            assert float(out.detach()) == point
            gradients = torch.autograd.grad(3.0 * out.sum(), ends)
            assert [float(g) for g in gradients] == [3.0 * to_lower, 3.0 * to_upper]

    def test_a_box_without_width_moves_as_a_whole(self):
        ends = [torch.ones(1, 1, requires_grad=True) for _ in range(2)]
        gradients = torch.autograd.grad(BoxLink.apply(*ends, torch.ones(1, 1)).sum(), ends)
        assert [float(g) for g in gradients] == [0.5, 0.5]

    def test_points_of_one_box_add_up(self):
        lower = torch.zeros(2, 1, 1, requires_grad=True)
        upper = torch.ones(2, 1, 1, requires_grad=True)
        points = torch.tensor([[[0.0], [1.0], [0.0]], [[1.0], [1.0], [0.25]]])
        gradients = torch.autograd.grad(BoxLink.apply(lower, upper, points).sum(), (lower, upper))
        assert gradients[0].flatten().tolist() == [2.0, 0.5]
        assert gradients[1].flatten().tolist() == [1.0, 2.0]

    def test_a_scaled_gradient_belongs_to_the_same_value(self):
        value = torch.tensor(0.7, requires_grad=True)
        scaled = scale_gradient(value.square(), 4.0)
        assert torch.equal(scaled, value.square())
        assert float(torch.autograd.grad(scaled, value)[0]) == pytest.approx(4.0 * 1.4)


def exact_losses(model, x, y_B, epsilon):
    """Worst cross-entropy in the box behind the first ReLU, exactly, and by intervals."""
    result = IntervalPass(model).margins(x, y_B, *ball(x, epsilon))
    matrix = model[4].weight @ model[2].weight
    constant = model[4].weight @ model[2].bias + model[4].bias
    difference = matrix[y_B][:, None] - matrix  # (B, K, units)
    margins = (difference * result.values[2].center[:, None]).sum(2)
    margins = margins - (difference.abs() * result.values[2].radius[:, None]).sum(2)
    margins = margins + constant[y_B][:, None] - constant
    return F.cross_entropy(-margins, y_B), F.cross_entropy(-result.margins_BK, y_B)


class TestTaps:
    @pytest.mark.parametrize("steps", [1, 6])
    def test_with_a_linear_last_part_it_is_the_exact_worst_case_of_the_box(self, steps):
        x, y_B = batch()
        model = linear_tail()
        config = TapsLossConfig(attack_steps=steps, gradient_scale=3.0, **PLAIN)
        terms = build_loss(config, model, x)(x, y_B, 0.1, 1.0)
        exact, by_intervals = exact_losses(model, x, y_B, 0.1)
        torch.testing.assert_close(terms.certified, exact * by_intervals, rtol=1e-4, atol=1e-5)
        assert exact < by_intervals
        # At its corners the ends of the box get the whole gradient, as if the minimum were derived.
        found = torch.autograd.grad(terms.total, list(model.parameters()))
        expected = torch.autograd.grad(
            3.0 * exact * by_intervals.detach() + exact.detach() * by_intervals,
            list(model.parameters()),
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    def test_by_hand(self):
        # Units relu(x) and relu(x - 0.5), then 1 + their difference and a ReLU that is on: of
        # [0.1, 0.9] and [0, 0.4] the corner (0.1, 0.4) is worst, as it is for intervals.
        model = nn.Sequential(
            nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)
        )
        with torch.no_grad():
            model[0].weight.fill_(1.0), model[0].bias.copy_(torch.tensor([0.0, -0.5]))
            model[2].weight.copy_(torch.tensor([[1.0, -1.0]])), model[2].bias.fill_(1.0)
            model[4].weight.copy_(torch.tensor([[0.0], [1.0]]))
            model[4].bias.copy_(torch.tensor([1.0, 0.0]))
        x, y_B = torch.tensor([[0.5]]), torch.tensor([1])
        with torch.no_grad():
            terms = build_loss(TapsLossConfig(**PLAIN), model, x)(x, y_B, 0.4, 1.0)
        assert float(terms.certified) == pytest.approx(math.log1p(math.exp(0.3)) ** 2, rel=1e-5)

    def test_points_stay_in_the_box_and_are_no_better_than_intervals_say(self):
        x, y_B = batch()
        model = network().eval()
        loss = build_loss(TapsLossConfig(**PLAIN), model, x)
        result = loss.interval.margins(x, y_B, *ball(x, 0.1))
        lower, upper = (bound[:, None].detach() for bound in result.values[loss.cut].bounds)
        points = loss._worst_points(lower, upper, y_B, result.norms)
        assert points.shape == (16, 2, 12)
        assert bool(((points >= lower) & (points <= upper)).all())
        start = ((lower + upper) / 2).expand(-1, 2, -1)
        found, middle = (loss._margins(p, y_B, result.norms) for p in (points, start))
        assert bool((found <= middle + 1e-6).all())
        other_BK = (y_B[:, None] + torch.tensor([1, 2])) % 3
        assert bool((found >= result.margins_BK.gather(1, other_BK) - 1e-5).all())

    def test_each_class_has_the_point_that_is_worst_for_it(self):
        # The last part is linear: which corner is worst depends on the class alone.
        x, y_B = batch()
        model = linear_tail()
        loss = build_loss(TapsLossConfig(attack_steps=1, **PLAIN), model, x)
        lower, upper = torch.zeros(16, 1, 12), torch.ones(16, 1, 12)
        points = loss._worst_points(lower, upper, y_B, {})
        matrix = model[4].weight @ model[2].weight
        for b in range(16):
            for k in range(2):
                fall = matrix[(y_B[b] + 1 + k) % 3] - matrix[y_B[b]]
                torch.testing.assert_close(points[b, k], (fall > 0).float())

    def test_batch_normalisation_behind_the_cut_is_that_of_the_natural_pass(self):
        x, y_B = batch()
        model = network()
        loss = build_loss(TapsLossConfig(attacked_relus=1, **PLAIN), model, x)
        result = loss.interval.margins(x, y_B, *ball(x, 0.0))
        points = result.values[loss.cut].value[:, None].expand(-1, 2, -1)
        margins = loss._margins(points, y_B, result.norms)
        other_BK = (y_B[:, None] + torch.tensor([1, 2])) % 3
        own = result.logits_BK.gather(1, y_B[:, None])
        torch.testing.assert_close(margins, own - result.logits_BK.gather(1, other_BK))

    def test_what_a_step_costs(self):
        x, _ = batch()
        loss = build_loss(TapsLossConfig(attack_steps=5), network(), x)
        layers = {"0.weight": 96.0, "3.weight": 192.0, "6.weight": 48.0}
        gradients = {name: 2 * flops for name, flops in layers.items()}
        # Two points; five steps, each there and back through 240 operations; then there, back,
        # and to the weights.
        expected = 2 * (5 * 2 * 240 + 2 * 240 + 2 * 240)
        assert loss.attack_flops(layers, gradients, 0.1, 1.0) == expected
        assert loss.attack_flops(layers, gradients, 0.0, 0.0) == 0.0
        assert loss.passes(0.1, 1.0) == 3


class TestStaps:
    @pytest.mark.parametrize("progress", [0.4, 1.0])
    def test_with_lambda_1_it_is_taps(self, progress):
        x, y_B = batch()
        taps = build_loss(TapsLossConfig(kappa=0.2), network(), x)
        staps = build_loss(StapsLossConfig(subselection_ratio=1.0, kappa=0.2), network(), x)
        assert torch.equal(taps(x, y_B, 0.1, progress).total, staps(x, y_B, 0.1, progress).total)

    def test_it_is_taps_on_the_box_of_sabr(self):
        x, y_B = batch()
        model = linear_tail()
        loss = build_loss(StapsLossConfig(subselection_ratio=0.3, **PLAIN), model, x)
        terms = loss(x, y_B, 0.2, 1.0)
        lower, upper = loss.box(x, y_B, 0.2, 1.0)
        assert bool((upper - lower <= 2 * 0.3 * 0.2 + 1e-6).all())
        result = loss.interval.margins(x, y_B, lower, upper)
        taps = build_loss(TapsLossConfig(**PLAIN), model, x)
        expected = taps.certified(result.margins_BK, result, x, y_B, 0.2, 1.0)
        torch.testing.assert_close(terms.certified, expected)

    def test_both_attacks_are_counted(self):
        x, _ = batch()
        layers = {"0.weight": 96.0, "3.weight": 192.0, "6.weight": 48.0}
        taps, staps = (
            build_loss(cls(attack_steps=4), network(), x).attack_flops(layers, layers, 0.1, 1.0)
            for cls in (TapsLossConfig, StapsLossConfig)
        )
        assert staps == taps + 4 * 2 * 336


def test_boxes_are_bounds_only_without_shrinking():
    x, y_B = batch()
    interval = IntervalPass(network().eval())
    sound, shrunk = (
        interval.margins(x, y_B, *ball(x, 0.1), relu_shrink=factor) for factor in (1.0, 0.5)
    )
    assert bool((shrunk.margins_BK >= sound.margins_BK).all())
    assert torch.equal(shrunk.logits_BK, sound.logits_BK)
    ibp = build_loss(IbpLossConfig(**PLAIN), network().eval(), x)(x, y_B, 0.1, 1.0)
    torch.testing.assert_close(ibp.certified, F.cross_entropy(-sound.margins_BK, y_B))
