"""GraSP: gradient signal preservation at initialisation."""

from __future__ import annotations

import torch

from spaces.topology import GraspConfig
from trainers.topology.base import Shapes, Signals
from trainers.topology.masks import Masks
from trainers.topology.methods.one_shot import OneShot


class Grasp(OneShot):
    """Keeps the weights with the largest w * (H g) of the whole network (Wang et al. 2020, eq. 8).

    Removing a weight changes |g|^2 by about -2 w (H g), so these are the weights without which the
    gradient would shrink most. H g is a central difference of gradients, so that losses without
    second derivatives have one too. With `saliency: certified` the loss is the certified one.
    """

    def __init__(self, config: GraspConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        natural = config.saliency == "natural"
        self.signal = "hessian_gradients" if natural else "certified_hessian_gradients"
        self.init_inputs = frozenset({"weights", self.signal})

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """The weights that the gradient's norm needs most; uses no randomness."""
        products = signals[self.signal]
        scores = {name: weight * products[name] for name, weight in signals["weights"].items()}
        return self.selection.select(scores, self.density)
