"""Signals of topology methods: exact values on tiny networks; finding them changes nothing."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spaces.model import Cnn7Config, CnnConfig, MlpConfig, ResNetConfig
from spaces.training import IbpLossConfig
from trainers.bounds import IntervalPass, ball
from trainers.bounds.trace import trace
from trainers.losses import build_loss
from trainers.losses.stability import nrs
from trainers.models import Residual, build_model, initialize, prunable_weights
from trainers.signals import (
    SignalCost,
    _behind_relu,
    adversarial_gradients,
    cosines,
    gains,
    hessian_gradients,
    instability,
    signal_cost,
    synaptic_flow,
)
from trainers.topology.masks import full_masks
from trainers.wiring import Wiring

FAMILIES = [
    MlpConfig(widths=(8, 6), batch_norm=True),
    CnnConfig(channels=(4, 5), hidden=(7,)),
    Cnn7Config(width=2, hidden=8),
    ResNetConfig(width=4, blocks=(1, 1)),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(rows, bias=None):
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def build(config, input_shape=(3, 8, 8)):
    model = build_model(config, input_shape, 4, torch.full((3,), 0.5), torch.ones(3))
    initialize(model, config, seeded())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5, generator=seeded(1))
    return model


def batch(n=8, input_shape=(3, 8, 8)):
    return torch.rand(n, *input_shape, generator=seeded(2)), torch.arange(n) % 4


def every_signal(model, x, y_B):
    """All signals of a network, as a training loop asks for them."""
    weights, wiring = prunable_weights(model), Wiring.of(model)
    loss = build_loss(IbpLossConfig(), model, x)
    flow = synaptic_flow(wiring.program, weights, x.shape[1:])
    return {
        "adversarial": adversarial_gradients(model, weights, x, y_B, 0.05, 3),
        "cosines": cosines(wiring.program, weights, x),
        "instability": instability(loss.interval, wiring, x, y_B, 0.05),
        "hessian": hessian_gradients(model, weights, lambda: loss(x, y_B, 0.05, 1.0).certified),
        "gains": gains(model, wiring, weights),
        "flow": flow(full_masks(weights)),
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("config", FAMILIES)
class TestEveryFamily:
    def test_signals_leave_no_trace(self, config, training):
        model, (x, y_B) = build(config).train(training), batch()
        F.cross_entropy(model(x), y_B).backward()
        waiting = F.cross_entropy(model(x), y_B)
        before = copy.deepcopy(model.state_dict())
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        memory = {name: t.data_ptr() for name, t in model.state_dict().items()}
        random_state = torch.get_rng_state()
        every_signal(model, x, y_B)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]) and tensor.data_ptr() == memory[name], name
        for name, p in model.named_parameters():
            assert torch.equal(p.grad, gradients[name])
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(module.training == training for module in model.modules())
        waiting.backward()  # the graph of a training step that is under way is still good
        for name, p in model.named_parameters():
            reference = copy.deepcopy(gradients[name])
            torch.testing.assert_close(p.grad, 2 * reference, rtol=1e-4, atol=1e-5)

    def test_signals_have_the_shapes_of_weights_or_of_units_and_are_finite(self, config, training):
        model, (x, y_B) = build(config).train(training), batch()
        for kind, signal in every_signal(model, x, y_B).items():
            for name, weight in prunable_weights(model).items():
                per_unit = kind in ("instability", "gains")
                assert signal[name].shape == (weight.shape[:1] if per_unit else weight.shape)
                assert bool(signal[name].isfinite().all()), (kind, name)

    def test_signals_repeat(self, config, training):
        model, (x, y_B) = build(config).train(training), batch()
        first, second = every_signal(model, x, y_B), every_signal(model, x, y_B)
        for kind, signal in first.items():
            for name in signal:
                assert torch.equal(signal[name], second[kind][name]), (kind, name)


class TestAdversarialGradients:
    def test_by_hand(self):
        model = nn.Sequential(linear([[-1.0], [1.0]]))  # logits (-x, x)
        x, y_B = torch.tensor([[0.5], [0.5]]), torch.tensor([1, 0])
        result = adversarial_gradients(model, prunable_weights(model), x, y_B, 0.25, steps=10)
        # The first example climbs down to 0.25, still of class 1; its logits are -/+ 0.25, so that
        # dL/dw = (p - onehot) x with p_0 = 1 / (1 + e^0.5). The second is wrong where it stands.
        wrong, already = 0.25 / (1 + math.exp(0.5)), 0.5 / (1 + math.exp(-1.0))
        expected = torch.tensor([[wrong - already], [already - wrong]]) / 2
        torch.testing.assert_close(result["0.weight"], expected, rtol=1e-5, atol=1e-6)

    def test_at_radius_zero_they_are_the_natural_gradients(self):
        model, (x, y_B) = build(FAMILIES[1]), batch()
        weights = prunable_weights(model)
        loss = F.cross_entropy(model(x), y_B)
        expected = torch.autograd.grad(loss, list(weights.values()))
        found = adversarial_gradients(model, weights, x, y_B, 0.0, 2)
        for gradient, name in zip(expected, weights, strict=True):
            torch.testing.assert_close(found[name], gradient)

    def test_pruned_weights_have_them_too(self):
        model, (x, y_B) = build(FAMILIES[0]), batch()
        weights = prunable_weights(model)
        first = next(iter(weights))
        with torch.no_grad():
            weights[first][:, ::2] = 0.0
        found = adversarial_gradients(model, weights, x, y_B, 0.05, 2)
        assert bool((found[first][:, ::2] != 0).any())


def unfolded_cosine(layer, before, after):
    """|cos| weight by weight, output position by output position."""
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(0, 0) if layer.padding == "valid" else (p, p) for p in layer.padding[:2]]
    before = F.pad(before, (*sides[1], *sides[0])).double()
    result = torch.zeros(layer.weight.shape, dtype=torch.float64)
    per_group = layer.out_channels // layer.groups
    (sy, sx), (dy, dx) = layer.stride, layer.dilation
    for o, i, ky, kx in torch.cartesian_prod(*map(torch.arange, layer.weight.shape)).tolist():
        channel = o // per_group * layer.weight.shape[1] + i
        a_i = [
            before[b, channel, y * sy + ky * dy, x * sx + kx * dx]
            for b in range(after.shape[0])
            for y in range(after.shape[2])
            for x in range(after.shape[3])
        ]
        a_i, a_j = torch.stack(a_i), after[:, o].flatten().double()
        norms = a_i.norm() * a_j.norm()
        result[o, i, ky, kx] = (a_i @ a_j).abs() / norms if norms > 0 else 0.0
    return result.float()


class TestCosines:
    def test_by_hand(self):
        model = nn.Sequential(
            linear([[1.0, 1.0], [1.0, -2.0], [-1.0, 0.0]]), nn.ReLU(), linear([[1.0, -1.0, 0.0]])
        )
        x = torch.tensor([[1.0, 1.0], [2.0, -1.0]])
        # Inputs (1, 2) and (1, -1). Units (2, 1), (-1, 4) -> (0, 4), (-1, -2) -> 0. Output (2, -3).
        found = cosines(trace(model), prunable_weights(model), x)
        first = [[4 / 5, 1 / 10**0.5], [2 / 5**0.5, 1 / 2**0.5], [0.0, 0.0]]
        second = [[1 / 65**0.5, 3 / 13**0.5, 0.0]]
        torch.testing.assert_close(found["0.weight"], torch.tensor(first))
        torch.testing.assert_close(found["2.weight"], torch.tensor(second))

    @pytest.mark.parametrize(
        "options",
        [
            {"kernel_size": 3, "padding": 1},
            {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2)},
            {"kernel_size": 2, "dilation": 2, "stride": 2, "groups": 2},
            {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
            {"kernel_size": 3, "padding": "valid", "stride": 3, "groups": 2, "bias": False},
        ],
    )
    @pytest.mark.parametrize("relu", [True, False])
    @pytest.mark.filterwarnings("ignore:Using padding='same'")
    def test_of_a_convolution_is_that_of_unfolded_positions(self, options, relu):
        torch.manual_seed(0)
        layer = nn.Conv2d(2, 4, **options)
        model = nn.Sequential(layer, *([nn.ReLU()] if relu else []))
        x = torch.randn(3, 2, 6, 7)
        x[:, :, 0, 0] = 0.0
        with torch.no_grad():
            layer.weight[0] = -layer.weight[0].abs()
            after = model(x)
            expected = unfolded_cosine(layer, x, after)
        found = cosines(trace(model), prunable_weights(model), x)["0.weight"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_a_unit_that_is_always_off_is_like_nothing(self):
        layer = nn.Conv2d(1, 1, 1)
        nn.init.constant_(layer.bias, -100.0)
        model = nn.Sequential(layer, nn.ReLU())
        found = cosines(trace(model), prunable_weights(model), torch.rand(2, 1, 3, 3))
        assert float(found["0.weight"]) == 0.0

    def test_of_a_weight_that_two_layers_share_joins_their_vectors(self):
        layer = linear([[0.0, 1.0], [1.0, 1.0]])
        model = nn.Sequential(layer, nn.ReLU(), layer)
        x = torch.tensor([[1.0, 2.0]])
        # First use (1, 2) -> (2, 3); second use (2, 3) -> (3, 5).
        found = cosines(trace(model), prunable_weights(model), x)["0.weight"]
        pairs = [[([1, 2], [2, 3]), ([2, 3], [2, 3])], [([1, 2], [3, 5]), ([2, 3], [3, 5])]]
        expected = [
            [sum(map(math.prod, zip(a, b, strict=True))) / math.hypot(*a) / math.hypot(*b)
             for a, b in row]
            for row in pairs
        ]  # fmt: skip
        torch.testing.assert_close(found, torch.tensor(expected))

    @pytest.mark.parametrize("config", FAMILIES)
    def test_the_relu_that_follows_is_the_wiring_s(self, config):
        wiring = Wiring.of(build(config))
        program = wiring.program
        names = {weight: name for name, weight in prunable_weights(build(config)).items()}
        relus = [n for n, step in enumerate(program.steps, 1) if isinstance(step.op, nn.ReLU)]
        layers = [
            n for n, s in enumerate(program.steps, 1) if isinstance(s.op, nn.Linear | nn.Conv2d)
        ]
        for name, number in zip(names.values(), layers, strict=True):
            expected = relus[wiring.relus[name]] if name in wiring.relus else None
            assert _behind_relu(program, number) == expected


class TestInstability:
    def test_by_hand(self):
        model = nn.Sequential(
            linear([[1.0], [-2.0]], [-0.5, 0.5]), nn.ReLU(), linear([[1.0, 0.0], [0.0, 1.0]])
        )
        x, y_B = torch.tensor([[0.5]]), torch.tensor([0])
        found = instability(IntervalPass(model), Wiring.of(model), x, y_B, 0.25)
        # For x in [0.25, 0.75]: x - 0.5 in [-1/4, 1/4], 0.5 - 2 x in [-1, 0].
        expected = torch.tensor([-math.tanh(1 - 1 / 16), -math.tanh(1.0)])
        torch.testing.assert_close(found["0.weight"], expected)
        assert torch.equal(found["2.weight"], torch.tensor([-1.0, -1.0]))

    def test_behind_batch_normalisation_it_is_normalised_by_the_scale(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
        )
        nn.init.uniform_(model[1].weight, 0.1, 3.0)
        x, y_B = torch.rand(5, 1, 6, 6), torch.zeros(5, dtype=torch.int64)
        found = instability(IntervalPass(model), Wiring.of(model), x, y_B, 0.1)
        other = IntervalPass(copy.deepcopy(model))
        lower, upper = other.margins(x, y_B, *ball(x, 0.1)).pre_activations[0]
        torch.testing.assert_close(found["0.weight"], nrs(lower, upper, model[1].weight).detach())


def smooth(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 2)
    )


class TestHessianGradients:
    def test_by_hand(self):
        model = nn.Sequential(linear([[2.0]])).double()
        weights = prunable_weights(model)
        # L = w^3: g = 3 w^2 = 12, H = 6 w = 12.
        found = hessian_gradients(model, weights, lambda: model[0].weight.pow(3).sum())
        assert float(found["0.weight"]) == pytest.approx(144.0, rel=1e-3)

    @pytest.mark.parametrize(
        ("dtype", "error"), [(torch.float64, 1e-3), (torch.float32, 2e-2)], ids=str
    )
    def test_is_what_double_backward_finds_on_a_smooth_network(self, dtype, error):
        model = smooth().to(dtype)
        x, y_B = torch.rand(20, 3, generator=seeded()).to(dtype), torch.arange(20) % 2
        weights = prunable_weights(model)
        found = hessian_gradients(model, weights, lambda: F.cross_entropy(model(x), y_B))
        exact = smooth().double()
        parameters = list(prunable_weights(exact).values())
        loss = F.cross_entropy(exact(x.double()), y_B)
        g = torch.autograd.grad(loss, parameters, create_graph=True)
        product = sum((a * a.detach()).sum() for a in g)
        for name, expected in zip(weights, torch.autograd.grad(product, parameters), strict=True):
            difference = (found[name].double() - expected).norm()
            assert float(difference) < error * float(expected.norm())

    def test_of_a_loss_that_cannot_be_differentiated_twice(self):
        model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()
        x, y_B = torch.rand(20, 3, generator=seeded()).double(), torch.arange(20) % 2
        loss = build_loss(IbpLossConfig(), model, x)
        weights = prunable_weights(model)
        found = hessian_gradients(model, weights, lambda: loss(x, y_B, 0.1, 1.0).certified)
        assert all(bool((product != 0).any()) for product in found.values())

    def test_where_the_gradient_is_zero_so_is_the_product(self):
        model = nn.Sequential(linear([[0.0]]))
        found = hessian_gradients(
            model, prunable_weights(model), lambda: model[0].weight.square().sum()
        )
        assert float(found["0.weight"]) == 0.0

    def test_weights_come_back_when_the_loss_fails(self):
        model = smooth()
        before, calls = copy.deepcopy(model.state_dict()), []

        def loss():
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("out of memory")
            return model(torch.ones(2, 3)).square().sum()

        with pytest.raises(RuntimeError, match="out of memory"):
            hessian_gradients(model, prunable_weights(model), loss)
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class TestGains:
    def test_are_magnitudes_and_one_without_batch_normalisation(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor([0.5, -2.0, 0.0]))
        found = gains(model, Wiring.of(model), prunable_weights(model))
        assert found["0.weight"].tolist() == [0.5, 2.0, 0.0]
        assert found["3.weight"].tolist() == [1.0, 1.0]
        assert found["0.weight"].requires_grad and not found["3.weight"].requires_grad


class TestSynapticFlow:
    def network(self):
        return nn.Sequential(
            linear([[1.0, -2.0], [3.0, 4.0]], [7.0, -9.0]), nn.ReLU(), linear([[5.0, -6.0]], [1.0])
        )

    def test_by_hand(self):
        model = self.network()
        weights = prunable_weights(model)
        flow = synaptic_flow(trace(model), weights, (2,))
        # R = 5 (1 + 2) + 6 (3 + 4) = 57.
        found = flow(full_masks(weights))
        assert found["0.weight"].tolist() == [[5.0, 10.0], [18.0, 24.0]]
        assert found["2.weight"].tolist() == [[15.0, 42.0]]

    def test_under_masks_by_hand(self):
        model = self.network()
        weights = prunable_weights(model)
        flow = synaptic_flow(trace(model), weights, (2,))
        masks = full_masks(weights)
        masks["0.weight"] = torch.tensor([[True, True], [True, False]])
        found = flow(masks)
        assert found["0.weight"].tolist() == [[5.0, 10.0], [18.0, 0.0]]
        assert found["2.weight"].tolist() == [[15.0, 18.0]]

    def test_sums_add_and_pooling_is_kept_by_hand(self):
        block = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        model = nn.Sequential(
            Residual(block, nn.Identity()), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            linear([[1.0, -2.0], [3.0, 0.0]]),
        )  # fmt: skip
        nn.init.constant_(block[0].weight, -3.0)
        nn.init.constant_(block[1].weight, 10.0)  # makes no difference
        weights = prunable_weights(model)
        found = synaptic_flow(trace(model), weights, (1, 2, 4))(full_masks(weights))
        # Each position becomes 1 + 3, each of two pools too: R = 4 (1 + 2) + 4 (3 + 0) = 24.
        first, last = weights
        assert found[last].tolist() == [[4.0, 8.0], [12.0, 0.0]]
        assert found[first].flatten().tolist() == [18.0]  # 3 (1 + 2 + 3 + 0)

    @pytest.mark.parametrize("config", FAMILIES[:3])
    def test_each_layer_of_a_chain_carries_all_of_the_flow(self, config):
        model = build(config)
        weights = prunable_weights(model)
        masks = {
            name: torch.rand(w.shape, generator=seeded(i)) < 0.7
            for i, (name, w) in enumerate(weights.items())
        }
        found = synaptic_flow(trace(model), weights, (3, 8, 8))(masks)
        totals = torch.stack([scores.sum() for scores in found.values()])
        torch.testing.assert_close(totals, totals[:1].expand_as(totals), rtol=1e-9, atol=0.0)
        assert all(bool((scores[~masks[name]] == 0).all()) for name, scores in found.items())

    def test_does_not_overflow_where_float32_would(self):
        torch.manual_seed(0)
        layers = [nn.Linear(256, 256) for _ in range(50)]
        model = nn.Sequential(*layers, nn.Linear(256, 2))
        weights = prunable_weights(model)
        found = synaptic_flow(trace(model), weights, (256,))(full_masks(weights))
        assert float(found["0.weight"].sum()) > torch.finfo(torch.float32).max
        assert all(bool(scores.isfinite().all()) for scores in found.values())

    def test_is_that_of_the_weights_when_it_was_asked_for(self):
        model = self.network()
        weights = prunable_weights(model)
        flow = synaptic_flow(trace(model), weights, (2,))
        nn.init.zeros_(model[0].weight)
        assert flow(full_masks(weights))["2.weight"].tolist() == [[15.0, 42.0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("weights", SignalCost()),
        ("momenta", SignalCost()),
        ("certified_gradients", SignalCost(3, 3)),
        ("adversarial_gradients", SignalCost(14, 1)),  # 6 points of 2, and a gradient of 2 and 1
        ("cosines", SignalCost(1, 1)),
        ("instability", SignalCost(3, 0)),
        ("hessian_gradients", SignalCost(18, 9)),
    ],
)
def test_what_a_signal_costs(name, expected):
    assert signal_cost(name, loss_passes=3, attack_steps=5) == expected
