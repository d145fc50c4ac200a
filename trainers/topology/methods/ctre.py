"""CTRE: cosine similarity and random topology exploration."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.topology import CtreConfig
from trainers.topology.base import Shapes, Signals
from trainers.topology.criteria import GROW, item_scores
from trainers.topology.masks import random_scores
from trainers.topology.methods.drop_grow import DropGrow


class Ctre(DropGrow):
    """Drops by magnitude and grows where activations are alike (Atashgahi et al. 2022, sec. 3).

    sequential: by cosine similarity, and at random for good once validation accuracy has stalled
    for `patience` epochs. simultaneous: the best by similarity, but random new ones in the place of
    those among them that this very update dropped. Similarities are those of one batch, not of the
    whole training set, and grown weights start at zero, not at random.
    """

    def __init__(self, config: CtreConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes, total_steps)
        self.simultaneous = config.mode == "simultaneous"
        self.patience = config.patience
        if not self.simultaneous:
            self.inputs |= {"longest_stall"}

    @property
    def may_regrow(self) -> bool:
        """Only new weights are grown."""
        return False

    def growth_scores(self, signals: Signals, generator: torch.Generator) -> dict[str, Tensor]:
        """Cosines, or noise after a stall."""
        if self.simultaneous or signals["longest_stall"] < self.patience:
            return super().growth_scores(signals, generator)
        return item_scores(GROW["random"], signals, generator, self.pattern)

    def grown(
        self, kept: Tensor, active: Tensor, scores: Tensor, num: int, generator: torch.Generator
    ) -> Tensor:
        """simultaneous: those that were active in the best `num` give way to random new ones."""
        if not self.simultaneous:
            return super().grown(kept, active, scores, num, generator)
        best = self.pattern.grow(kept, scores, num, ~kept)
        new = best & (kept | ~active)
        missing = int(best.sum() - new.sum())
        return self.pattern.grow(new, random_scores(scores, generator), missing, ~active & ~new)
