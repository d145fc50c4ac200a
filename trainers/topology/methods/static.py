"""Static: a random mask, never changed."""

from __future__ import annotations

import torch

from spaces.topology import StaticConfig
from trainers.topology.base import Shapes, Signals
from trainers.topology.masks import Masks, random_scores
from trainers.topology.methods.one_shot import OneShot


class Static(OneShot):
    """Random masks with the layer counts of the config's distribution."""

    def __init__(self, config: StaticConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """Uniformly random places within each layer."""
        scores = {n: random_scores(w, generator) for n, w in signals["weights"].items()}
        return self.selection.select(scores, self.density)
