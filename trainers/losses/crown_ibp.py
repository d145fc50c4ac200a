"""CROWN-IBP as a loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.training import CrownIbpLossConfig
from trainers.bounds import IntervalPass, IntervalResult
from trainers.bounds.backward import BackwardBounds
from trainers.bounds.crown import backward_margins
from trainers.losses.base import mix
from trainers.losses.ibp import IbpLoss
from trainers.models.modes import evaluating


class CrownIbpLoss(IbpLoss):
    """IBP whose bounds are beta * CROWN-IBP + (1 - beta) * IBP (Zhang et al. 2020, eq. 9).

    beta goes from 1 to beta_end as epsilon grows; at 0 only intervals are propagated. With fusion
    the bound is on the cross-entropy itself (Xu et al. 2020, section 3.4), else on the margins.
    """

    config: CrownIbpLossConfig

    def __init__(
        self, interval: IntervalPass, config: CrownIbpLossConfig, x_example: Tensor
    ) -> None:
        super().__init__(interval, config)
        with evaluating(self.model), torch.no_grad():
            self.num_classes = self.model(x_example).shape[1]

    def passes(self, epsilon: float, progress: float) -> int:
        """While beta is not 0, one backward pass too, or one for each class."""
        intervals = super().passes(epsilon, progress)
        if epsilon == 0.0 or self._beta(progress) == 0.0:
            return intervals
        return intervals + (1 if self.config.fusion else self.num_classes - 1)

    def margins(
        self, result: IntervalResult, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float
    ) -> Tensor:
        """A mix of two lower bounds, which is a lower bound; with fusion, those by intervals."""
        beta = self._beta(progress)
        if beta == 0.0 or self.config.fusion:
            return result.margins_BK
        backward_BK = backward_margins(self.interval, result.values, y_B, result.logits_BK)
        return beta * backward_BK + (1.0 - beta) * result.margins_BK

    def certified(
        self,
        margins_BK: Tensor,
        result: IntervalResult,
        x_BCHW: Tensor,
        y_B: Tensor,
        epsilon: float,
        progress: float,
    ) -> Tensor:
        """Cross-entropy in the worst case, mean over the batch."""
        beta = self._beta(progress)
        if beta > 0.0 and self.config.fusion:
            return self._fused(result, y_B, beta).mean()
        return super().certified(margins_BK, result, x_BCHW, y_B, epsilon, progress)

    def _beta(self, progress: float) -> float:
        return mix(1.0, self.config.beta_end, progress)

    def _fused(self, result: IntervalResult, y_B: Tensor, beta: float) -> Tensor:
        """Upper bounds (B,) on the cross-entropy over the box.

        It is log(1 + sum of exp(d_j)) with d_j = logit[j] - logit[y] for j other than y. Each
        exp(d_j) lies below its chord over the interval that d_j is known to be in, so that the sum
        lies below one linear function of the logits. All is divided by exp(shift) against overflow;
        the sum is at least the 1, so that rounding cannot make it negative.
        """
        others = F.one_hot(y_B, result.margins_BK.shape[1]) == 0
        upper_BK = -result.margins_BK
        shift_B1 = upper_BK.detach().amax(1, keepdim=True).clamp(min=0.0)
        top_BK = (upper_BK - shift_B1).exp() * others
        slope_BK = top_BK * _chord(2.0 * result.widths_BK)
        own_BK = torch.zeros_like(slope_BK).scatter(1, y_B[:, None], slope_BK.sum(1, keepdim=True))
        bounds = BackwardBounds(self.interval, result.values)
        linear_B = -bounds.lower(self.interval.program.output, own_BK - slope_BK)
        intercept_B = (top_BK - slope_BK * upper_BK).sum(1)
        one_B = (-shift_B1).exp().squeeze(1)
        chords_B = (linear_B + intercept_B).clamp(min=0.0)
        return shift_B1.squeeze(1) + (one_B + beta * chords_B + (1.0 - beta) * top_BK.sum(1)).log()


def _chord(width: Tensor) -> Tensor:
    """(exp(u) - exp(l)) / (u - l) / exp(u), from the width u - l >= 0."""
    wide = width > 1e-2
    safe = width.where(wide, 1.0)
    # Where the quotient would be lost in rounding, its series.
    return torch.where(wide, -torch.expm1(-safe) / safe, 1.0 - width / 2.0 + width.square() / 6.0)
