"""The attack within a training step."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from spaces.training import AttackConfig
from trainers.attack import climb
from trainers.bounds import ball
from trainers.losses.base import Flops, Loss
from trainers.models.modes import evaluating


def adversarial(
    loss: Loss, config: AttackConfig, x_BCHW: Tensor, y_B: Tensor, radius: float
) -> Tensor:
    """Inputs within `radius` (data units) and the data range whose cross-entropy is large.

    The attack starts at x itself and uses no randomness. The network is in evaluation mode, so that
    running statistics are left alone.
    """

    def cross_entropy(point: Tensor) -> Tensor:
        return F.cross_entropy(loss.logits(point), y_B, reduction="sum")

    lower, upper = ball(x_BCHW, radius)
    first = config.attack_step_size * radius
    with evaluating(loss.model):
        return climb(cross_entropy, x_BCHW, lower, upper, first, config.attack_steps)


def input_attack_flops(config: AttackConfig, layers: Flops) -> float:
    """Operations of `adversarial` per example: each step goes forward, and back to the inputs."""
    return 2.0 * config.attack_steps * sum(layers.values())
