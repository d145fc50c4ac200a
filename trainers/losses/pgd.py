"""Adversarial training."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from spaces.training import PgdLossConfig
from trainers.bounds import IntervalPass, ball
from trainers.losses.adversary import adversarial, input_attack_flops
from trainers.losses.base import Flops, Loss, LossTerms, mix, mixed_terms, natural_terms


class PgdLoss(Loss):
    """kappa * natural + (1 - kappa) * cross-entropy at adversarial inputs (Madry et al. 2018).

    Batch normalisation has the statistics of the natural inputs for both, as in the losses with
    bounds. `num_certified` counts examples that withstand the attack.
    """

    def __init__(self, interval: IntervalPass, config: PgdLossConfig) -> None:
        super().__init__(interval, config)
        self.config = config

    def __call__(self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float) -> LossTerms:
        """A natural pass, the attack, and a pass at the adversarial inputs."""
        if epsilon == 0.0:
            return natural_terms(self.logits(x_BCHW), y_B)
        stability: Tensor | float = 0.0
        if self.wiring is None:
            logits_BK, norms = self.interval.points(x_BCHW)
        else:
            result = self.interval.margins(x_BCHW, y_B, *ball(x_BCHW, epsilon))
            logits_BK, norms = result.logits_BK, result.norms
            stability = self.stability(result)
        attacked = adversarial(self, self.config, x_BCHW, y_B, epsilon)
        attacked_BK, _ = self.interval.points(attacked, norms)
        withstood_B = attacked_BK.argmax(1) == y_B
        kappa = mix(self.config.kappa_start, self.config.kappa, progress)
        worst = F.cross_entropy(attacked_BK, y_B)
        terms = mixed_terms(logits_BK, y_B, worst, withstood_B, kappa)
        return replace(terms, total=terms.total + stability)

    def passes(self, epsilon: float, progress: float) -> int:
        """Natural and adversarial inputs; two more for bounds where stability needs them."""
        if epsilon == 0.0:
            return 1
        return 2 if self.wiring is None else 4

    def attack_flops(
        self, layers: Flops, gradients: Flops, epsilon: float, progress: float
    ) -> float:
        """Of the attack's steps."""
        return 0.0 if epsilon == 0.0 else input_attack_flops(self.config, layers)
