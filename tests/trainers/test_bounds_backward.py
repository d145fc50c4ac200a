"""Backward bounds: by hand, against auto_LiRPA, against closed forms, and against samples."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import FAMILIES, family
from torch import nn

from trainers.bounds import IntervalPass, ball
from trainers.bounds.backward import BackwardBounds
from trainers.bounds.crown import backward_margins, crown_values, optimized_margins
from trainers.bounds.lirpa import LirpaBounds


def difference():
    """relu(x1 + x2) - relu(x1 - x2) on [-1, 1]^2: both units may be on either side of zero."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    return model


def bounds_of(model, x, lower, upper, tighten=True):
    interval = IntervalPass(model)
    values = (crown_values if tighten else IntervalPass.values)(interval, x, lower, upper)
    return BackwardBounds(interval, values), interval.program.output


def test_a_row_goes_back_through_open_relus_by_hand():
    x = torch.zeros(1, 2)
    bounds, output = bounds_of(difference(), x, x - 1.0, x + 1.0)
    # relu(z1) >= 0 (as much below zero as above), relu(z2) <= (z2 + 2) / 2, over [-2, 2] each:
    # -(x1 - x2 + 2) / 2 >= -2. Upwards the same.
    assert bounds.lower(output, torch.ones(1, 1)).tolist() == [-2.0]
    assert bounds.lower(output, -torch.ones(1, 1)).tolist() == [-2.0]
    # With the line x below relu(z1): x1 + x2 - (x1 - x2 + 2) / 2 >= -1 - 1/2 - 3/2.
    slopes = {2: torch.tensor([[1.0, 0.0]])}
    assert bounds.lower(output, torch.ones(1, 1), slopes=slopes).tolist() == [-3.0]


def test_rows_belong_to_examples():
    x = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    bounds, output = bounds_of(difference(), x, x - 1.0, x + 1.0)
    rows, owners = torch.tensor([[1.0], [-1.0], [1.0]]), torch.tensor([1, 1, 0])
    # Around (5, 0) both units are active: the network is 2 x2, in [-2, 2].
    assert bounds.lower(output, rows, owners).tolist() == [-2.0, -2.0, -2.0]


@pytest.mark.parametrize("name", FAMILIES)
def test_crown_ibp_and_crown_are_those_of_auto_lirpa(name):
    model, x = family(name)
    interval, lirpa = IntervalPass(model), LirpaBounds(model, x)
    y_B, logits_BK = model(x).argmax(1), model(x)
    for radius in (0.01, 0.1):
        box = ball(x, radius)
        with torch.no_grad():
            values = interval.values(x, *box)
            ours = backward_margins(interval, values, y_B, logits_BK)
            torch.testing.assert_close(
                ours, lirpa.margins(x, y_B, radius, "crown-ibp"), rtol=1e-9, atol=1e-9
            )
            crown = backward_margins(interval, crown_values(interval, x, *box), y_B, logits_BK)
            theirs = lirpa.margins(x, y_B, radius, "crown")
        # Ours start from the tighter of interval and backward bounds; as the line below a ReLU is
        # chosen by them, a few bounds come out a little different either way.
        tolerance = 0.05 * float(theirs.abs().max())
        torch.testing.assert_close(crown, theirs, rtol=0.0, atol=tolerance)
        assert float((crown - theirs).mean()) >= -1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_auto_lirpa_in_training_mode_too(name):
    model, x = family(name)
    y_B = model(x).argmax(1)
    interval, lirpa = IntervalPass(model), LirpaBounds(model, x)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for training in (False, True):
        model.train(training)
        result = interval.margins(x, y_B, *ball(x, 0.03))
        ours = backward_margins(interval, result.values, y_B, result.logits_BK).square().sum()
        theirs = lirpa.margins(x, y_B, 0.03, "crown-ibp").square().sum()
        found, expected = (
            torch.autograd.grad(total, parameters, allow_unused=True) for total in (ours, theirs)
        )
        for a, b in zip(found, expected, strict=True):
            if a is not None or b is not None:
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_on_a_linear_network_every_bound_is_the_closed_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    y_B, (lower, upper) = model(x).argmax(1), ball(x, 0.1)
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x)  # (K, B, 1, 4, 4)
    rows = (jacobian.gather(0, y_B.view(1, -1, 1, 1, 1).expand_as(jacobian)) - jacobian).flatten(2)
    center = model((lower + upper) / 2)
    exact = center.gather(1, y_B[:, None]) - center
    exact -= (rows.abs() * ((upper - lower) / 2).flatten(1)).sum(2).T
    interval = IntervalPass(model)
    values = crown_values(interval, x, lower, upper)
    torch.testing.assert_close(backward_margins(interval, values, y_B, model(x)), exact)
    found = optimized_margins(interval, values, y_B, torch.full_like(exact, -9.0))
    others = F.one_hot(y_B, 3) == 0
    torch.testing.assert_close(found[others], exact[others])


@pytest.mark.parametrize("name", FAMILIES)
@given(seed=st.integers(0, 10_000), radius=st.floats(1e-3, 0.3))
@settings(max_examples=5, deadline=None)
def test_each_bound_is_at_least_as_tight_as_the_one_before_and_holds(name, seed, radius):
    model, x = family(name, seed)
    interval, y_B = IntervalPass(model), model(x).argmax(1)
    lower, upper = ball(x, radius)
    with torch.no_grad():
        crown = crown_values(interval, x, lower, upper)
        for old, new in zip(interval.values(x, lower, upper), crown, strict=True):
            assert (new.bounds[0] >= old.bounds[0] - 1e-9).all()
            assert (new.bounds[1] <= old.bounds[1] + 1e-9).all()
        margins_BK = backward_margins(interval, crown, y_B, model(x))
        best_BK = optimized_margins(interval, crown, y_B, margins_BK, iterations=5)
        assert (best_BK >= margins_BK).all()
        points = lower + (upper - lower) * torch.rand(200, *x.shape, dtype=x.dtype)
        logits = model(points.flatten(0, 1)).view(200, len(x), -1)
        real = logits.gather(2, y_B.expand(200, -1)[..., None]) - logits
        assert (best_BK <= real.amin(0) + 1e-9).all()
        for number, value in enumerate(crown):
            seen = interval.program.values(points.flatten(0, 1))[number].view(
                200, *value.value.shape
            )
            assert (seen >= value.bounds[0] - 1e-9).all() and (seen <= value.bounds[1] + 1e-9).all()


def test_optimising_the_lines_proves_what_fixed_ones_do_not():
    proven = []
    for seed in range(5):
        model, x = family("cnn", seed)
        interval, y_B = IntervalPass(model), model(x).argmax(1)
        values = crown_values(interval, x, *ball(x, 0.15))
        with torch.no_grad():
            margins_BK = backward_margins(interval, values, y_B, model(x))
            best_BK = optimized_margins(interval, values, y_B, margins_BK)
        proven.append(float((best_BK - margins_BK).max()))
    assert max(proven) > 1e-3
