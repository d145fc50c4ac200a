"""Networks for the generated C: every kind of layer by itself, every family, and random ones."""

import random

import torch
from torch import nn

from spaces.model import Cnn7Config, CnnConfig, MlpConfig, ResNetConfig
from trainers.lowering import simplify
from trainers.models import build_model, prunable_weights
from trainers.models.grafted import GraftedReLU


class Graph(nn.Module):
    """Layers with the values that each reads: a list of one or two numbers; 0 is the input."""

    def __init__(self, *steps):
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, _ in steps)
        self.reads = [reads for _, reads in steps]

    def forward(self, x):
        values = [x]
        for layer, reads in zip(self.layers, self.reads, strict=True):
            values.append(layer(*(values[i] for i in reads)))
        return values[-1].flatten(1)


class Constants(nn.Module):
    """x * scale + shift."""

    def __init__(self, *shape):
        super().__init__()
        self.register_buffer("scale", torch.randn(shape))
        self.register_buffer("shift", torch.randn(shape))

    def forward(self, x):
        return x * self.scale + self.shift


class Sum(nn.Module):
    def forward(self, a, b):
        return a + b


class Mean(nn.Module):
    def __init__(self, keepdim=False):
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x):
        return x.mean((2, 3), keepdim=self.keepdim)


def grafted(*shape):
    relu = GraftedReLU(shape)
    with torch.no_grad():
        relu.grafted.copy_(torch.rand(relu.grafted.shape) < 0.4)
        relu.slope.uniform_(-1.0, 1.0), relu.bias.uniform_(-0.3, 0.3)
    return relu


def pruned(model, density):
    """Each weight stays with this probability: rows may be empty, or whole layers."""
    for weight in prunable_weights(model).values():
        weight.data *= torch.rand_like(weight) < density
    return model


def _chain(*layers):
    return lambda: nn.Sequential(*layers, nn.Flatten())


CONVOLUTIONS = {
    "plain": ((1, 5, 6), (1, 2, 3)),
    "padding": ((2, 5, 5), (2, 3, 3, 1, 1)),
    "strides": ((1, 9, 8), (1, 4, (4, 3), (2, 3), (1, 2))),
    "last_rows_unread": ((1, 8, 8), (1, 3, 3, 2)),
    "dilation": ((1, 9, 9), (1, 3, 3, 1, 2, (2, 3))),
    "strides_and_dilation": ((2, 11, 12), (2, 2, 3, 2, (3, 2), (3, 1))),
    "groups": ((6, 5, 5), (6, 9, 3, 2, 1, 1, 3)),
    "depthwise": ((5, 6, 6), (5, 5, 3, 1, 1, 1, 5)),
    "same": ((2, 6, 7), (2, 3, (3, 4), 1, "same")),
    "whole_image": ((3, 4, 4), (3, 7, 4)),
    "wide": ((1, 3, 70), (1, 2, 3, 1, 1)),
    "no_bias": ((1, 5, 5), (1, 3, 3, 1, 1, 1, 1, False)),
}
POOLINGS = {
    "pool": ((2, 6, 6), nn.AvgPool2d(2)),
    "pool_overlaps": ((2, 7, 5), nn.AvgPool2d((3, 2), (2, 1))),
    "pool_with_padding": ((1, 6, 7), nn.AvgPool2d(3, 2, 1)),
    "pool_without_padding": ((1, 6, 7), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "pool_ceil": ((1, 7, 8), nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    "pool_ceil_inside": ((1, 8, 8), nn.AvgPool2d(3, 2, 0, True, False)),
    "pool_divisor": ((2, 6, 6), nn.AvgPool2d(3, 2, 1, divisor_override=5)),
    "mean": ((3, 4, 5), Mean()),
    "mean_kept": ((3, 4, 5), Mean(keepdim=True)),
}
GRAPHS = {
    "only_constants": ((2, 3, 3), _chain(Constants(2, 1, 1))),
    "normalised_then_padded": (
        (2, 6, 6),
        _chain(Constants(2, 1, 1), Constants(1), nn.Conv2d(2, 3, 3, 2, 1)),
    ),
    "constants_per_element": (
        (2, 4, 4),
        _chain(nn.Conv2d(2, 3, 3, 1, 1), Constants(3, 4, 4), nn.ReLU(), nn.Conv2d(3, 2, 3)),
    ),
    "constants_of_features": (
        (5,),
        _chain(nn.Linear(5, 8), Constants(8), nn.ReLU(), nn.Linear(8, 3)),
    ),
    "grafted_units": (
        (1, 6, 6),
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, 2, 1), grafted(3, 3, 3), nn.Conv2d(3, 4, 3, 1, 1), nn.Flatten(),
            grafted(36), nn.Linear(36, 3),
        ),
    ),
    "residual_in_place": (
        (1, 8, 8),
        lambda: Graph(
            (nn.Conv2d(1, 4, 3, 1, 1), [0]), (nn.ReLU(), [1]), (nn.Conv2d(4, 4, 3, 1, 1), [2]),
            (nn.ReLU(), [3]), (nn.Conv2d(4, 4, 3, 1, 1), [4]), (Sum(), [5, 2]), (nn.ReLU(), [6]),
            (nn.Conv2d(4, 2, 3, 1, 1), [7]),
        ),
    ),
    "residual_of_linears": (
        (6,),
        lambda: Graph(
            (nn.Linear(6, 6), [0]), (Sum(), [1, 0]), (nn.ReLU(), [2]), (nn.Linear(6, 6), [3]),
            (Sum(), [4, 3]), (nn.ReLU(), [5]), (nn.Linear(6, 2), [6]),
        ),
    ),
    "two_strides_read_one_value": (
        (2, 7, 7),
        lambda: Graph(
            (nn.Conv2d(2, 3, 3, 1, 1), [0]), (nn.ReLU(), [1]), (nn.Conv2d(3, 4, 3, 2, 1), [2]),
            (nn.Conv2d(3, 4, 1, 2), [2]), (Sum(), [3, 4]), (nn.Conv2d(3, 3, 3, 1, 1), [2]),
            (Mean(), [6]), (Mean(), [5]), (nn.Linear(3, 4), [7]), (Sum(), [8, 9]),
        ),
    ),
    "flattened_and_convolved": (
        (2, 4, 4),
        lambda: Graph(
            (nn.Conv2d(2, 2, 3, 1, 1), [0]), (nn.Flatten(), [1]), (nn.Linear(32, 5), [2]),
            (nn.Conv2d(2, 5, 3, 2, 1), [1]), (Mean(), [4]), (Sum(), [3, 5]),
        ),
    ),
    "a_sum_with_itself": ((4,), lambda: Graph((Sum(), [0, 0]), (nn.ReLU(), [1]))),
}  # fmt: skip
FAMILIES = {
    "mlp": (MlpConfig(widths=(16, 9), batch_norm=True), (1, 6, 6)),
    "mlp_of_features": (MlpConfig(widths=(12,)), (7,)),
    "cnn": (CnnConfig(channels=(4, 6), hidden=(10,)), (1, 12, 12)),
    "cnn_with_norm": (CnnConfig(channels=(4, 6), hidden=(10,), batch_norm=True), (3, 10, 10)),
    "cnn7": (Cnn7Config(width=3, hidden=12), (1, 12, 12)),
    "resnet": (ResNetConfig(width=4, blocks=(2, 1)), (1, 10, 10)),
    "resnet_without_norm": (ResNetConfig(width=3, batch_norm=False), (3, 9, 9)),
}


def family(name, density):
    """A pruned network of a family, compacted, its batch normalisation folded."""
    torch.manual_seed(0)
    config, shape = FAMILIES[name]
    mean, std = [0.3] * shape[0], [0.4] * shape[0]
    model = pruned(build_model(config, shape, 5, mean, std, seed=0), density)
    with torch.no_grad():
        model.train()(torch.rand(32, *shape))
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 2.0), norm.bias.uniform_(-0.3, 0.3)
    return model.eval(), shape, simplify(model, shape)


def random_network(seed):
    """Layers one after another, with sums where shapes allow, and an input shape."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    shape = draw.choice([(1, 9, 9), (2, 7, 11), (3, 6, 5), (9,)])
    values, steps = [torch.zeros(1, *shape)], []
    for _ in range(draw.randint(2, 7)):
        reads = [len(values) - 1]
        alike = [i for i, v in enumerate(values[:-1]) if v.shape == values[-1].shape]
        layer = _random_layer(draw, values[-1])
        if alike and draw.random() < 0.5:
            layer, reads = Sum(), [draw.choice(alike), *reads]
        values.append(layer(*(values[i] for i in reads)).detach())
        steps.append((layer, reads))
    return pruned(Graph(*steps), draw.choice([0.0, 0.1, 0.4, 1.0])), shape


def _random_layer(draw, x):
    if draw.random() < 0.3:
        units = draw.choice([x.shape[1:], (x.shape[1], *[1] * (x.ndim - 2))])
        return draw.choice([nn.ReLU(), Constants(*units), grafted(*units)])
    if x.ndim == 2:
        return nn.Linear(x.shape[1], draw.choice([1, 4, x.shape[1]]))
    if draw.random() < 0.15:
        return draw.choice([nn.Flatten(), Mean(), nn.AvgPool2d(2, 2, 1), nn.AvgPool2d(1, 2)])
    groups = draw.choice([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
    size, stride = draw.randint(1, 3), draw.choice([1, 1, 2, (2, 3)])
    padding, outputs = draw.randint(size // 2, 2), groups * draw.randint(1, 3)
    return nn.Conv2d(x.shape[1], outputs, size, stride, padding, groups=groups)
