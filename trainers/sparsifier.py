"""The only code that writes masks into weights and optimizer state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.errors import TopologyError
from trainers.topology.base import Signals, TopologyMethod
from trainers.topology.masks import Masks, count_ones


class Sparsifier:
    """Keeps a network at the masks that a topology method chooses.

    Pruned weights, their gradients and their optimizer state are exactly zero: weights stay plain
    parameters that hold real zeros. After `loss.backward()` an iteration is either `update`, or
    `mask_gradients`, clipping, `optimizer.step()` and `after_step`. Other parameters are
    left alone.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        method: TopologyMethod,
        generator: torch.Generator,
    ) -> None:
        self.weights = dict(weights)
        self.optimizer = optimizer
        self.method = method
        self.generator = generator
        self.masks: Masks = {}
        self.counts: dict[str, int] = {}
        self._pruned: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def start(
        self, signals: Signals | None = None, *, masks: Mapping[str, Tensor] | None = None
    ) -> None:
        """Prune, by masks that the method chooses from `signals`, or by given ones (a ticket's).

        Raises TopologyError when given masks do not fit the weights or the method's plan.
        """
        assert (signals is None) != (masks is None), "give either signals or masks"
        if masks is None:
            assert signals is not None
            self._set_masks(self.method.init_masks(signals, self.generator))
        else:
            self._check_fit(masks)
            self.method.check_start(dict(masks))
            self._set_masks(masks)
        self._keep_only(self.masks)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights; before clipping, so that they do not count."""
        pairs = [(w.grad, mask) for w, mask in self._pruned if w.grad is not None]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [mask for _, mask in pairs])

    @torch.no_grad()
    def after_step(self) -> None:
        """Zero pruned weights again, whatever the optimizer did to them."""
        if self._pruned:
            torch._foreach_mul_([w for w, _ in self._pruned], [mask for _, mask in self._pruned])

    @torch.no_grad()
    def update(self, step: int, signals: Signals) -> bool:
        """At an update step of the method change the masks and return True: skip optimizer.step().

        Weights that were kept before and are kept now, those that were dropped and grown again in
        this very update included, keep value and optimizer state (as in RigL). All others become
        zero in both, so grown weights start at zero with zero momenta.
        """
        if not self.method.is_update_step(step):
            return False
        before = self.masks
        self._set_masks(self.method.update_masks(step, before, signals, self.generator))
        self._keep_only({name: before[name] & mask for name, mask in self.masks.items()})
        return True

    def state_dict(self) -> dict[str, Any]:
        """Masks and the generator's state; the method itself has none."""
        return {"masks": dict(self.masks), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore masks and generator; weights and optimizer are restored by their owner."""
        self._check_fit(state["masks"])
        self._set_masks(state["masks"])
        self.generator.set_state(state["generator"].cpu())

    def _set_masks(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = {name: masks[name].to(weight.device) for name, weight in self.weights.items()}
        self.counts = count_ones(self.masks)
        # Multiplying by float masks is far faster than by bool ones; full layers need none.
        self._pruned = [
            (weight, self.masks[name].to(weight.dtype))
            for name, weight in self.weights.items()
            if self.counts[name] < weight.numel()
        ]

    def _keep_only(self, survivors: Masks) -> None:
        for name, weight in self.weights.items():
            survives = survivors[name].to(weight.dtype)
            state = self.optimizer.state.get(weight, {}).values()
            moments = [v for v in state if isinstance(v, Tensor) and v.shape == weight.shape]
            for value in (weight, *moments):
                value.mul_(survives).add_(0.0)  # adding turns -0.0 into 0.0

    def _check_fit(self, masks: Mapping[str, Tensor]) -> None:
        if masks.keys() != self.weights.keys():
            raise TopologyError(
                f"the masks are for {sorted(masks)}, the model's prunable weights are "
                f"{sorted(self.weights)}: use masks of a model with the same architecture"
            )
        for name, weight in self.weights.items():
            mask = masks[name]
            if mask.shape != weight.shape or mask.dtype != torch.bool:
                raise TopologyError(
                    f"the mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}, but it must "
                    f"be torch.bool of shape {tuple(weight.shape)}: use masks of a model with the "
                    "same architecture"
                )
            if not mask.any():
                raise TopologyError(
                    f"the mask of {name} keeps no weight: nothing would flow through that layer; "
                    "keep at least one"
                )
