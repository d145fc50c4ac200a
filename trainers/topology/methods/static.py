"""Static: a random mask, never changed."""

from __future__ import annotations

import torch

from spaces.topology import StaticConfig
from trainers.topology.base import FixedTopology, Shapes, Signals
from trainers.topology.distributions import layer_counts
from trainers.topology.masks import Masks, random_masks


class Static(FixedTopology):
    """Random masks with the layer counts of the config's distribution."""

    def __init__(self, config: StaticConfig, shapes: Shapes, total_steps: int) -> None:
        self.counts = layer_counts(config.density, config.distribution, shapes)

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """Uniformly random places within each layer."""
        return random_masks(self.counts, signals["weights"], generator)

    def planned_total(self, step: int) -> int:
        """round(density * total)."""
        return sum(self.counts.values())

    def planned_counts(self, step: int) -> dict[str, int]:
        """The same at every step."""
        return dict(self.counts)
