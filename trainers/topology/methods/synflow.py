"""SynFlow: pruning without data by iterative conservation of synaptic flow."""

from __future__ import annotations

import torch

from spaces.topology import SynFlowConfig
from trainers.topology.base import Shapes, Signals
from trainers.topology.masks import Masks, full_masks
from trainers.topology.methods.one_shot import OneShot


class SynFlow(OneShot):
    """Keeps the weights with the largest |w * dR/dw|, R = 1^T prod |W| 1 (Tanaka et al. 2020).

    Algorithm 1: in round k of n the density is density^(k / n), and scores are those of the network
    that the round before has left, which keeps whole layers from being cut off.
    """

    init_inputs = frozenset({"weights", "synaptic_flow"})

    def __init__(self, config: SynFlowConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        self.rounds = config.rounds

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """Round by round; uses no randomness."""
        masks = full_masks(signals["weights"])
        for k in range(1, self.rounds + 1):
            scores = signals["synaptic_flow"](masks)
            density = max(self.density, self.density ** (k / self.rounds))
            masks = self.selection.select(scores, density, within=masks)
        return masks
