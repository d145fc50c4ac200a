"""Millions of points in the ball, sampled and attacked: none contradicts a bound or a verdict."""

import copy

import pytest
import torch
from networks import FAMILIES, family

from trainers.attack import pgd
from trainers.bounds import IntervalPass, ball
from trainers.bounds.crown import backward_margins, crown_values, optimized_margins
from trainers.verify import verify

NUM_POINTS = 30_000


def points_in(x, lower, upper, model, y_B, radius):
    """(P, B, ...): uniform points, corners, edges, and the ends of attacks from random starts."""
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_POINTS // 4, *x.shape)
    noise = torch.rand(shape, generator=generator, dtype=x.dtype)
    corners = torch.rand(shape, generator=generator).round().to(x.dtype)
    edges = torch.where(torch.rand(shape, generator=generator) < 0.8, corners, noise)
    for shares in (noise, corners, edges):
        yield lower + (upper - lower) * shares
    attacked = [
        pgd(model, x, y_B, radius, steps=steps, restarts=4, generator=generator)[0]
        for steps in (1, 5, 20, 50)
    ]
    # Around the worst that was found, where bounds are tightest.
    near = torch.stack(attacked)[torch.randint(0, 4, (NUM_POINTS // 4,), generator=generator)]
    step = (torch.rand(shape, generator=generator, dtype=x.dtype) - 0.5) * radius / 5
    yield torch.cat([torch.stack(attacked), (near + step).clamp(lower, upper)])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "radius"), [(11, 0.02), (12, 0.1)])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_point_contradicts_a_bound_or_a_verdict(name, radius, seed):
    model, x = family(name, seed, num_examples=6)
    model.requires_grad_(False)
    y_B, (lower, upper) = model(x).argmax(1), ball(x, radius)
    interval = IntervalPass(model)
    by_interval = interval.values(x, lower, upper)
    by_crown = crown_values(interval, x, lower, upper)
    margins = [
        interval.margins(x, y_B, lower, upper).margins_BK,
        backward_margins(interval, by_interval, y_B, model(x)),
        backward_margins(interval, by_crown, y_B, model(x)),
    ]
    margins.append(optimized_margins(interval, by_crown, y_B, margins[-1]))
    verdicts = verify(model, x, y_B, radius).verdicts
    single = copy.deepcopy(model).float()
    as_shipped = verify(single, x.float(), y_B, radius).verdicts
    num_seen = 0
    for points in points_in(x, lower, upper, model, y_B, radius):
        num_seen += points.shape[0] * points.shape[1]
        seen = interval.program.values(points.flatten(0, 1))
        for value, found in zip(seen, by_crown, strict=True):
            (low, high), value = found.bounds, value.view(len(points), *found.value.shape)
            assert (value >= low - 1e-9).all() and (value <= high + 1e-9).all()
        logits = seen[-1].view(len(points), len(x), -1)
        real = (logits.gather(2, y_B.expand(len(points), -1)[..., None]) - logits).amin(0)
        for bound in margins:
            assert (bound <= real + 1e-9).all()
        wrong_B = (logits.argmax(2) != y_B).any(0)
        assert not any(wrong_B[i] for i, verdict in enumerate(verdicts) if verdict == "verified")
        inside = points.float().clamp(lower.float(), upper.float())
        classes = single(inside.flatten(0, 1)).argmax(1).view(len(points), -1)
        wrong_B = (classes != y_B).any(0)
        assert not any(wrong_B[i] for i, v in enumerate(as_shipped) if v == "verified")
    assert num_seen >= 6 * NUM_POINTS
    assert "unknown" not in verdicts
