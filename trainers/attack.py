"""Projected gradient descent: looks for the worst point of a box."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainers.bounds import ball
from trainers.models.modes import evaluating


def pgd(
    model: nn.Module,
    x: Tensor,
    y_B: Tensor,
    radius: float | Tensor,
    *,
    steps: int,
    restarts: int,
    generator: torch.Generator,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Attack in evaluation mode: (adversarial inputs shaped like x, found_B).

    Maximises the margin of the best wrong class (Madry et al. 2018, arXiv:1706.06083, with the
    margin in place of the cross-entropy) by signed steps that shrink from `radius` to nearly 0.
    The first start is x itself, the others are uniform in the ball; only examples that are still
    classified correctly go on. found_B tells where argmax(model(adversarial)) != y; elsewhere the
    last point tried is returned. Never leaves the ball or [low, high]. The model's modes are kept.
    `radius` may be a tensor that broadcasts to x.
    """
    lower, upper = inner_ball(x, radius, low, high)
    best = x.clone()
    found_B = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with evaluating(model):
        for restart in range(restarts):
            todo = (~found_B).nonzero().squeeze(1)
            if not len(todo):
                break
            start = x[todo]
            if restart > 0:
                noise = torch.rand(start.shape, generator=generator, device=generator.device)
                span = upper[todo] - lower[todo]
                start = (lower[todo] + noise.to(x) * span).clamp(lower[todo], upper[todo])
            size = radius[todo].to(x) if isinstance(radius, Tensor) else radius
            best[todo], found_B[todo] = _climb(
                model, start, y_B[todo], (lower[todo], upper[todo]), size, steps
            )
    return best, found_B


def attacked(model: nn.Module, x: Tensor, y_B: Tensor, radius: float, steps: int) -> Tensor:
    """Where one climb of `pgd` from x itself ends, for training; uses no randomness."""
    return pgd(model, x, y_B, radius, steps=steps, restarts=1, generator=torch.Generator())[0]


def polished(
    model: nn.Module,
    start: Tensor,
    x: Tensor,
    y_B: Tensor,
    radius: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
    steps: int = 10,
) -> Tensor:
    """`start` moved into the ball around x in its own type and, if it is not wrong, a little on."""
    lower, upper = inner_ball(x, radius, low, high)
    with evaluating(model):
        point = start.clamp(lower, upper)
        return _climb(model, point, y_B, (lower, upper), radius / 20, steps)[0]


def climb(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    step_size: float | Tensor,
    steps: int,
) -> Tensor:
    """Where `steps` signed gradient steps up `objective` within [lower, upper] end (Madry 2018).

    objective: a scalar function of all points; start: the points. The bounds and `step_size`, the
    size of the first step in the units of the points, broadcast to them. Steps shrink as those of
    `pgd` do; none is left out, so that no device waits.
    """
    point = start.detach()
    for step in range(steps):
        with torch.enable_grad():
            point.requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(point), point)
        point = _ascend(point.detach(), gradient, shrunk(step, steps) * step_size, lower, upper)
    return point


def shrunk(step: int, steps: int) -> float:
    """The size of a step over that of the first: half a cosine, from 1 to nearly 0."""
    return (1.0 + math.cos(math.pi * step / steps)) / 2.0


def _ascend(
    point: Tensor, gradient: Tensor, size: float | Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """One signed step, and back into the box."""
    return gradient.sign().mul_(size).add_(point).clamp_(lower, upper)


def margins(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Logit of the best wrong class minus that of y, for each example."""
    wrong = logits_BK.scatter(1, y_B[:, None], -math.inf).amax(1)
    return wrong - logits_BK.gather(1, y_B[:, None]).squeeze(1)


def _climb(
    model: nn.Module,
    x: Tensor,
    y_B: Tensor,
    box: tuple[Tensor, Tensor],
    radius: float | Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """All steps from one start; examples that are found stop moving."""
    out = x.clone()
    found_B = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    active = torch.arange(len(x), device=x.device)
    radius = radius if isinstance(radius, Tensor) else x.new_tensor(radius)
    radius = radius.expand_as(x)
    for step in range(steps + 1):
        point = out[active].requires_grad_(True)
        with torch.enable_grad():
            logits_BK = model(point)
            wrong_B = logits_BK.argmax(1) != y_B[active]
            (gradient,) = torch.autograd.grad(margins(logits_BK, y_B[active]).sum(), point)
        found_B[active] = wrong_B
        going = ~wrong_B
        active = active[going]
        if step == steps or not len(active):
            break
        size = radius[active] * shrunk(step, steps)
        lower, upper = box[0][active], box[1][active]
        out[active] = _ascend(point.detach()[going], gradient[going], size, lower, upper)
    return out, found_B


def inner_ball(x: Tensor, radius: float | Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The ball in the type of x, rounded inwards: none of its points is outside the real one."""
    # x - radius itself rounds, in float64 too: so much less that it rounds to within the ball.
    rounding = 4 * torch.finfo(torch.float64).eps * max(abs(low), abs(high), 1.0)
    inner = torch.as_tensor(radius, dtype=torch.float64, device=x.device) - rounding
    exact_lower, exact_upper = ball(x.double(), inner.clamp(min=0.0), low, high)
    lower, upper = exact_lower.to(x), exact_upper.to(x)
    lower = torch.where(lower.double() < exact_lower, torch.nextafter(lower, upper), lower)
    return lower, torch.where(upper.double() > exact_upper, torch.nextafter(upper, lower), upper)
