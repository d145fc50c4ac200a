"""CROWN-IBP, CROWN and alpha-CROWN: which rows go back through a network, from which bounds.

(Zhang et al. 2018, arXiv:1811.00866; Zhang et al. 2020, arXiv:1906.06316; Xu et al. 2021,
arXiv:2011.13824.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.bounds.backward import BackwardBounds
from trainers.bounds.interval import Activation, IntervalPass
from trainers.bounds.program import Add

_ELEMENTS = 2**23
"""Largest number of coefficients that are carried at a time."""


def crown_values(
    interval: IntervalPass, x: Tensor, lower: Tensor, upper: Tensor
) -> list[Activation]:
    """`IntervalPass.values` with CROWN's bounds in front of each ReLU, where they are tighter.

    Only ReLUs that may be on either side of zero are bounded again, from the input on, with the
    bounds found before. x, lower, upper: (B, ...).
    """
    free = _without_relu(interval)

    def refine(values: list[Activation], number: int) -> Activation:
        return values[number] if free[number] else _refined(interval, values, number)

    return interval.values(x, lower, upper, refine=refine)


def specification(y_B: Tensor, num_classes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows e_y - e_j, (B * (K - 1), K), for all classes j other than y, and those j, (B, K - 1)."""
    others_BJ = torch.arange(num_classes - 1, device=y_B.device).expand(len(y_B), -1)
    others_BJ = others_BJ + (others_BJ >= y_B[:, None])
    identity = torch.eye(num_classes, dtype=like.dtype, device=like.device)
    return (identity[y_B][:, None, :] - identity[others_BJ]).flatten(0, 1), others_BJ


def backward_margins(
    interval: IntervalPass, values: list[Activation], y_B: Tensor, logits_BK: Tensor
) -> Tensor:
    """margins_BK[b, j], a lower bound on logit[y_b] - logit[j]; the column of y_b is 0."""
    output = interval.program.output
    rows, others_BJ = specification(y_B, logits_BK.shape[1], logits_BK)
    owner_R = torch.arange(len(y_B), device=y_B.device).repeat_interleave(others_BJ.shape[1])
    bounds = BackwardBounds(interval, values)
    size = max(1, _ELEMENTS // bounds.largest(output))
    found = [
        bounds.lower(output, part, owners)
        for part, owners in zip(rows.split(size), owner_R.split(size), strict=True)
    ]
    return torch.zeros_like(logits_BK).scatter(1, others_BJ, torch.cat(found).view_as(others_BJ))


def optimized_margins(
    interval: IntervalPass,
    values: list[Activation],
    y_B: Tensor,
    margins_BK: Tensor,
    *,
    iterations: int = 20,
    lr: float = 0.3,
) -> Tensor:
    """`margins_BK`, raised where it is not positive by optimising the lines below ReLUs.

    alpha-CROWN with the bounds in front of ReLUs held fixed: Adam climbs each row's own bound; the
    best bound on the way counts, so that none gets looser.
    """
    output, found_BK = interval.program.output, margins_BK.clone()
    examples, classes = ((margins_BK <= 0) & (F.one_hot(y_B, margins_BK.shape[1]) == 0)).nonzero(
        as_tuple=True
    )
    identity = torch.eye(margins_BK.shape[1]).to(margins_BK)
    bounds = BackwardBounds(interval, [value.detach() for value in values])
    size = max(1, _ELEMENTS // (4 * bounds.largest(output)))
    for owners, others in zip(examples.split(size), classes.split(size), strict=True):
        rows = identity[y_B[owners]] - identity[others]
        best_R = _optimized(bounds, output, rows, owners, iterations, lr)
        found_BK[owners, others] = torch.maximum(best_R, found_BK[owners, others])
    return found_BK


def _optimized(
    bounds: BackwardBounds,
    number: int,
    rows: Tensor,
    owner_R: Tensor,
    iterations: int,
    lr: float,
) -> Tensor:
    slopes = {}
    for made, step in enumerate(bounds.program.steps[:number], 1):
        if isinstance(step.op, nn.ReLU):
            lower, upper = bounds.values[step.inputs[0]].bounds
            slopes[made] = (upper > -lower).to(rows)[owner_R].requires_grad_(True)
    if not slopes:
        return bounds.lower(number, rows, owner_R)
    best_R = rows.new_full((len(rows),), -math.inf)
    climb = _Adam(list(slopes.values()), lr)
    with torch.enable_grad():
        for _ in range(iterations):
            lower_R = bounds.lower(number, rows, owner_R, slopes)
            best_R = torch.maximum(best_R, lower_R.detach())
            if bool((best_R > 0).all()):
                break
            climb.step(torch.autograd.grad(lower_R.sum(), climb.slopes))
    return best_R


class _Adam:
    """Ascent of slopes in [0, 1] (Kingma and Ba 2015); torch's own takes seconds to be imported."""

    def __init__(self, slopes: list[Tensor], lr: float) -> None:
        self.slopes, self.lr, self.count = slopes, lr, 0
        self.means = [torch.zeros_like(slope) for slope in slopes]
        self.squares = [torch.zeros_like(slope) for slope in slopes]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move each slope by about lr, up its gradient."""
        self.count += 1
        for slope, gradient, mean, square in zip(
            self.slopes, gradients, self.means, self.squares, strict=True
        ):
            mean.mul_(0.9).add_(gradient, alpha=0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = (square / (1.0 - 0.999**self.count)).sqrt_().add_(1e-8)
            step = self.lr / (1.0 - 0.9**self.count)
            slope.addcdiv_(mean, size, value=step).clamp_(0.0, 1.0)


def _refined(interval: IntervalPass, values: list[Activation], number: int) -> Activation:
    """Value `number` with tighter ends where it may be on either side of zero."""
    bounds, old = BackwardBounds(interval, values), values[number]
    lower, upper = (end.flatten(1).clone() for end in old.bounds)
    examples, places = ((lower < 0) & (upper > 0)).nonzero(as_tuple=True)
    size = max(1, _ELEMENTS // (2 * bounds.largest(number)))
    for owners, at in zip(examples.split(size), places.split(size), strict=True):
        rows = lower.new_zeros(2, len(at), lower.shape[1])
        rows[:, torch.arange(len(at), device=at.device), at] = 1.0
        rows[1].neg_()
        rows = rows.view(-1, *old.center.shape[1:])
        found = bounds.lower(number, rows, owners.repeat(2)).view(2, -1)
        lower[owners, at] = torch.maximum(lower[owners, at], found[0])
        upper[owners, at] = torch.minimum(upper[owners, at], -found[1])
    # Rounding may let ends that coincide pass each other.
    lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    center, radius = ((upper + lower) / 2).view_as(old.center), ((upper - lower) / 2)
    return Activation(old.value, center, radius.view_as(old.radius), old.norm)


def _without_relu(interval: IntervalPass) -> list[bool]:
    """For each value, whether no ReLU stands between it and the input: intervals are exact."""
    free = [True]
    for step in interval.program.steps:
        free.append(not isinstance(step.op, nn.ReLU | Add) and all(free[i] for i in step.inputs))
    return free
