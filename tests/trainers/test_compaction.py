"""Units that a network can do without, worked out by hand, then on every family."""

import copy

import pytest
import torch
from torch import nn

from spaces.model import Cnn7Config, CnnConfig, MlpConfig, ResNetConfig
from trainers.bounds import IntervalPass, ball
from trainers.compaction import compact, effective_counts, live_units
from trainers.cost import nonzero_counts
from trainers.errors import ModelError
from trainers.evaluate import model_cost
from trainers.models import Residual, build_model, prunable_weights
from trainers.wiring import Wiring


def linear(rows, bias=None):
    weight = torch.tensor(rows, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float32))
    return layer


def conv(inputs, outputs, kernel=3, **options):
    """A convolution of ones."""
    layer = nn.Conv2d(inputs, outputs, kernel, **options)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def live(model) -> dict[str, list[int]]:
    """The numbers of the units that stay, by group."""
    units = live_units(model, Wiring.of(model))
    return {name: mask.nonzero().flatten().tolist() for name, mask in units.items()}


def check(model, input_shape) -> nn.Module:
    """The compacted model, which must agree with the original and with the counts."""
    before = copy.deepcopy(model.state_dict())
    smaller = compact(model, input_shape)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(8, *input_shape, generator=draw, dtype=torch.float64) * 4 - 2
    with torch.no_grad():
        expected, found = (copy.deepcopy(m).double().eval()(x) for m in (model, smaller))
    scale = max(1.0, float(expected.abs().max()))
    assert torch.allclose(found, expected, rtol=0.0, atol=1e-5 * scale)
    assert effective_counts(model) == nonzero_counts(smaller)
    assert all(parameter.numel() > 0 for parameter in smaller.parameters())
    sizes = {group.name: group.size for group in Wiring.of(smaller).groups}
    assert sizes == {name: len(units) for name, units in live(model).items()}
    for layer in smaller.modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert len(layer.running_var) == layer.num_features
    return smaller


class TestByHand:
    def test_a_unit_that_nobody_reads_takes_what_only_it_read(self):
        model = nn.Sequential(
            linear([[1, 2], [3, 4], [5, 6]], [1, 1, 1]),
            nn.ReLU(),
            linear([[1, 1, 0], [0, 1, 1]], [0, 0]),  # only unit 1 reads unit 2
            nn.ReLU(),
            linear([[1, 0], [2, 0]], [7, 8]),  # nobody reads unit 1
        )
        assert live(model) == {"0.weight": [0, 1], "2.weight": [0]}
        smaller = check(model, (2,))
        assert smaller[0].weight.tolist() == [[1, 2], [3, 4]]
        assert smaller[2].weight.tolist() == [[1, 1]]
        assert smaller[4].weight.tolist() == [[1], [2]]
        assert smaller[4].bias.tolist() == [7, 8]
        assert effective_counts(model) == {"0.weight": 4, "2.weight": 2, "4.weight": 2}

    def test_constants_become_biases_all_the_way(self):
        model = nn.Sequential(
            linear([[0, 0], [0, 0], [1, 1]], [2, -3, 0]),  # 2, relu(-3) = 0, varying
            nn.ReLU(),
            linear([[1, 5, 0], [0, 5, 1]], [0.5, 0]),  # 2.5, varying
            nn.ReLU(),
            linear([[10, 1], [0, 1]]),
        )
        assert live(model) == {"0.weight": [2], "2.weight": [1]}
        smaller = check(model, (2,))
        assert smaller[4].weight.tolist() == [[1], [1]]
        assert smaller[4].bias.tolist() == [25, 0]
        assert smaller[2].bias.tolist() == [0]
        assert effective_counts(model) == {"0.weight": 2, "2.weight": 1, "4.weight": 2}

    def test_a_constant_channel_counts_once_per_pixel_after_a_flatten(self):
        model = nn.Sequential(
            conv(1, 2), nn.ReLU(), nn.Flatten(), linear([[1, 2, 3, 4, 5, 6, 7, 8]])
        )
        with torch.no_grad():
            model[0].weight[1] = 0.0
            model[0].bias[1] = 0.5
        smaller = check(model, (1, 4, 4))
        assert smaller[3].weight.tolist() == [[1, 2, 3, 4]]
        assert smaller[3].bias.tolist() == [0.5 * (5 + 6 + 7 + 8)]

    def test_padding_keeps_a_constant_that_is_not_zero(self):
        model = nn.Sequential(conv(1, 3), nn.ReLU(), conv(3, 1, padding=1), nn.Flatten())
        with torch.no_grad():
            model[0].weight[1:] = 0.0
            model[0].bias[1:] = torch.tensor([1.0, -1.0])
        assert live(model) == {"0.weight": [0, 1]}  # 2 is the constant 0, which may go
        check(model, (1, 5, 5))
        unpadded = nn.Sequential(*model[:2], conv(3, 1, bias=False), nn.Flatten())
        assert live(unpadded) == {"0.weight": [0]}
        assert check(unpadded, (1, 5, 5))[2].bias.tolist() == [9]

    def test_a_constant_that_one_reader_cannot_take_stays_for_all(self):
        model = nn.Sequential(
            conv(1, 2), nn.ReLU(), Residual(conv(2, 1, padding=1), conv(2, 1, 1)), nn.Flatten()
        )
        with torch.no_grad():
            model[0].weight[1], model[0].bias[1] = 0.0, 1.0
        assert live(model) == {"0.weight": [0, 1]}
        check(model, (1, 5, 5))

    def test_pooling_over_padding_keeps_a_constant_that_is_not_zero(self):
        def pooled(**options):
            model = nn.Sequential(
                conv(1, 2), nn.AvgPool2d(2, padding=1, **options), conv(2, 1), nn.Flatten()
            )
            with torch.no_grad():
                model[0].weight[1], model[0].bias[1] = 0.0, 1.0
            check(model, (1, 6, 6))
            return live(model)["0.weight"]

        assert pooled() == [0, 1]
        assert pooled(divisor_override=3, count_include_pad=False) == [0, 1]
        assert pooled(count_include_pad=False) == [0]

    def test_batch_normalisation_makes_a_constant_of_a_zero_row_or_a_zero_scale(self):
        norm = nn.BatchNorm1d(4)
        model = nn.Sequential(
            linear([[0, 0], [1, 1], [0, 0], [1, 2]]), norm, nn.ReLU(), linear([[1, 1, 1, 1]], [0])
        )
        with torch.no_grad():
            norm.running_mean.copy_(torch.tensor([-2.0, 0.5, 2.0, 0.0]))
            norm.running_var.fill_(4.0 - norm.eps)
            norm.weight.copy_(torch.tensor([3.0, 0.0, 1.0, 1.0]))
            norm.bias.copy_(torch.tensor([1.0, 0.25, 0.5, 0.0]))
        # 0: 3 * 2 / 2 + 1 = 4; 1: 0.25, whatever comes in; 2: relu(-1 + 0.5) = 0.
        assert live(model) == {"0.weight": [3]}
        smaller = check(model, (2,))
        assert smaller[3].bias.tolist() == pytest.approx([4.25])
        assert smaller[1].running_mean.tolist() == [0.0]
        assert smaller[1].weight.tolist() == [1.0]

    def test_affine_maps_of_constants(self):
        class Scaled(nn.Sequential):
            def forward(self, x):
                return self[1]((1 - 2 * self[0](x)).relu())

        model = Scaled(linear([[0], [0], [1]], [-1, 3, 0]), linear([[1, 1, 1]], [0]))
        assert live(model) == {"0.weight": [2]}
        assert check(model, (1,))[1].bias.tolist() == [3]  # 1 + 2 and relu(1 - 6)

    def test_a_layer_that_nothing_flows_through_keeps_a_unit_of_zeros(self):
        model = nn.Sequential(
            linear([[1, 2], [3, 4]], [1, 1]), nn.ReLU(), linear([[0, 0]], [5]), nn.ReLU(),
            linear([[2], [3]], [1, 1]),
        )  # fmt: skip
        assert live(model) == {"0.weight": [0], "2.weight": [0]}
        smaller = check(model, (2,))
        assert smaller[4].bias.tolist() == [11, 16]
        assert sum(effective_counts(model).values()) == 0
        assert model_cost(model, (2,))["inference_flops"] == 0


class TestResidual:
    def block(self, shortcut):
        return nn.Sequential(
            linear([[1], [2]], [0, 0]), Residual(linear([[1, 1], [1, 1]], [1, 0]), shortcut),
            nn.ReLU(), linear([[1, 1]], [0]),
        )  # fmt: skip

    def test_a_projected_unit_goes_when_it_is_dead_in_both_branches(self):
        model = self.block(linear([[1, 1], [1, 1]], [3, 0]))
        tied = "1.body.weight"
        with torch.no_grad():
            model[1].body.weight[0] = 0.0
        assert live(model)[tied] == [0, 1]
        with torch.no_grad():
            model[1].shortcut.weight[0] = 0.0
        assert live(model)[tied] == [1]
        assert check(model, (1,))[3].bias.tolist() == [4]

    def test_an_identity_keeps_its_input_units(self):
        model = self.block(nn.Identity())
        assert live(model) == {"0.weight": [0, 1]}
        with torch.no_grad():
            model[1].body.weight[0] = 0.0
        check(model, (1,))
        assert live(model) == {"0.weight": [0, 1]}  # unit 0 still goes past the body
        with torch.no_grad():
            model[0].weight[0] = 0.0
        assert live(model) == {"0.weight": [1]}
        check(model, (1,))

    def test_units_that_only_read_each_other_go_together(self):
        """Unit 1 feeds the body's unit 1 and that feeds unit 1, which the logits do not read."""
        model = nn.Sequential(
            linear([[1], [2]], [0, 0]),
            Residual(
                nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 0], [0, 1]])),
                nn.Identity(),
            ),
            linear([[1, 0]]),
        )
        assert live(model) == {"0.weight": [0], "1.body.0.weight": [0]}
        check(model, (1,))


class TestSharedWeights:
    def test_a_layer_with_two_different_constants_has_one_bias_only(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = linear([[0], [1]], [1, 0]), linear([[0], [1]], [2, 0])
                self.c, self.out = linear([[1, 1]], [0]), linear([[1]], [0])

            def forward(self, x):
                return self.out((self.c(self.a(x)) + self.c(self.b(x))).relu())

        model = Twice()
        assert live(model) == {"a.weight": [0, 1], "c.weight": [0]}
        check(model, (1,))
        with torch.no_grad():
            model.a.bias[0] = model.b.bias[0] = 0.0
        assert live(model) == {"a.weight": [1], "c.weight": [0]}
        smaller = check(model, (1,))
        model.b.weight = model.a.weight
        assert check(model, (1,)).b.weight.shape == smaller.b.weight.shape == (1, 1)

    def test_one_weight_for_two_layers_stays_one(self):
        model = nn.Sequential(
            linear([[1], [1], [1]], [0, 0, 0]), nn.ReLU(),
            linear([[1, 1, 0], [1, 1, 0], [0, 0, 1]], [0, 0, 0]), nn.ReLU(),
            linear([[1, 1, 0], [1, 1, 0], [0, 0, 1]], [0, 0, 0]), nn.ReLU(), linear([[1, 1, 0]]),
        )  # fmt: skip
        model[4].weight = model[2].weight
        smaller = check(model, (1,))
        assert smaller[4].weight is smaller[2].weight
        assert smaller[4].weight.shape == (2, 2)
        assert smaller[4].in_features == smaller[2].in_features == 2


def test_modes_and_names_stay():
    model = build_model(CnnConfig(batch_norm=True), (1, 8, 8), 5, [0.5], [1.0]).train()
    model.conv1_norm.eval()
    smaller = compact(model, (1, 8, 8))
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]
    assert smaller.state_dict().keys() == model.state_dict().keys()


def test_nothing_to_remove():
    model = build_model(ResNetConfig(width=4), (1, 8, 8), 5, [0.5], [1.0])
    smaller = check(model, (1, 8, 8))
    for name, value in model.state_dict().items():
        assert torch.equal(value, smaller.state_dict()[name])


class HardCoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(1, 2), nn.Linear(18, 2)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 18))


def test_a_network_whose_forward_depends_on_sizes_is_refused():
    model = HardCoded()
    compact(model, (1, 5, 5))
    with torch.no_grad():
        model.a.weight[0] = 0.0
    with pytest.raises(ModelError, match=r"RuntimeError: .*x.flatten\(1\) instead of x.view"):
        compact(model, (1, 5, 5))


class Grouped(nn.Sequential):
    """Only the last hidden layer may shrink."""

    def __init__(self):
        super().__init__(
            conv(1, 4), conv(4, 4, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
            nn.Linear(3, 2),
        )  # fmt: skip


def test_what_the_wiring_leaves_out_stays():
    model = Grouped()
    with torch.no_grad():
        model[0].weight[0] = 0.0
        model[4].weight[0] = 0.0
    assert live(model) == {"4.weight": [1, 2]}
    smaller = check(model, (1, 5, 5))
    assert smaller[1].weight.shape == model[1].weight.shape


def test_untraceable_networks_count_their_non_zero_weights():
    model = nn.Sequential(linear([[1, 1], [0, 0]]), nn.Sigmoid(), linear([[1, 0]]))
    assert model_cost(model, (2,))["inference_flops"] == 2 * 3
    model[1] = nn.ReLU()
    assert model_cost(model, (2,))["inference_flops"] == 2 * 3
    model[2] = linear([[0, 1]])
    assert model_cost(model, (2,))["inference_flops"] == 0
    assert model_cost(model, (2,), Wiring.of(model)) == model_cost(model, (2,))
    assert model_cost(model, (2,))["num_active_parameters"] == 3


FAMILIES = {
    "mlp": MlpConfig(widths=(12, 9, 7)),
    "mlp, normalised": MlpConfig(widths=(12, 9), batch_norm=True),
    "cnn": CnnConfig(channels=(5, 6), hidden=(8,)),
    "cnn, normalised": CnnConfig(channels=(5, 6), hidden=(), batch_norm=True),
    "cnn7": Cnn7Config(width=3, hidden=8),
    "cnn7, plain": Cnn7Config(width=3, hidden=8, batch_norm=False),
    "resnet": ResNetConfig(width=3, blocks=(1, 2)),
    "resnet, plain": ResNetConfig(width=3, blocks=(2, 1), batch_norm=False),
}


def pruned(config, density, seed) -> nn.Module:
    """Random masks, whole rows and columns of zeros, and lively biases and statistics."""
    draw = torch.Generator().manual_seed(seed)
    model = build_model(config, (1, 8, 8), 4, [0.3], [0.5], seed).eval()

    def chosen(shape, share):
        return torch.rand(shape, generator=draw) < share

    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight.mul_(chosen(weight.shape, density))
            weight[chosen(len(weight), 0.2)] = 0.0
            weight[:, chosen(weight.shape[1], 0.2)] = 0.0
        for name, value in model.state_dict().items():
            if name.endswith(("bias", "running_mean", "norm.weight")):
                value.copy_(torch.randn(value.shape, generator=draw))
                value[chosen(value.shape, 0.3)] = 0.0
            elif name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=draw) + 0.1)
    return model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", [1.0, 0.5, 0.15, 0.03])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_every_density(family, density, seed):
    model = pruned(FAMILIES[family], density, seed)
    smaller = check(model, (1, 8, 8))
    assert effective_counts(smaller) == nonzero_counts(smaller)  # nothing is left to remove
    assert all(n <= nonzero_counts(model)[name] for name, n in effective_counts(model).items())
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    margins = [IntervalPass(m).margins(x, y, *ball(x, 0.01)).margins_BK for m in (model, smaller)]
    assert torch.allclose(*margins, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_effective_weights_of_an_mlp_lie_on_a_path_from_the_input_to_the_logits(seed):
    """An oracle of another kind: reachability by products of matrices."""
    model = pruned(MlpConfig(widths=(20, 20, 20)), 0.06, seed)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.bias.zero_()
    links = [(weight != 0).double() for weight in prunable_weights(model).values()]
    reached, reaching = [torch.ones(links[0].shape[1]).double()], [torch.ones(4).double()]
    for link in links:
        reached.append((link @ reached[-1] > 0).double())
    for link in reversed(links):
        reaching.insert(0, (reaching[0] @ link > 0).double())
    expected = [
        int((after[:, None] * link * before[None]).sum())
        for link, before, after in zip(links, reached[:-1], reaching[1:], strict=True)
    ]
    assert list(effective_counts(model).values()) == expected
    assert sum(expected) < sum(nonzero_counts(model).values())
