"""What methods that choose their masks once, before training, have in common."""

from __future__ import annotations

from spaces.sparsity import SparseConfig
from trainers.topology.base import FixedTopology, Shapes
from trainers.topology.masks import Masks
from trainers.topology.selection import Selection


class OneShot(FixedTopology):
    """Masks of the config's density, chosen before the first step."""

    def __init__(self, config: SparseConfig, shapes: Shapes) -> None:
        self.selection = Selection(config, shapes)
        self.density, self.grain = config.density, self.selection.grain
        self.by_unit = self.selection.by_unit

    def check_start(self, masks: Masks) -> None:
        """Raise TopologyError unless the masks have the planned total and keep to the pattern."""
        super().check_start(masks)
        self.selection.check_pattern(masks)

    def planned_total(self, step: int) -> int:
        """round(density * total), less what the pattern cannot fill."""
        return self.selection.total(self.density)

    def planned_counts(self, step: int) -> dict[str, int] | None:
        """The same at every step; None when all layers are ranked together."""
        return self.selection.counts(self.density)
