"""auto_LiRPA's bounds: against our own interval pass, against each other, against samples."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from spaces.model import Cnn7Config, CnnConfig, ResNetConfig
from trainers.bounds import IntervalPass, ball
from trainers.bounds.lirpa import METHODS, LirpaBounds
from trainers.errors import UnsupportedLayer, VerificationError
from trainers.models import build_model
from trainers.models.layers import Normalize, Residual


class Functional(nn.Module):
    """Normalisation by operators, a grouped convolution, scaling in the middle, view."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.fc = nn.Linear(16, 3)
        self.register_buffer("mean", torch.tensor([0.3, 0.6])[:, None, None])
        self.register_buffer("std", torch.tensor([0.2, -0.4])[:, None, None])

    def forward(self, x):
        out = torch.relu(self.conv1((x - self.mean) / self.std))
        out = 0.5 * torch.relu(self.conv2(out)) + out
        return self.fc(torch.nn.functional.avg_pool2d(out, 2).view(-1, 16))


def mlp():
    return nn.Sequential(
        Normalize([0.5] * 6, [0.3] * 6, (6,)),
        nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


def residual():
    body = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(
        Normalize([0.4, 0.5], [0.3, 0.2], (2, 6, 6)),
        nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        Residual(body, nn.Conv2d(4, 4, 1)), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def pooled():
    # Windows that overlap and that are padded: auto_LiRPA's own average pooling is wrong here.
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(4, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


def all_convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 3, 3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def without_biases():
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))


NETWORKS = {
    "mlp": (mlp, (6,)),
    "residual": (residual, (2, 6, 6)),
    "pooled": (pooled, (2, 6, 6)),
    "functional": (Functional, (2, 4, 4)),
    "all_convolutions": (all_convolutions, (2, 6, 6)),
    "without_biases": (without_biases, (6,)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    """An evaluation-mode network in float64, six examples and its bounds."""
    build, shape = NETWORKS[request.param]
    torch.manual_seed(3)
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # no bound in training mode otherwise
    model(torch.rand(32, *shape, dtype=torch.float64))
    x, y_B = torch.rand(6, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    return model.eval(), x, y_B, LirpaBounds(model, x)


def margins_of(logits_BK, y_B):
    return logits_BK.gather(1, y_B[:, None]) - logits_BK


def test_its_ibp_equals_our_interval_pass(case):
    model, x, y_B, lirpa = case
    for low, high in ((0.0, 1.0), (0.2, 0.7)):
        x_in = x.clamp(low, high)
        ours = IntervalPass(model).margins(x_in, y_B, *ball(x_in, 0.07, low, high)).margins_BK
        theirs = lirpa.margins(x_in, y_B, 0.07, "ibp", low, high)
        torch.testing.assert_close(ours, theirs)


def test_no_sample_of_the_ball_is_below_a_bound(case):
    model, x, y_B, lirpa = case
    for radius in (0.02, 0.1, 0.4):
        lower, upper = ball(x, radius)
        with torch.no_grad():
            bounds = [lirpa.margins(x, y_B, radius, method) for method in METHODS]
        for share in [0.0, 1.0, *torch.rand(40, *x.shape).round(decimals=1)]:
            margins_BK = margins_of(model(lower + share * (upper - lower)), y_B)
            for bound_BK in bounds:
                assert (bound_BK <= margins_BK + 1e-9).all()


def test_crown_is_tighter_on_average(case):
    _, x, y_B, lirpa = case
    ibp, crown_ibp, crown = (lirpa.margins(x, y_B, 0.05, m).mean() for m in METHODS)
    assert ibp < crown_ibp <= crown + 1e-9


def test_at_radius_zero_bounds_are_the_margins(case):
    model, x, y_B, lirpa = case
    for method in METHODS:
        found = lirpa.margins(x, y_B, 0.0, method)
        torch.testing.assert_close(found, margins_of(model(x), y_B))


def test_linear_networks_have_a_closed_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    x, y_B = torch.rand(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    weights = model[0].weight[y_B][:, None, :] - model[0].weight[None]
    lower, upper = ball(x, 0.2)
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    expected = margins_of(model(center), y_B) - (weights.abs() * radius[:, None, :]).sum(2)
    for method in METHODS:
        torch.testing.assert_close(LirpaBounds(model, x).margins(x, y_B, 0.2, method), expected)


def test_weights_changed_in_place_are_seen(case):
    model, x, y_B, lirpa = case
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.mul_(1.1)
    ours = IntervalPass(model).margins(x, y_B, *ball(x, 0.05)).margins_BK
    torch.testing.assert_close(ours, lirpa.margins(x, y_B, 0.05, "ibp"))
    model.load_state_dict(state)


def test_training_mode_agrees_in_values_and_gradients_and_updates_nothing(case):
    model, x, y_B, lirpa = case
    model.train()
    parameters = list(model.parameters())
    ours = IntervalPass(model).margins(x, y_B, *ball(x, 0.05)).margins_BK
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    theirs = lirpa.margins(x, y_B, 0.05, "ibp")
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), parameters),
        torch.autograd.grad(theirs.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    crown = lirpa.margins(x, y_B, 0.05, "crown-ibp").sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(crown, parameters))
    assert all(parameter.requires_grad for parameter in parameters)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    model.eval()


def test_building_bounds_leaves_the_model_alone():
    torch.manual_seed(0)
    model = residual().train()
    model[4].eval()
    modes = [module.training for module in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    LirpaBounds(model, torch.rand(2, 2, 6, 6))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(parameters[k] is v and v.requires_grad for k, v in model.named_parameters())


def test_a_frozen_parameter_stays_frozen():
    model = mlp().eval()
    model[1].weight.requires_grad_(False)
    x = torch.rand(3, 6)
    LirpaBounds(model, x).margins(x, torch.tensor([0, 1, 2]), 0.1, "crown-ibp")
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 6


def test_an_unknown_method_is_refused():
    model, x = mlp().eval(), torch.rand(2, 6)
    with pytest.raises(VerificationError, match="'alpha' is not one of ibp, crown-ibp, crown"):
        LirpaBounds(model, x).margins(x, torch.tensor([0, 1]), 0.1, "alpha")


@pytest.mark.parametrize(
    "layer", [nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(2, 2, 3, padding="same")]
)
def test_options_without_a_crown_bound_are_refused(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))
    model(torch.rand(1, 2, 5, 5))
    with pytest.raises(UnsupportedLayer, match=f"{type(layer).__name__} at 0"):
        LirpaBounds(model, torch.rand(1, 2, 5, 5))


def test_it_is_quiet(capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LirpaBounds(mlp(), torch.rand(2, 6))
    assert capfd.readouterr() == ("", "") and not caught


@pytest.mark.slow
def test_importing_it_changes_nothing_else():
    script = (
        "import logging, sys, warnings, torch, trainers\n"
        "filters = warnings.filters[:]\n"
        "from trainers.bounds.lirpa import load_auto_lirpa\n"
        "assert 'auto_LiRPA' not in sys.modules, 'imported before it is needed'\n"
        "load_auto_lirpa()\n"
        "assert warnings.filters[:] == filters\n"
        "assert not logging.getLogger().handlers\n"
        "assert not hasattr(torch._C.Node, '__getitem__')\n"
        "assert 'numpy.lib.arraysetops' not in sys.modules\n"
    )
    environment = {
        **os.environ,
        "AUTOLIRPA_ENABLE_CUDA_BUILD": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("family", ["cnn", "cnn7", "resnet"])
def test_convolutions_without_bias_in_front_of_batch_normalisation_have_bounds(family, frozen):
    # Release 0.3 fails on them in the patches mode of CROWN, at some weights and radii only.
    config = {
        "cnn": CnnConfig(channels=(4, 6), hidden=(10,), batch_norm=True),
        "cnn7": Cnn7Config(width=2, hidden=8),
        "resnet": ResNetConfig(width=3, blocks=(1, 1)),
    }[family]
    model = build_model(config, (1, 8, 8), 4, [0.5], [0.3]).double()
    assert any(isinstance(m, nn.Conv2d) and m.bias is None for m in model.modules())
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    model(x)
    model.eval().requires_grad_(not frozen)
    y_B, lirpa = torch.tensor([0, 1, 2, 3, 0, 1]), LirpaBounds(model, x)
    for radius in (0.03, 0.1, 0.3):
        lower, upper = ball(x, radius)
        for method in METHODS:
            bound_BK = lirpa.margins(x, y_B, radius, method).detach()
            for share in (0.0, 0.5, 1.0):
                sample = lower + share * (upper - lower)
                assert (bound_BK <= margins_of(model(sample), y_B) + 1e-9).all()
