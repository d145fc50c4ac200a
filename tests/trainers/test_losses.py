"""Losses: exact values on a hand-worked net, the terms' gradients, and that they train."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spaces.training import (
    ComputeConfig,
    CrownIbpLossConfig,
    IbpLossConfig,
    MtlIbpLossConfig,
    NaturalLossConfig,
    PgdLossConfig,
    SabrLossConfig,
    StapsLossConfig,
    TapsLossConfig,
)
from trainers.bounds import IntervalPass, IntervalResult, ball
from trainers.bounds.backward import BackwardBounds
from trainers.bounds.interval import Activation
from trainers.bounds.lirpa import LirpaBounds
from trainers.errors import UnsupportedLayer
from trainers.losses import build_loss
from trainers.losses.regularizer import warmup_penalty

CONFIGS = [
    NaturalLossConfig(),
    PgdLossConfig(),
    IbpLossConfig(),
    CrownIbpLossConfig(),
    SabrLossConfig(),
    MtlIbpLossConfig(),
    TapsLossConfig(),
    StapsLossConfig(),
]
EXACT_WHERE_LINEAR = [c for c in CONFIGS if c.name not in ("natural", "taps", "staps")]


@pytest.fixture(params=CONFIGS, ids=lambda config: config.name)
def config(request):
    return request.param


def line():
    """Logits (-x, x): the margin of class 1 is 2x, and falls by 2 epsilon in the ball."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0], [1.0]]))
    return model


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def batch(n=64):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 4, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 1).long() + (x[:, 2] > 0.7).long()


@pytest.mark.parametrize("config", EXACT_WHERE_LINEAR, ids=lambda config: config.name)
def test_worst_case_cross_entropy_by_hand(config):
    config = config.model_copy(update={"kappa": 0.25, "kappa_start": 0.5, "beta_end": 0.5})
    loss = build_loss(config, line(), torch.rand(2, 1))
    x, y_B = torch.tensor([[0.5], [0.2], [0.3]]), torch.tensor([1, 1, 0])
    with torch.no_grad():
        terms, halfway = loss(x, y_B, 0.25, 1.0), loss(x, y_B, 0.25, 0.5)
    # Natural margins 1, 0.4, -0.6; in the ball (clipped at 0 for x = 0.2): 0.5, -0.1, -1.1.
    natural = sum(math.log1p(math.exp(-m)) for m in (1.0, 0.4, -0.6)) / 3
    certified = sum(math.log1p(math.exp(-m)) for m in (0.5, 0.0, -1.1)) / 3
    assert float(terms.natural) == pytest.approx(natural, rel=1e-6)
    assert float(terms.certified) == pytest.approx(certified, rel=1e-6)
    assert float(terms.total) == pytest.approx(0.25 * natural + 0.75 * certified, rel=1e-6)
    # A tie is no proof; the attack's first class at a tie is the other one here.
    assert (int(terms.num_correct), int(terms.num_certified)) == (2, 1)
    kappa = (0.5 + 0.25) / 2
    assert float(halfway.total) == pytest.approx(
        kappa * natural + (1 - kappa) * certified, rel=1e-6
    )


def test_at_radius_zero_the_certified_loss_is_the_natural_one(config):
    model = network()
    x, y_B = batch()
    terms = build_loss(config, model, x)(x, y_B, 0.0, 0.0)
    expected = F.cross_entropy(model(x), y_B)
    for term in (terms.natural, terms.certified):
        torch.testing.assert_close(term, expected)
    assert int(terms.num_certified) == int(terms.num_correct)


def test_two_steps_with_the_same_network_are_the_same(config):
    x, y_B = batch()
    first, second = (build_loss(config, network(), x)(x, y_B, 0.1, 0.5) for _ in range(2))
    assert torch.equal(first.total, second.total)
    assert torch.equal(first.certified, second.certified)


def test_the_network_stays_in_its_mode(config):
    x, y_B = batch()
    model = network()
    model[3].eval()
    loss = build_loss(config, model, x)
    loss(x, y_B, 0.1, 0.5)
    assert [m.training for m in model] == [True, True, True, False, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_the_natural_loss_ignores_the_radius():
    x, y_B = batch()
    loss = build_loss(NaturalLossConfig(), network().eval(), x)
    assert torch.equal(loss(x, y_B, 0.3, 1.0).total, loss(x, y_B, 0.0, 0.0).total)


def test_each_term_can_be_differentiated_by_itself(config):
    model = network()
    x, y_B = batch()
    config = config.model_copy(update={"warmup_regularizer": 0.0, "kappa": 0.3})
    terms = build_loss(config, model, x)(x, y_B, 0.05, 1.0)
    parameters = list(model.parameters())
    total, natural, certified = (
        torch.autograd.grad(term, parameters, retain_graph=True)
        for term in (terms.total, terms.natural, terms.certified)
    )
    kappa = 0.3 if config.name != "natural" else 0.5
    for all_of_it, one, other in zip(total, natural, certified, strict=True):
        torch.testing.assert_close(all_of_it, kappa * one + (1 - kappa) * other)


def test_a_step_updates_running_statistics_once(config):
    model = network()
    x, y_B = batch()
    build_loss(config, model, x)(x, y_B, 0.05, 0.5)
    assert int(model[1].num_batches_tracked) == 1
    torch.testing.assert_close(model[1].running_mean, 0.1 * model[0](x).mean(0))


def test_crown_ibp_mixes_its_bounds_with_intervals():
    model = network().eval()
    x, y_B = batch()
    config = CrownIbpLossConfig(beta_end=0.4, kappa=0.0, warmup_regularizer=0.0, fusion=False)
    terms = build_loss(config, model, x)(x, y_B, 0.1, 1.0)
    ibp_BK = IntervalPass(model).margins(x, y_B, *ball(x, 0.1)).margins_BK
    crown_BK = LirpaBounds(model, x).margins(x, y_B, 0.1, "crown-ibp")
    torch.testing.assert_close(
        terms.certified, F.cross_entropy(-0.4 * crown_BK - 0.6 * ibp_BK, y_B)
    )


def test_without_crown_bounds_only_intervals_are_propagated(monkeypatch):
    x, y_B = batch()
    for fusion in (True, False):
        config = CrownIbpLossConfig(beta_end=0.0, fusion=fusion)
        loss = build_loss(config, network(), x)
        monkeypatch.setattr(BackwardBounds, "lower", None)
        assert loss(x, y_B, 0.1, 1.0).certified.isfinite()


def test_loss_fusion_bounds_each_exponential_by_its_chord():
    # Logits (0, x) and label 0: the loss is log(1 + exp(x)) for x in [0.2, 0.6]. ReLU(x) = x there.
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        for layer, weight in ((model[0], [[1.0]]), (model[2], [[0.0], [1.0]])):
            layer.weight.copy_(torch.tensor(weight)), layer.bias.zero_()
    config = CrownIbpLossConfig(beta_end=1.0, warmup_regularizer=0.0)
    x, y_B = torch.tensor([[0.4]]), torch.tensor([0])
    terms = build_loss(config, model, x)(x, y_B, 0.2, 1.0)
    assert terms.certified.item() == pytest.approx(math.log1p(math.exp(0.6)), rel=1e-6)


@given(seed=st.integers(0, 10_000), epsilon=st.floats(1e-4, 2.0), mode=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_fused_loss_is_never_below_the_loss_of_an_input_in_the_box(seed, epsilon, mode):
    model = network(seed).train(mode)
    x, y_B = batch(16)
    loss = build_loss(CrownIbpLossConfig(beta_end=1.0, warmup_regularizer=0.0), model, x)
    with torch.no_grad():
        bound = float(loss(x, y_B, epsilon, 1.0).certified)
        lower, upper = ball(x, epsilon)
        model.eval()
        if mode:  # bounds hold for the statistics of the batch
            hidden = model[0](x)
            model[1].running_mean.copy_(hidden.mean(0))
            model[1].running_var.copy_(hidden.var(0, unbiased=False))
        worst_B = torch.full((16,), -math.inf)
        for _ in range(200):
            point = lower + (upper - lower) * torch.rand(x.shape).round(decimals=1)
            worst_B = torch.maximum(worst_B, F.cross_entropy(model(point), y_B, reduction="none"))
    assert bound >= float(worst_B.mean()) - 1e-5


def test_the_fused_loss_survives_bounds_that_overflow_exponentials():
    model = network()
    x, y_B = batch()
    with torch.no_grad():
        model[5].weight.mul_(1e4)
    loss = build_loss(CrownIbpLossConfig(beta_end=0.5), model, x)
    terms = loss(x, y_B, 1.0, 0.5)
    terms.total.backward()
    assert terms.certified.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def penalty(inputs, lower, upper):
    """The warm-up penalty of one example, of an input box and of bounds in front of one ReLU."""
    lower, upper = torch.tensor([lower]), torch.tensor([upper])
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    box = torch.tensor([inputs[0]]), torch.tensor([inputs[1]])
    logits = torch.zeros(1, 2)
    result = IntervalResult(logits, logits, logits, box, [Activation(center, center, radius)])
    return float(warmup_penalty(result))


def test_the_penalty_by_hand():
    # Widths 1 at the input and 4 in front of the ReLU: (0.5 - 0.25) / 0.5 = 0.5. Midpoints 3
    # (surely active) and -3 (surely inactive): balanced, in the mean and in the squares around it.
    assert penalty(([0.0], [1.0]), [1.0, -5.0], [5.0, -1.0]) == pytest.approx(0.5)
    # Widths 1 and 1; midpoints 1.5, 1.5 and -0.75: ratio of sums 0.25 -> (0.5 - 0.25) / 0.5 = 0.5;
    # around their mean 0.75 squares are 0.5625 + 0.5625 and 2.25: ratio 0.5 -> 0.
    lower, upper = [1.0, 1.0, -1.25], [2.0, 2.0, -0.25]
    assert penalty(([0.0], [1.0]), lower, upper) == pytest.approx(0.5)


def test_a_network_without_relu_has_no_penalty():
    x, y_B = batch()
    model = nn.Sequential(nn.Linear(4, 3))
    assert float(warmup_penalty(IntervalPass(model).margins(x, y_B, x, x))) == 0.0


def test_the_regulariser_acts_only_during_the_ramp():
    x, y_B = batch()
    model = network().eval()
    with torch.no_grad():
        model[3].weight.mul_(20)  # so that bounds grow
    plain = build_loss(IbpLossConfig(warmup_regularizer=0.0), model, x)
    loss = build_loss(IbpLossConfig(warmup_regularizer=2.0), model, x)
    added = loss(x, y_B, 0.1, 0.75).total - plain(x, y_B, 0.1, 0.75).total
    expected = warmup_penalty(IntervalPass(model).margins(x, y_B, *ball(x, 0.1)))
    torch.testing.assert_close(added, 0.5 * expected)
    assert expected > 0
    assert torch.equal(loss(x, y_B, 0.1, 1.0).total, plain(x, y_B, 0.1, 1.0).total)


def test_a_few_steps_reduce_the_certified_loss(config):
    model = network()
    x, y_B = batch(128)
    loss = build_loss(config, model, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = float(loss(x, y_B, 0.02, 1.0).certified.detach())
    for _ in range(40):
        optimizer.zero_grad()
        terms = loss(x, y_B, 0.02, 1.0)
        terms.total.backward()
        optimizer.step()
    assert float(terms.certified.detach()) < 0.7 * first
    assert int(terms.num_certified) > 64


def test_a_network_without_bounds_is_refused(config):
    with pytest.raises(UnsupportedLayer, match="GELU at 1"):
        build_loss(config, nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.rand(2, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_loss(config):
    x, y_B = batch()
    on_cpu = build_loss(config, network(), x)(x, y_B, 0.1, 0.5)
    x, y_B = x.cuda(), y_B.cuda()
    on_gpu = build_loss(config, network().cuda(), x, ComputeConfig(bf16=False))(x, y_B, 0.1, 0.5)
    torch.testing.assert_close(on_gpu.total.cpu(), on_cpu.total, rtol=1e-3, atol=1e-3)
