"""Plain cross-entropy."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from trainers.bounds import ball
from trainers.losses.base import Loss, LossTerms, natural_terms


class NaturalLoss(Loss):
    """Cross-entropy of the logits; epsilon matters to the stability of ReLUs alone."""

    def __call__(self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float) -> LossTerms:
        """One pass, with intervals where stability is asked for; `certified` is `natural`."""
        if self.wiring is None or epsilon == 0.0:
            return natural_terms(self.logits(x_BCHW), y_B)
        result = self.interval.margins(x_BCHW, y_B, *ball(x_BCHW, epsilon))
        terms = natural_terms(result.logits_BK, y_B)
        return replace(terms, total=terms.total + self.stability(result))

    def passes(self, epsilon: float, progress: float) -> int:
        """One for the logits, two more for the centre and the radius of interval bounds."""
        return 1 if self.wiring is None or epsilon == 0.0 else 3
