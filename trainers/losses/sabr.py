"""SABR as a loss: intervals of a small box around an adversarial point."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.training import SabrLossConfig, StapsLossConfig
from trainers.bounds import ball
from trainers.losses.adversary import adversarial, input_attack_flops
from trainers.losses.base import Flops, mix
from trainers.losses.ibp import IbpLoss


class SabrLoss(IbpLoss):
    """IBP on the box of radius lambda * epsilon around an adversarial point.

    (Mueller et al. 2023, arXiv:2210.04871.) The point x' is looked for within (1 - lambda) *
    epsilon of x; the box around it is cut down to the ball and the data range. lambda goes from
    `subselection_ratio_start` to `subselection_ratio` as epsilon grows; at 1 this is IBP.
    """

    config: SabrLossConfig | StapsLossConfig

    @property
    def relu_shrink(self) -> float:
        """Below 1 not even the small box is bounded."""
        return self.config.relu_shrink

    def box_share(self, progress: float) -> float:
        """Lambda of the paper."""
        config = self.config
        return mix(config.subselection_ratio_start, config.subselection_ratio, progress)

    def box(
        self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float
    ) -> tuple[Tensor, Tensor]:
        """The ball itself where lambda is 1."""
        lower, upper = ball(x_BCHW, epsilon)
        share = self.box_share(progress)
        if share == 1.0:
            return lower, upper
        center = adversarial(self, self.config, x_BCHW, y_B, (1.0 - share) * epsilon)
        radius = share * epsilon
        return torch.maximum(center - radius, lower), torch.minimum(center + radius, upper)

    def attack_flops(
        self, layers: Flops, gradients: Flops, epsilon: float, progress: float
    ) -> float:
        """Of the steps to x'."""
        others = super().attack_flops(layers, gradients, epsilon, progress)
        if epsilon == 0.0 or self.box_share(progress) == 1.0:
            return others
        return others + input_attack_flops(self.config, layers)
