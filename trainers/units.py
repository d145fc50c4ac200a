"""What belongs to a unit beside its weights, and how units that were off come back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.topology.masks import Masks
from trainers.wiring import UnitGroup


class UnitState:
    """Biases and norms of the units of a network; units that are off and being woken.

    A unit is off when it has no incoming weight. Its bias and its batch normalisation's scale and
    shift are then zero, so that it hands on exactly zero and can be cut out of the network.
    """

    def __init__(
        self,
        groups: tuple[UnitGroup, ...],
        weights: Mapping[str, nn.Parameter],
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        self.groups, self.weights = groups, weights
        self.vectors = {g.name: [parameters[name] for name in g.vectors] for g in groups}
        # Of one-dimensional parameters, batch normalisation's scale alone is called weight.
        self.rest_values = {
            parameters[name]: 1.0 if name.endswith("weight") else 0.0
            for group in groups
            for name in group.vectors
        }
        self._woken: Masks = {}

    @property
    def all_vectors(self) -> list[nn.Parameter]:
        """Biases and norms of all units."""
        return [vector for vectors in self.vectors.values() for vector in vectors]

    def on(self, group: UnitGroup, masks: Mapping[str, Tensor]) -> Tensor:
        """Which units have an incoming weight."""
        return masks[group.producers[0]].flatten(1).any(1)

    def pruned_vectors(self, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
        """Vectors with a unit that is off, each with what to multiply it by."""
        return [(vector, on) for vector, on in self.kept_vectors(masks) if not bool(on.all())]

    def kept_vectors(self, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
        """All vectors, each with what to multiply it by."""
        return [
            (vector, self.on(group, masks).to(vector.dtype))
            for group in self.groups
            for vector in self.vectors[group.name]
        ]

    @torch.no_grad()
    def wake(self, masks: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Give units that are off random incoming weights, so that gradients see them.

        Drawn from N(0, s^2), with s the root mean square of the layer's kept weights. Outgoing
        weights stay zero: what the network computes does not change.
        """
        for group in self.groups:
            off = ~self.on(group, masks)
            if not bool(off.any()):
                continue
            for name in group.producers:
                weight, mask = self.weights[name], masks[name]
                alive = mask.flatten(2).any(2).any(0) if mask.ndim > 2 else mask.any(0)
                shape = (1, -1, *[1] * (mask.ndim - 2))
                woken = off.view(-1, *[1] * (mask.ndim - 1)) & alive.view(shape)
                scale = weight[mask].square().mean().sqrt()
                noise = torch.randn(mask.shape, generator=generator, device=generator.device)
                weight.copy_(torch.where(woken, noise.to(weight) * scale, weight))
                self._woken[name] = woken.expand(mask.shape)
            for vector in self.vectors[group.name]:
                vector.masked_fill_(off, self.rest_values[vector])

    def take_woken(self, masks: Mapping[str, Tensor]) -> Masks:
        """Which weights woken since the last call have grown: their values stay."""
        woken, self._woken = self._woken, {}
        return {n: (w & masks[n]).to(self.weights[n].dtype) for n, w in woken.items()}
