"""Network slimming: channels whose batch-normalisation scale has been driven to zero are cut."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.topology import SlimmingConfig
from trainers.errors import TopologyError
from trainers.topology.base import Shapes, Signals
from trainers.topology.masks import Masks
from trainers.topology.methods.dense_start import OneCut


class Slimming(OneCut):
    """Adds penalty * |gains|_1 to the loss, then keeps the units with the largest |gain|.

    Liu et al. 2017, section 3: the subgradient is penalty * sign(gain), zero at zero. Ranked over
    the whole network (global) unless a distribution is given; unlike the paper's, no layer ends
    empty, and the budget is of weights, not of channels. Units without batch normalisation count
    as scale 1: they are kept for as long as others remain. `trainers.compaction.compact` makes the
    physically smaller network.
    """

    inputs = frozenset({"weights", "gains"})

    def __init__(self, config: SlimmingConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes, config.cut, total_steps)
        self.weight = config.penalty

    def penalty(self, step: int, signals: Signals) -> Tensor | None:
        """The l1 norm of the scales, up to the cut."""
        if step >= self.cut or self.weight == 0.0:
            return None
        gains = [gain.sum() for gain in signals["gains"].values() if gain.requires_grad]
        if not gains:
            raise TopologyError(
                "topology.method: slimming prunes by the scales of batch normalisation, and this "
                "network has none: set model.batch_norm: true"
            )
        return self.weight * torch.stack(gains).sum()

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """The units with the largest scales."""
        return self.selection.select(signals["gains"], self.density)
