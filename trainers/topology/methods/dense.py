"""Dense: every weight is kept."""

from __future__ import annotations

import torch

from spaces.topology import DenseConfig
from trainers.topology.base import FixedTopology, Shapes, Signals
from trainers.topology.masks import Masks, full_masks


class Dense(FixedTopology):
    """The null method: training with it is ordinary training."""

    def __init__(self, config: DenseConfig, shapes: Shapes, total_steps: int) -> None:
        self.shapes = shapes

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """All ones."""
        return full_masks(signals["weights"])

    def planned_total(self, step: int) -> int:
        """All weights."""
        return sum(self.planned_counts(step).values())

    def planned_counts(self, step: int) -> dict[str, int]:
        """All weights of each layer."""
        return {name: shape.numel() for name, shape in self.shapes.items()}
