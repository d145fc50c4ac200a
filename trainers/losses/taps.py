"""TAPS as a loss: intervals through the first part of a network, an attack through the last."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaces.training import LatentAttackConfig
from trainers.attack import climb
from trainers.bounds import IntervalPass, IntervalResult
from trainers.bounds.cut import cuts
from trainers.bounds.interval import Norms
from trainers.bounds.program import Program
from trainers.errors import ModelError
from trainers.losses.base import Flops
from trainers.losses.ibp import IbpLoss
from trainers.models import prunable_weights
from trainers.models.modes import evaluating

SOFT_THRESHOLD = 0.5
"""Share of a box, from either end, within which that end gets a gradient."""


class TapsLoss(IbpLoss):
    """Worst case: the product of the IBP loss and of one that knows the last layers better.

    (Mao et al. 2023, arXiv:2305.04574.) The latter propagates intervals up to a cut, in front of
    the last `attacked_relus` ReLU layers and what leads to them; within the box there, a point is
    looked for that is worst for each other class (the multi-estimator), and the cross-entropy is
    that of the margins at these points. Their gradients reach the box through `BoxLink`, multiplied
    by `gradient_scale`. Raises ModelError when the network
    cannot be cut there.
    """

    config: LatentAttackConfig

    def __init__(self, interval: IntervalPass, config: LatentAttackConfig, x_example: Tensor):
        super().__init__(interval, config)
        self.cut = cut_of(interval.program, config.attacked_relus)
        self.tail = weights_behind(interval, self.cut)
        with evaluating(self.model), torch.no_grad():
            self.num_points = self.model(x_example).shape[1] - 1

    @property
    def relu_shrink(self) -> float:
        """Below 1 intervals are bounds no longer."""
        return self.config.relu_shrink

    def attack_flops(
        self, layers: Flops, gradients: Flops, epsilon: float, progress: float
    ) -> float:
        """Of the last layers, with a point per other class: the steps, and the loss at the end."""
        others = super().attack_flops(layers, gradients, epsilon, progress)
        if epsilon == 0.0:
            return others
        there_and_back = 2.0 * sum(layers[name] for name in self.tail)
        loss = there_and_back + sum(gradients[name] for name in self.tail)
        return others + self.num_points * (self.config.attack_steps * there_and_back + loss)

    def certified(
        self,
        margins_BK: Tensor,
        result: IntervalResult,
        x_BCHW: Tensor,
        y_B: Tensor,
        epsilon: float,
        progress: float,
    ) -> Tensor:
        """The product, whose first factor has `gradient_scale` times its gradient."""
        ibp = super().certified(margins_BK, result, x_BCHW, y_B, epsilon, progress)
        lower, upper = (bound[:, None] for bound in result.values[self.cut].bounds)
        points = self._worst_points(lower.detach(), upper.detach(), y_B, result.norms)
        latent = self._margins(BoxLink.apply(lower, upper, points), y_B, result.norms)
        # The margin of the class itself is 0.
        taps = F.cross_entropy(F.pad(-latent, (1, 0)), torch.zeros_like(y_B))
        return scale_gradient(taps, self.config.gradient_scale) * ibp

    def _worst_points(self, lower: Tensor, upper: Tensor, y_B: Tensor, norms: Norms) -> Tensor:
        """(B, K - 1, ...): where in the box, (B, 1, ...), the attack on each margin ends.

        It starts in the middle. Batch normalisation is that of the natural pass of this step.
        """
        fixed = {i: (scale.detach(), shift.detach()) for i, (scale, shift) in norms.items()}
        start = ((lower + upper) / 2).expand(-1, self.num_points, *lower.shape[2:])
        first = (upper - lower) * (self.config.attack_step_size / 2)

        def fall(points: Tensor) -> Tensor:
            return -self._margins(points, y_B, fixed).sum()

        return climb(fall, start, lower, upper, first, self.config.attack_steps)

    def _margins(self, points: Tensor, y_B: Tensor, norms: Norms) -> Tensor:
        """(B, K - 1): logit[y] - logit[j] at the point for class j."""
        logits, _ = self.interval.points(points.flatten(0, 1), norms, self.cut)
        own = y_B[:, None, None].expand(-1, self.num_points, 1)
        ahead = torch.arange(1, self.num_points + 1, device=y_B.device)[None, :, None]
        other = (own + ahead) % (self.num_points + 1)
        logits = logits.unflatten(0, own.shape[:2])
        return (logits.gather(2, own) - logits.gather(2, other)).squeeze(2)


class BoxLink(torch.autograd.Function):
    """A point in a box, as a function of the box's ends: the gradient connector of Mao et al. 2023.

    It is their rectified linear link. With c = SOFT_THRESHOLD times the width, the lower end gets
    the gradient times 1 - (point - lower) / c, the upper end times 1 - (upper - point) / c, neither
    less than 0. Where the box has no width each gets half.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor, point: Tensor) -> Tensor:
        """The ends broadcast to the points."""
        ctx.save_for_backward(lower, upper, point)
        return point.view_as(point)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Summed over the points of one box."""
        lower, upper, point = ctx.saved_tensors
        reach = SOFT_THRESHOLD * (upper - lower)
        flat = reach < 1e-12
        inverse = torch.where(flat, 0.0, 1.0 / reach)
        weight = torch.where(flat, 0.5, 1.0)
        ends = []
        for end, distance in ((lower, lower - point), (upper, point - upper)):  # distances <= 0
            share = distance.mul_(inverse).add_(1.0).clamp_(min=0.0)  # in place: points are many
            ends.append(share.mul_(grad).sum_to_size(end.shape) * weight)
        return ends[0], ends[1], None


def scale_gradient(value: Tensor, scale: float) -> Tensor:
    """The same value with `scale` times its gradient (GradExpand)."""
    fixed = value.detach()
    return fixed + scale * (value - fixed)


def cut_of(program: Program, num_relus: int) -> int:
    """Number of the first value with `num_relus` ReLU layers behind it, and all of them alone."""
    found = cuts(program)
    total = max(found)
    possible = sorted(n for n in found if 0 < n < total)
    if num_relus in possible:
        return found[num_relus]
    what = f"loss.attacked_relus is {num_relus}, but this network of {total} ReLU layers can"
    if possible:
        numbers = " or ".join(map(str, possible))
        raise ModelError(
            f"{what} only be cut in front of its last {numbers}: at least one must lie before the "
            "cut, and no connection may bypass it; set attacked_relus to such a number"
        )
    raise ModelError(
        f"{what}not be cut: one ReLU layer must lie before the cut and one behind it, and no "
        "connection may bypass it; use a deeper network, or another loss such as sabr"
    )


def weights_behind(interval: IntervalPass, cut: int) -> list[str]:
    """Names of the weights of the layers behind a cut."""
    behind = {getattr(step.op, "weight", None) for step in interval.program.steps[cut:]}
    return [name for name, weight in prunable_weights(interval.model).items() if weight in behind]
