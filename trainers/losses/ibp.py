"""Interval bound propagation as a loss."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from spaces.training import CertifiedLossConfig
from trainers.bounds import IntervalPass, IntervalResult, ball
from trainers.losses.base import Loss, LossTerms, mix, natural_terms, worst_case, worst_case_terms
from trainers.losses.regularizer import warmup_penalty
from trainers.losses.stability import nrs_penalty, relu_gains
from trainers.wiring import Wiring


class IbpLoss(Loss):
    """kappa * natural + (1 - kappa) * worst case by intervals (Gowal et al. 2018, eq. 13).

    kappa goes from kappa_start to kappa as epsilon grows. While it grows, the terms of Shi et al.
    (2021) keep bounds tight and ReLUs balanced; `stability_weight` times the normalised ReLU
    stability is added throughout (Li et al. 2022). While epsilon is 0, before the ramp, a step is a
    natural one, whose bounds have no width to regularise.
    """

    def __init__(self, interval: IntervalPass, config: CertifiedLossConfig) -> None:
        super().__init__(interval)
        self.config = config
        self.wiring = Wiring.of(interval.model) if config.stability_weight > 0.0 else None

    def __call__(self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float) -> LossTerms:
        """One natural pass and one interval pass, together."""
        if epsilon == 0.0:
            return natural_terms(self.logits(x_BCHW), y_B)
        lower, upper = ball(x_BCHW, epsilon)
        result = self.interval.margins(x_BCHW, y_B, lower, upper)
        kappa = mix(self.config.kappa_start, self.config.kappa, progress)
        terms = worst_case_terms(result, self.certified(result, y_B, progress), y_B, kappa)
        return replace(terms, total=terms.total + self._penalty(result, progress))

    def passes(self, epsilon: float, progress: float) -> int:
        """One for the logits, two more for the centre and the radius of interval bounds."""
        return 1 if epsilon == 0.0 else 3

    def certified(self, result: IntervalResult, y_B: Tensor, progress: float) -> Tensor:
        """Cross-entropy in the worst case, mean over the batch; tighter losses replace this."""
        return worst_case(result.margins_BK, y_B)

    def _penalty(self, result: IntervalResult, progress: float) -> Tensor | float:
        """What is added to the loss; a term of weight 0 is not computed."""
        penalty: Tensor | float = 0.0
        warmup_weight = self.config.warmup_regularizer * (1.0 - progress)
        if warmup_weight > 0.0:
            penalty = warmup_weight * warmup_penalty(result)
        if self.wiring is not None:
            gains = relu_gains(self.model, self.wiring)
            penalty = penalty + self.config.stability_weight * nrs_penalty(result, gains)
        return penalty
