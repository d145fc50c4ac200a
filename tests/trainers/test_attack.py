"""The attack finds what there is to find, and never leaves the ball."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainers.attack import margins, pgd


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def threshold(at):
    """Class 1 where the mean of the two inputs exceeds `at`."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
        model.bias.copy_(torch.tensor([0.0, -at]))
    return model


def test_margins_are_best_wrong_logit_minus_own():
    logits_BK = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.0, 1.0]])
    assert margins(logits_BK, torch.tensor([1, 2])).tolist() == [-2.0, 2.0]


def test_it_decides_a_linear_network():
    # From (0.5, 0.5) the mean reaches 0.59 within 0.1, and not 0.61.
    x, y_B = torch.full((1, 2), 0.5), torch.tensor([0])
    for at, expected in ((0.59, True), (0.61, False)):
        adversarial, found_B = pgd(
            threshold(at), x, y_B, 0.1, steps=5, restarts=1, generator=generator()
        )
        assert found_B.tolist() == [expected]
        assert (threshold(at)(adversarial).argmax(1) != y_B).tolist() == [expected]


def test_the_first_start_is_the_example_itself():
    x, y_B = torch.full((1, 2), 0.5), torch.tensor([0])
    adversarial, found_B = pgd(
        threshold(0.4), x, y_B, 0.0, steps=1, restarts=1, generator=generator()
    )
    assert found_B.all() and torch.equal(adversarial, x)


def bumpy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 4))
    with torch.no_grad():
        model[0].weight.mul_(4)
    return model


@given(radius=st.floats(0.0, 0.6), seed=st.integers(0, 1000), steps=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_it_never_leaves_the_ball_or_the_range(radius, seed, steps):
    x = torch.rand(16, 3, generator=generator(seed)) * 0.8 + 0.1
    y_B = torch.randint(0, 4, (16,), generator=generator(seed))
    adversarial, found_B = pgd(
        bumpy(), x, y_B, radius, steps=steps, restarts=2, generator=generator(), low=0.1, high=0.9
    )
    assert ((adversarial.double() - x.double()).abs() <= radius).all()
    assert ((adversarial >= 0.1) & (adversarial <= 0.9)).all()
    model = bumpy().eval()
    assert torch.equal(model(adversarial).argmax(1) != y_B, found_B)


def test_the_same_seed_finds_the_same_points():
    x, y_B = torch.rand(8, 3, generator=generator(1)), torch.arange(8) % 4
    results = [
        pgd(bumpy(), x, y_B, 0.2, steps=4, restarts=3, generator=generator(5)) for _ in range(2)
    ]
    assert torch.equal(results[0][0], results[1][0])


def test_a_restart_gets_away_from_where_the_gradient_is_zero():
    # Class 1 wins where x1 + x2 > 1.11, but at x the ReLU is off.
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0), model[0].bias.fill_(-1.1)
        model[2].weight.copy_(torch.tensor([[0.0], [1.0]]))
        model[2].bias.copy_(torch.tensor([0.01, 0.0]))
    x, y_B = torch.full((1, 2), 0.5), torch.tensor([0])
    found = [
        bool(pgd(model, x, y_B, 0.2, steps=3, restarts=n, generator=generator())[1])
        for n in (1, 20)
    ]
    assert found == [False, True]


@pytest.mark.parametrize("mode", [True, False])
def test_modes_and_gradients_are_left_alone(mode):
    model = bumpy().train(mode)
    model[2].train(not mode)
    modes = [module.training for module in model.modules()]
    x = torch.rand(4, 3)
    pgd(model, x, torch.tensor([0, 1, 2, 3]), 0.1, steps=2, restarts=2, generator=generator())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
