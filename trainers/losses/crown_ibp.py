"""CROWN-IBP as a loss."""

from __future__ import annotations

from torch import Tensor

from spaces.training import CrownIbpLossConfig
from trainers.bounds import IntervalPass, IntervalResult
from trainers.bounds.lirpa import LirpaBounds
from trainers.losses.base import mix
from trainers.losses.ibp import IbpLoss


class CrownIbpLoss(IbpLoss):
    """IBP whose margins are beta * CROWN-IBP + (1 - beta) * IBP (Zhang et al. 2020, eq. 9).

    beta goes from 1 to beta_end as epsilon grows; at 0 only intervals are propagated.
    """

    def __init__(
        self, interval: IntervalPass, config: CrownIbpLossConfig, x_example: Tensor
    ) -> None:
        super().__init__(interval, config)
        self.beta_end = config.beta_end
        self.lirpa = LirpaBounds(interval.model, x_example)

    def passes(self, epsilon: float, progress: float) -> int:
        """While beta is not 0, auto_LiRPA's own three too, and one backward per other class."""
        intervals = super().passes(epsilon, progress)
        if epsilon == 0.0 or mix(1.0, self.beta_end, progress) == 0.0:
            return intervals
        return intervals + 3 + self.lirpa.num_classes - 1

    def margins(
        self, result: IntervalResult, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float
    ) -> Tensor:
        """A mix of two lower bounds, which is a lower bound."""
        beta = mix(1.0, self.beta_end, progress)
        if beta == 0.0:
            return result.margins_BK
        crown_BK = self.lirpa.margins(x_BCHW, y_B, epsilon, "crown-ibp")
        return beta * crown_BK + (1.0 - beta) * result.margins_BK
