"""MTL-IBP as a loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from spaces.training import MtlIbpLossConfig
from trainers.bounds import IntervalResult
from trainers.losses.adversary import adversarial, input_attack_flops
from trainers.losses.base import Flops, mix
from trainers.losses.ibp import IbpLoss


class MtlIbpLoss(IbpLoss):
    """Worst case: alpha * IBP + (1 - alpha) * cross-entropy at adversarial inputs.

    (De Palma et al. 2024, arXiv:2305.13991.) The attack's radius is `attack_factor`
    times epsilon. alpha goes from `alpha_start` to `alpha` as epsilon grows; at 1 this is IBP, at 0
    adversarial training.
    """

    config: MtlIbpLossConfig

    def alpha(self, progress: float) -> float:
        """The weight of the IBP loss."""
        return mix(self.config.alpha_start, self.config.alpha, progress)

    def passes(self, epsilon: float, progress: float) -> int:
        """One more, at the adversarial inputs."""
        return super().passes(epsilon, progress) + self._attacks(epsilon, progress)

    def attack_flops(
        self, layers: Flops, gradients: Flops, epsilon: float, progress: float
    ) -> float:
        """Of the attack's steps."""
        steps = input_attack_flops(self.config, layers)
        return steps if self._attacks(epsilon, progress) else 0.0

    def certified(
        self,
        margins_BK: Tensor,
        result: IntervalResult,
        x_BCHW: Tensor,
        y_B: Tensor,
        epsilon: float,
        progress: float,
    ) -> Tensor:
        """The mean of the two, weighted by alpha."""
        ibp = super().certified(margins_BK, result, x_BCHW, y_B, epsilon, progress)
        if not self._attacks(epsilon, progress):
            return ibp
        radius = self.config.attack_factor * epsilon
        attacked = adversarial(self, self.config, x_BCHW, y_B, radius)
        attacked_BK, _ = self.interval.points(attacked, result.norms)
        alpha = self.alpha(progress)
        return alpha * ibp + (1.0 - alpha) * F.cross_entropy(attacked_BK, y_B)

    def _attacks(self, epsilon: float, progress: float) -> bool:
        return epsilon > 0.0 and self.alpha(progress) < 1.0
