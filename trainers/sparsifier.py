"""The only code that writes masks into weights and optimizer state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.errors import TopologyError
from trainers.relaxation import Relaxation
from trainers.topology.base import Signals, TopologyMethod
from trainers.topology.masks import Masks, count_ones
from trainers.units import UnitState

MOMENTUM = 0.9
"""Of the mean of gradients that the criterion `momentum` ranks by (Dettmers and Zettlemoyer)."""


class Sparsifier:
    """Keeps a network at the masks that a topology method chooses.

    Pruned weights, their gradients and their optimizer state are exactly zero: weights stay plain
    parameters that hold real zeros. An iteration is `before_step`, the backward pass, and then
    either `update`, or `mask_gradients`, clipping, `optimizer.step()` and `after_step`. In relaxed
    phases of a method the weights are gated instead; `settle` then makes the network what its
    masks say, and may be called after any iteration. `units` is for methods that prune whole units,
    whose biases and norms are masked with them; other parameters are left alone.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        method: TopologyMethod,
        generator: torch.Generator,
        units: UnitState | None = None,
    ) -> None:
        self.weights = dict(weights)
        self.optimizer = optimizer
        self.method = method
        self.generator = generator
        self.units = units if method.by_unit else None
        self.masks: Masks = {}
        self.counts: dict[str, int] = {}
        self.momenta: dict[str, Tensor] = {}
        self.variables: dict[str, Tensor] = {}
        self.variable_optimizer: torch.optim.Optimizer | None = None
        vectors = [] if self.units is None else self.units.all_vectors
        self.relaxation = Relaxation(self.weights, method, self.variables, generator, vectors)
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
        detached = {name: weight.detach() for name, weight in self.weights.items()}
        if "momenta" in self.method.inputs:
            self.momenta = {name: torch.zeros_like(w) for name, w in detached.items()}
        self.variables.update(self.method.init_variables(detached))
        if self.variables:
            leaves = [v.requires_grad_(True) for v in self.variables.values()]
            self.variable_optimizer = self.method.build_optimizer(leaves)

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Before the forward pass: apply gates, end a relaxed phase, or wake units."""
        if self.variable_optimizer is not None:
            self.variable_optimizer.zero_grad(set_to_none=True)
        if self.method.phase(step).relaxed:
            self.relaxation.apply(step)
            return
        if self.relaxation.values is not None:
            self.settle()
            self.relaxation.end()
            self._keep_only(self.masks)
        if self.units is not None and self.method.is_update_step(step):
            self.units.wake(self.masks, self.generator)

    def kept_weights(self) -> dict[str, Tensor]:
        """The weights, without what was written for units that are woken."""
        detached = {name: weight.detach() for name, weight in self.weights.items()}
        if self.units is None:
            return detached
        return {name: weight * self.masks[name] for name, weight in detached.items()}

    @property
    def counts_in_use(self) -> dict[str, int]:
        """Weights by layer that took part in the last forward pass."""
        relaxed = self.relaxation.values is not None
        return self.relaxation.counts if relaxed else self.counts

    @torch.no_grad()
    def mask_gradients(self, step: int) -> None:
        """Zero the gradients of pruned weights; before clipping, so that they do not count."""
        self._observe_gradients()
        if self.relaxation.values is not None:
            with torch.enable_grad():
                self.relaxation.pull_back()
        else:
            pairs = [(w.grad, mask) for w, mask in self._pruned if w.grad is not None]
            if pairs:
                torch._foreach_mul_([grad for grad, _ in pairs], [mask for _, mask in pairs])
        if self.method.phase(step).frozen:
            self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the method's variables; pruned weights need nothing.

        With value, gradient and momenta zero, no optimizer on offer moves a weight.
        """
        if self.relaxation.values is not None:
            self.relaxation.store()
        if self.variable_optimizer is not None:
            rate = self.method.variable_lr(step)
            for group in self.variable_optimizer.param_groups:
                group["lr"] = group["lr"] if rate is None else rate
            self.variable_optimizer.step()

    @torch.no_grad()
    def update(self, step: int, signals: Signals) -> bool:
        """At an update step of the method change the masks and return True: skip optimizer.step().

        Weights that were kept before and are kept now, those that were dropped and grown again in
        this very update included, keep value and optimizer state (as in RigL). All others become
        zero in both, so grown weights start at zero with zero momenta. Only grown units start with
        the incoming weights that they were woken with; as their outgoing weights are zero, growth
        does not change what the network computes.
        """
        if not self.method.is_update_step(step):
            return False
        self._observe_gradients()
        before = self.masks
        self._set_masks(self.method.update_masks(step, before, signals, self.generator))
        survivors = {name: before[name] & mask for name, mask in self.masks.items()}
        if self.method.phase(step).resets_optimizer:
            self.optimizer.state.clear()  # step counts too, which Adam divides its means by
        self._keep_only(survivors)
        return True

    @torch.no_grad()
    def settle(self) -> None:
        """Make the parameters what the masks say, in the middle of a relaxed phase too."""
        if self.relaxation.values is None:
            return
        signals = self.relaxation.signals
        self._set_masks(self.method.update_masks(0, self.masks, signals, self.generator))
        vectors = [] if self.units is None else self.units.pruned_vectors(self.masks)
        self.relaxation.rest(self.masks, vectors)

    def prune_again(self) -> None:
        """Zero pruned weights, after somebody else has written into the network."""
        with torch.no_grad():
            for weight, mask in self._pruned:
                weight.mul_(mask).add_(0.0)  # no -0.0

    def finish(self) -> None:
        """After the last step, and `settle`: what has been written since is masked, and stays."""
        self.relaxation.end()
        self.prune_again()

    def state_dict(self) -> dict[str, Any]:
        """Masks, what is trained beside the weights, and the generator's state."""
        optimizer = self.variable_optimizer
        return {
            "masks": dict(self.masks),
            "momenta": dict(self.momenta),
            "variables": {name: v.detach() for name, v in self.variables.items()},
            "variable_optimizer": None if optimizer is None else optimizer.state_dict(),
            "relaxation": self.relaxation.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all that `state_dict` has; weights and optimizer are restored by their owner."""
        self._check_fit(state["masks"])
        self._set_masks(state["masks"])
        self.momenta = {
            name: value.to(self.weights[name].device, copy=True)
            for name, value in state["momenta"].items()
        }
        with torch.no_grad():
            for name, value in state["variables"].items():
                self.variables[name].copy_(value)
        if self.variable_optimizer is not None:
            # An optimizer goes on writing into the tensors that it is given.
            self.variable_optimizer.load_state_dict(copy.deepcopy(state["variable_optimizer"]))
        self.relaxation.load_state_dict(state["relaxation"])
        self.generator.set_state(state["generator"].cpu())

    def _observe_gradients(self) -> None:
        for name, mean in self.momenta.items():
            gradient = self.weights[name].grad
            assert gradient is not None, f"{name} took no part in the loss"
            mean.mul_(MOMENTUM).add_(gradient, alpha=1.0 - MOMENTUM)

    def _set_masks(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = {name: masks[name].to(weight.device) for name, weight in self.weights.items()}
        self.counts = count_ones(self.masks)
        # Multiplying by float masks is far faster than by bool ones; full layers need none.
        self._pruned = [
            (weight, self.masks[name].to(weight.dtype))
            for name, weight in self.weights.items()
            if self.counts[name] < weight.numel()
        ]
        if self.units is not None:
            self._pruned += self.units.pruned_vectors(self.masks)

    def _keep_only(self, survivors: Masks) -> None:
        woken = {} if self.units is None else self.units.take_woken(self.masks)
        for name, weight in self.weights.items():
            kept = survivors[name].to(weight.dtype)
            self._multiply(weight, torch.maximum(kept, woken.get(name, kept)), kept)
        if self.units is not None:
            for vector, on in self.units.kept_vectors(self.masks):
                self._multiply(vector, on, on)

    def _multiply(self, parameter: nn.Parameter, value: Tensor, state: Tensor) -> None:
        parameter.mul_(value).add_(0.0)  # adding turns -0.0 into 0.0
        for moment in self._moments(parameter):
            moment.mul_(state).add_(0.0)

    def _moments(self, parameter: nn.Parameter) -> list[Tensor]:
        state = self.optimizer.state.get(parameter, {}).values()
        return [v for v in state if isinstance(v, Tensor) and v.shape == parameter.shape]

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
