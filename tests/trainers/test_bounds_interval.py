"""Interval bounds: hand-worked oracles, soundness by sampling, every layer in every spelling."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainers.bounds import IntervalPass, ball
from trainers.errors import UnsupportedLayer
from trainers.models.layers import Normalize, Residual


class Functional(nn.Module):
    """The spellings that torchvision and its followers use."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.fc = nn.Linear(16, 3)
        self.register_buffer("mean", torch.tensor([0.3, 0.6]))
        self.register_buffer("std", torch.tensor([0.2, -0.4]))

    def forward(self, x):
        x = (x - self.mean[None, :, None, None]) / self.std.view(1, -1, 1, 1)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        identity = x
        out = torch.relu(self.conv2(x))
        out += identity
        out = F.avg_pool2d(1.0 - 2 * out, 3, stride=2, padding=1)
        return self.fc(out.view(out.size(0), -1))


def mlp():
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def norm_mlp():
    return nn.Sequential(
        nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3)
    )


def cnn():
    return nn.Sequential(
        Normalize([0.4, 0.5], [0.3, 0.2], (2, 6, 6)),
        nn.Conv2d(2, 4, 4, 2, 1),
        nn.BatchNorm2d(4, affine=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def pooled():
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 1), padding="same"),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def residual():
    body = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1),
        Residual(body, nn.Conv2d(4, 4, 1)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
        nn.ReLU(),
    )


NETWORKS = {
    "mlp": (mlp, (6,)),
    "norm_mlp": (norm_mlp, (6,)),
    "cnn": (cnn, (2, 6, 6)),
    "pooled": (pooled, (2, 6, 6)),
    "residual": (residual, (2, 6, 6)),
    "functional": (Functional, (2, 4, 4)),
}


def network(name, seed=0):
    """An evaluation-mode network whose running statistics are not the initial ones, in float64."""
    build, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = build().double()
    model(torch.rand(32, *shape, dtype=torch.float64))
    return model.eval(), torch.rand(5, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])


def margins_of(logits_BK, y_B):
    return logits_BK.gather(1, y_B[:, None]) - logits_BK


def test_the_ball_is_clipped_to_the_data_range():
    lower, upper = ball(torch.tensor([0.05, 0.5, 1.0]), 0.1)
    torch.testing.assert_close(lower, torch.tensor([0.0, 0.4, 0.9]))
    torch.testing.assert_close(upper, torch.tensor([0.15, 0.6, 1.0]))


def test_two_layers_worked_by_hand():
    # x in [0, 1] x [1, 2]; h = (x1 - x2, x1 + x2) in [-2, 0] x [1, 3], after relu [0, 0] x [1, 3];
    # logits (2 h1 + h2, h1 - h2) in [1, 3] x [-3, -1]; their margin is h1 + 2 h2 >= 2.
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[2.0, 1.0], [1.0, -1.0]]))
        model[0].bias.zero_(), model[2].bias.zero_()
    lower, upper = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    interval = IntervalPass(model)
    result = interval.margins(torch.tensor([[0.5, 1.5]]), torch.tensor([0]), lower, upper)
    assert result.logits_BK.tolist() == [[2.0, -2.0]]
    assert result.margins_BK.tolist() == [[0.0, 2.0]]
    assert [b.tolist() for b in result.pre_activations[0]] == [[[-2.0, 1.0]], [[0.0, 3.0]]]
    assert [b.tolist() for b in interval.bounds(lower, upper)] == [[[1.0, -3.0]], [[3.0, -1.0]]]
    assert result.num_unstable_B.tolist() == [0]


def test_the_last_layer_is_fused_with_the_specification():
    # Both logits are x, so the margin is exactly 0; a difference of logit bounds would say -1.
    model = nn.Linear(1, 2, bias=False)
    nn.init.ones_(model.weight)
    x = torch.tensor([[0.5]])
    result = IntervalPass(model).margins(x, torch.tensor([1]), x - 0.5, x + 0.5)
    assert result.margins_BK.tolist() == [[0.0, 0.0]]


def test_linear_networks_have_a_closed_form():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y_B = torch.rand(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    result = IntervalPass(model).margins(x, y_B, x - 0.1, x + 0.1)
    weights = model.weight[y_B][:, None, :] - model.weight[None]
    expected = margins_of(model(x), y_B) - 0.1 * weights.abs().sum(2)
    torch.testing.assert_close(result.margins_BK, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_natural_values_are_the_networks(name):
    model, x, y_B = network(name)
    result = IntervalPass(model).margins(x, y_B, *ball(x, 0.1))
    torch.testing.assert_close(result.logits_BK, model(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_box_of_no_size_has_the_natural_margins(name):
    model, x, y_B = network(name)
    result = IntervalPass(model).margins(x, y_B, x, x)
    torch.testing.assert_close(result.margins_BK, margins_of(model(x), y_B))


@pytest.mark.parametrize("name", NETWORKS)
@given(seed=st.integers(0, 10_000), radius=st.floats(0.001, 0.5))
@settings(max_examples=8, deadline=None)
def test_no_sample_of_the_box_is_below_the_bound(name, seed, radius):
    model, x, y_B = network(name, seed)
    lower, upper = ball(x, radius)
    interval = IntervalPass(model)
    margins_BK = interval.margins(x, y_B, lower, upper).margins_BK
    out_lower, out_upper = interval.bounds(lower, upper)
    for share in [0.0, 1.0, *torch.rand(20, *x.shape).round(decimals=1)]:
        logits_BK = model(lower + share * (upper - lower))
        assert (margins_of(logits_BK, y_B) >= margins_BK - 1e-9).all()
        assert ((out_lower - 1e-9 <= logits_BK) & (logits_BK <= out_upper + 1e-9)).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_larger_box_has_smaller_margins(name):
    model, x, y_B = network(name)
    interval = IntervalPass(model)
    small, large = (interval.margins(x, y_B, *ball(x, r)).margins_BK for r in (0.05, 0.1))
    assert (large <= small + 1e-12).all()


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "functional"])
def test_gradients_are_those_of_finite_differences(name):
    model, x, y_B = network(name)
    interval = IntervalPass(model)
    weight = next(model.parameters())
    direction = torch.randn_like(weight)

    def loss():
        result = interval.margins(x, y_B, *ball(x, 0.05))
        widths = sum((upper - lower).sum() for lower, upper in result.pre_activations)
        return result.margins_BK.sum() + result.logits_BK.square().sum() + widths

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-6
    with torch.no_grad():
        weight += step * direction
        above = loss()
        weight -= 2 * step * direction
        below = loss()
    expected = (above - below) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_in_training_uses_the_statistics_of_the_natural_values():
    model, x, y_B = network("residual")
    model.train()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    expected = model(x)
    updates = int(norm.num_batches_tracked)
    running = norm.running_mean.clone()
    result = IntervalPass(model).margins(x, y_B, x, x)
    torch.testing.assert_close(result.logits_BK, expected)
    torch.testing.assert_close(result.margins_BK, margins_of(expected, y_B))
    assert int(norm.num_batches_tracked) == updates + 1
    assert not torch.equal(norm.running_mean, running)


class InPlaceOnItsInput(nn.Module):
    """The residual branch sees relu(h), not h: relu changes h itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.first(x)
        out = self.second(F.relu(h, True))
        out += h
        return self.last(out)


def test_in_place_operations_are_followed():
    torch.manual_seed(1)
    model, x = InPlaceOnItsInput(), torch.randn(8, 4)
    y_B = torch.zeros(8, dtype=torch.int64)
    result = IntervalPass(model).margins(x, y_B, x, x)
    torch.testing.assert_close(result.logits_BK, model(x))


class Block(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(self.inner(x))


def scaled_in_place_view(h):
    flat = h.flatten(1)
    flat *= 2
    return flat + h


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.sigmoid, "sigmoid at"),
        (nn.GELU(), "GELU at 1.function"),
        (nn.MaxPool1d(2), "MaxPool1d at 1.function"),
        (lambda h: h * h, "mul of two activations"),
        (lambda h: 1 / h, "truediv of a constant by an activation"),
        (lambda h: h.view(-1, 2, 2), "view at"),
        (lambda h: h if h.sum() > 0 else -h, "control flow"),
        (lambda h: (h, h), "must return one tensor"),
        (lambda h: torch.add(h, h, alpha=2), "add with options"),
        (scaled_in_place_view, "in-place imul on memory"),
        (lambda h: F.dropout(h, 0.5, True), "dropout at"),
        (lambda h: torch.cat([h, h], 1), "cat at"),
    ],
)
def test_what_has_no_bound_is_refused_by_name_and_place(function, message):
    with pytest.raises(UnsupportedLayer, match=message):
        IntervalPass(nn.Sequential(nn.ReLU(), Block(function)))


def test_a_view_that_mixes_examples_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), Block(lambda h: h.view(-1, 2)))
    x = torch.rand(2, 4)
    with pytest.raises(UnsupportedLayer, match="mixes examples"):
        IntervalPass(model).margins(x, torch.tensor([0, 1]), x, x)


def test_hooks_are_refused():
    model = mlp()
    model[0].register_forward_hook(lambda module, args, out: out + 1)
    with pytest.raises(UnsupportedLayer, match="forward hooks"):
        IntervalPass(model)


class Doubled(nn.Linear):
    def forward(self, x):
        return torch.sigmoid(super().forward(x))


class Renamed(nn.Linear):
    """A subclass that computes the same."""


def test_a_subclass_that_computes_something_else_is_refused():
    with pytest.raises(UnsupportedLayer):
        IntervalPass(nn.Sequential(Doubled(3, 2)))
    x = torch.rand(2, 3)
    model = Renamed(3, 2)
    result = IntervalPass(nn.Sequential(model)).margins(x, torch.tensor([0, 1]), x, x)
    torch.testing.assert_close(result.logits_BK, model(x))


def test_dropout_has_no_bound_while_training():
    model, x, y_B = network("norm_mlp")
    interval = IntervalPass(model.train())
    with pytest.raises(UnsupportedLayer, match="training mode: set p=0"):
        interval.margins(x, y_B, x, x)


def test_moved_constants_are_read_again():
    model, x, y_B = network("functional")
    interval = IntervalPass(model)
    model.mean += 1.0
    torch.testing.assert_close(interval.margins(x, y_B, x, x).logits_BK, model(x))
