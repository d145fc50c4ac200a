"""SNIP: connection sensitivity at initialisation."""

from __future__ import annotations

import torch

from spaces.topology import SnipConfig
from trainers.topology.base import FixedTopology, Shapes, Signals
from trainers.topology.distributions import weight_budget
from trainers.topology.masks import Masks, global_top_k


class Snip(FixedTopology):
    """Keeps the weights with the largest |w * dL/dw| of the whole network (Lee et al. 2019, eq. 6).

    The paper divides the scores by their sum, which changes no rank. Unlike the paper's, these
    masks leave at least one weight in each layer, and biases are not pruned. With
    `saliency: certified` L is the certified loss.
    """

    def __init__(self, config: SnipConfig, shapes: Shapes, total_steps: int) -> None:
        self.signal = "gradients" if config.saliency == "natural" else "certified_gradients"
        self.init_inputs = frozenset({"weights", self.signal})
        self.budget = weight_budget(config.density, shapes)

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """The exact global top k; uses no randomness."""
        gradients = signals[self.signal]
        saliency = {n: (weight * gradients[n]).abs() for n, weight in signals["weights"].items()}
        return global_top_k(saliency, self.budget)

    def planned_total(self, step: int) -> int:
        """round(density * total); how it is shared among layers depends on the gradients."""
        return self.budget
