"""SNIP: connection sensitivity at initialisation."""

from __future__ import annotations

import torch

from spaces.topology import SnipConfig
from trainers.topology.base import Shapes, Signals
from trainers.topology.masks import Masks
from trainers.topology.methods.one_shot import OneShot


class Snip(OneShot):
    """Keeps the weights with the largest |w * dL/dw| of the whole network (Lee et al. 2019, eq. 6).

    The paper divides the scores by their sum, which changes no rank. Unlike the paper's, these
    masks leave at least one weight in each layer, and biases are not pruned. With
    `saliency: certified` L is the certified loss.
    """

    def __init__(self, config: SnipConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        self.signal = "gradients" if config.saliency == "natural" else "certified_gradients"
        self.init_inputs = frozenset({"weights", self.signal})

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """The most sensitive weights; uses no randomness."""
        gradients = signals[self.signal]
        saliency = {n: (weight * gradients[n]).abs() for n, weight in signals["weights"].items()}
        return self.selection.select(saliency, self.density)
