"""Plain cross-entropy."""

from __future__ import annotations

from torch import Tensor

from trainers.losses.base import Loss, LossTerms, natural_terms


class NaturalLoss(Loss):
    """Cross-entropy of the logits; epsilon plays no part."""

    def __call__(self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float) -> LossTerms:
        """One pass; `certified` is the natural loss."""
        return natural_terms(self.logits(x_BCHW), y_B)
