"""Interval bound propagation as a loss."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from spaces.training import CertifiedLossConfig
from trainers.bounds import IntervalPass, IntervalResult, ball
from trainers.losses.base import Loss, LossTerms, all_positive, mix, mixed_terms, natural_terms
from trainers.losses.regularizer import warmup_penalty
from trainers.models.modes import preserved_buffers


class IbpLoss(Loss):
    """kappa * natural + (1 - kappa) * worst case by intervals (Gowal et al. 2018, eq. 13).

    kappa goes from kappa_start to kappa as epsilon grows. While it grows, the terms of Shi et al.
    (2021) keep bounds tight and ReLUs balanced; `stability_weight` times the normalised ReLU
    stability is added throughout (Li et al. 2022). While epsilon is 0, before the ramp, a step is a
    natural one, whose bounds have no width to regularise.

    Losses that are built on intervals replace the box that is propagated, the margins, or what is
    made of them.
    """

    def __init__(self, interval: IntervalPass, config: CertifiedLossConfig) -> None:
        super().__init__(interval, config)
        self.config = config

    def __call__(self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float) -> LossTerms:
        """One natural pass and one interval pass, together."""
        if epsilon == 0.0:
            return natural_terms(self.logits(x_BCHW), y_B)
        lower, upper = self.box(x_BCHW, y_B, epsilon, progress)
        result = self.interval.margins(x_BCHW, y_B, lower, upper, relu_shrink=self.relu_shrink)
        margins_BK = self.margins(result, x_BCHW, y_B, epsilon, progress)
        certified = self.certified(margins_BK, result, x_BCHW, y_B, epsilon, progress)
        kappa = mix(self.config.kappa_start, self.config.kappa, progress)
        certified_B = all_positive(margins_BK, y_B)
        terms = mixed_terms(result.logits_BK, y_B, certified, certified_B, kappa)
        penalty = self._penalty(result, x_BCHW, y_B, epsilon, progress)
        return replace(terms, total=terms.total + penalty)

    def passes(self, epsilon: float, progress: float) -> int:
        """One for the logits, two more for the centre and the radius of interval bounds.

        Three more where stability cannot be told from the same bounds.
        """
        if epsilon == 0.0:
            return 1
        return 3 if self.wiring is None or self._sees_ball(progress) else 6

    @property
    def relu_shrink(self) -> float:
        """Factor on the radius behind each ReLU."""
        return 1.0

    def box_share(self, progress: float) -> float:
        """Radius of the box that is propagated, over epsilon."""
        return 1.0

    def box(
        self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float
    ) -> tuple[Tensor, Tensor]:
        """(lower, upper) of the inputs that are propagated."""
        return ball(x_BCHW, epsilon)

    def margins(
        self, result: IntervalResult, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float
    ) -> Tensor:
        """The margins that are certified; tighter losses replace this."""
        return result.margins_BK

    def certified(
        self,
        margins_BK: Tensor,
        result: IntervalResult,
        x_BCHW: Tensor,
        y_B: Tensor,
        epsilon: float,
        progress: float,
    ) -> Tensor:
        """The worst case: a scalar; -margins are the worst-case logits.

        margins_BK[b, j] bounds logit[y_b] - logit[j] from below, and is 0 at j = y_b, so their
        cross-entropy is the largest that the logits in the box can have (Wong and Kolter 2018,
        thm. 2).
        """
        return F.cross_entropy(-margins_BK, y_B)

    def _sees_ball(self, progress: float) -> bool:
        return self.box_share(progress) == 1.0 and self.relu_shrink == 1.0

    def _penalty(
        self, result: IntervalResult, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float
    ) -> Tensor | float:
        """What is added to the loss; a term of weight 0 is not computed."""
        penalty: Tensor | float = 0.0
        warmup_weight = self.config.warmup_regularizer * (1.0 - progress)
        if warmup_weight > 0.0:
            penalty = warmup_weight * warmup_penalty(result)
        if self.wiring is None:
            return penalty
        if not self._sees_ball(progress):
            with preserved_buffers(self.model):
                result = self.interval.margins(x_BCHW, y_B, *ball(x_BCHW, epsilon))
        return penalty + self.stability(result)
