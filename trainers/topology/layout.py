"""What a topology method knows of the network: shapes of weights, and units that hang together."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trainers.wiring import UnitGroup


class Layout(dict[str, torch.Size]):
    """The shape of each prunable weight, by name in the order of the network, and unit groups."""

    def __init__(
        self, shapes: Mapping[str, torch.Size], groups: tuple[UnitGroup, ...] = ()
    ) -> None:
        super().__init__(shapes)
        self.groups = groups

    @classmethod
    def of(cls, shapes: Mapping[str, torch.Size]) -> Layout:
        """The layout itself, or one without groups for plain shapes."""
        return shapes if isinstance(shapes, Layout) else cls(shapes)

    @property
    def num_weights(self) -> int:
        """Prunable weights of the whole network."""
        return sum(shape.numel() for shape in self.values())
