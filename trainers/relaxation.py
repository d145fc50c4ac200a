"""Weights that are multiplied by gates for a while, and keep their values underneath."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.topology.base import Signals, TopologyMethod
from trainers.topology.masks import Masks


class Relaxation:
    """The relaxed steps of a method: one after another, `apply`, `pull_back`, `store`.

    Between `apply` and `pull_back` the parameters hold value * gate, so that a loss and its
    gradients are those of the gated network. Between `pull_back` and `store` they hold values, for
    the optimizer. Between `rest` and the next `apply` they are masked. `values` is None outside
    relaxed phases; `vectors` are the biases and norms of units that are pruned as a whole.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        method: TopologyMethod,
        variables: Mapping[str, Tensor],
        generator: torch.Generator,
        vectors: Sequence[nn.Parameter] = (),
    ) -> None:
        self.weights, self.method = weights, method
        self.variables, self.generator = variables, generator
        self.values: dict[str, Tensor] | None = None
        self.vectors = list(vectors)
        self._resting: list[Tensor] = []
        self.counts: dict[str, int] = {}
        self._gates: Mapping[str, Tensor] = {}

    def apply(self, step: int) -> None:
        """Write value * gate into the parameters; `counts` tells how many gates are open."""
        if self.values is None:
            self.values = {name: weight.detach().clone() for name, weight in self.weights.items()}
        with torch.enable_grad():
            self._gates = self.method.gates(step, self.signals, self.generator)
        with torch.no_grad():
            for name, weight in self.weights.items():
                torch.mul(self.values[name], self._gates[name], out=weight.data)
            for vector, value in zip(self.vectors, self._resting, strict=False):
                vector.copy_(value)
        self._resting = []
        self.counts = {name: int(gate.count_nonzero()) for name, gate in self._gates.items()}

    @property
    def signals(self) -> Signals:
        """What gates and masks are made from."""
        assert self.values is not None
        return Signals(weights=self.values, variables=self.variables)

    def pull_back(self) -> None:
        """Turn gradients of the gated weights into those of values and variables."""
        assert self.values is not None
        learned, gradients = [], []
        for name, weight in self.weights.items():
            gate = self._gates[name]
            assert weight.grad is not None, f"{name} took no part in the loss"
            if gate.requires_grad:
                learned.append(gate)
                gradients.append(weight.grad * self.values[name])
            weight.grad.mul_(gate.detach())
            weight.data.copy_(self.values[name])
        if learned:
            torch.autograd.backward(learned, gradients)
        self._gates = {}

    @torch.no_grad()
    def rest(self, masks: Masks, pruned_vectors: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        """Mask the parameters until the next `apply`, vectors by the factors beside them."""
        assert self.values is not None
        for name, weight in self.weights.items():
            torch.mul(self.values[name], masks[name], out=weight.data)
        if not self._resting:
            self._resting = [vector.detach().clone() for vector in self.vectors]
        for vector, on in pruned_vectors:
            vector.mul_(on)

    def store(self) -> None:
        """Take over what the optimizer made of the values."""
        assert self.values is not None
        for name, weight in self.weights.items():
            self.values[name].copy_(weight.detach())

    def end(self) -> None:
        """What the parameters hold now is all that is left."""
        self.values, self._resting = None, []

    def state_dict(self) -> dict[str, Any]:
        """The values; variables belong to the Sparsifier."""
        return {
            "values": None if self.values is None else dict(self.values),
            "resting": list(self._resting),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore values."""
        values = state["values"]
        self.values = values and {
            name: value.to(self.weights[name].device, copy=True) for name, value in values.items()
        }
        self._resting = [
            value.to(vector.device, copy=True)
            for vector, value in zip(self.vectors, state["resting"], strict=False)
        ]
