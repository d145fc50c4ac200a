"""The seam behind which every topology method lives: signals in, masks out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.errors import TopologyError
from trainers.topology.masks import Masks

Tensors = Mapping[str, Tensor]
"""One tensor per prunable weight, by parameter name; each has its weight's shape."""
Shapes = Mapping[str, torch.Size]
"""The shape of each prunable weight, by parameter name, in the order of the network."""


@dataclass(frozen=True)
class Signals:
    """What a method may look at, as it stands before the masks change.

    weights: current values; pruned ones are exactly zero.
    gradients: of the training loss (before the first step: of the natural loss), dense, that is
        with respect to pruned weights too.
    certified_gradients: of the certified loss alone, dense.
    adversarial_gradients: of the cross-entropy at adversarial inputs, dense.
    momenta: exponential mean of `gradients` over the steps so far.
    cosines: |cos| between the activation that a weight reads and that of its unit.
    hessian_gradients, certified_hessian_gradients: Hessian times gradient, of the natural and of
        the certified loss.
    instability: NRS of the units of each layer, (n_out,), in [-1, 1]; -1 is stable.
    gains: |scale of batch normalisation| of the units of each layer, (n_out,); 1 without one.
    synaptic_flow: masks -> |w * dR/dw| of the network under them.
    longest_stall: most epochs in a row, so far, without a better validation accuracy.
    variables: what the method trains beside the weights, by names of its own.

    A method declares what it reads in `inputs` and `init_inputs`; the loop computes only that.
    """

    weights: Tensors
    gradients: Tensors | None = None
    certified_gradients: Tensors | None = None
    adversarial_gradients: Tensors | None = None
    momenta: Tensors | None = None
    cosines: Tensors | None = None
    hessian_gradients: Tensors | None = None
    certified_hessian_gradients: Tensors | None = None
    instability: Tensors | None = None
    gains: Tensors | None = None
    synaptic_flow: Callable[[Masks], Tensors] | None = None
    longest_stall: int | None = None
    variables: Tensors | None = None

    def __getitem__(self, name: str) -> Any:
        """The signal called `name`; reading one that was not supplied is a programming error."""
        value = getattr(self, name)
        assert value is not None, (
            f"the signal {name!r} was read but not supplied: add it to the method's `inputs` "
            "(updates) or `init_inputs` (initial masks), and compute it in trainers/signals.py"
        )
        return value


@dataclass(frozen=True)
class Phase:
    """What is special about a step; the default is training of the kept weights by the loss.

    relaxed: every weight is multiplied by one of the method's `gates`, pruned ones included, which
        keep their values; masks in force are those of `update_masks`, at the end of each step.
    frozen: the network's parameters do not move, only the method's variables.
    attack_steps: above 0, the loss is the cross-entropy at adversarial inputs of so many steps.
    distillation: weight of the distance to the dense twin's outputs.
    keeps_twin: the network as it is before this update is kept as the dense twin.
    resets_optimizer: this update forgets the optimizer's state, of survivors too.
    """

    relaxed: bool = False
    frozen: bool = False
    attack_steps: int = 0
    distillation: float = 0.0
    keeps_twin: bool = False
    resets_optimizer: bool = False


ORDINARY = Phase()


class TopologyMethod(ABC):
    """Decides which weights exist, and when that changes.

    A method is pure: what it returns depends on its constructor's arguments (config, layout,
    total_steps), on the arguments of the call and on the generator's state, and on nothing else.
    It keeps no counters and changes no tensor that it is given. Steps count from 1 to total_steps.
    """

    inputs: frozenset[str] = frozenset()
    """Names of the signals that `update_masks` reads."""
    init_inputs: frozenset[str] = frozenset({"weights"})
    """Names of the signals that `init_masks` reads."""
    grain: int = 1
    """Weights of the largest group that is kept or pruned as a whole; 1: counts are exact."""
    by_unit: bool = False
    """Whether whole units are kept or pruned, with their biases and batch normalisation."""

    @abstractmethod
    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """The masks before the first step, on the device of the weights."""

    @abstractmethod
    def is_update_step(self, step: int) -> bool:
        """Whether the masks change at `step`, in place of the optimizer's step.

        Never true at the last step: weights that grow there would stay zero for ever.
        """

    @abstractmethod
    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """New masks from those in force, at an update step or after a relaxed one."""

    @abstractmethod
    def planned_total(self, step: int) -> int:
        """Number of weights kept after `step` (0: after `init_masks`).

        Exact when `grain` is 1; else fewer than `grain` weights may be missing from it, because
        the next group would not fit.
        """

    def planned_counts(self, step: int) -> dict[str, int] | None:
        """The same by layer, or None when a ranking across layers decides who gets how many."""
        return None

    def final_counts(
        self, counts: Mapping[str, int], step: int, last_step: int
    ) -> Mapping[str, float]:
        """Weights that each layer will keep after `last_step`, from those that it keeps at `step`.

        `counts` themselves when no more is planned to change. Where a ranking across layers decides
        who gets how many, an estimate: all layers shrink by the same factor.
        """
        now, final = self.planned_total(step), self.planned_total(last_step)
        by_layer = self.planned_counts(last_step)
        if now == final and self.planned_counts(step) == by_layer:
            return counts
        if by_layer is not None:
            return by_layer
        return {name: count * final / now for name, count in counts.items()}

    def phase(self, step: int) -> Phase:
        """What is special about `step`."""
        return ORDINARY

    def init_variables(self, weights: Tensors) -> dict[str, Tensor]:
        """What the method trains beside the weights; none by default."""
        return {}

    def build_optimizer(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of the variables."""
        raise AssertionError(f"{type(self).__name__} has variables but no optimizer for them")

    def variable_lr(self, step: int) -> float | None:
        """The learning rate of the variables at `step`; None leaves it as built."""
        return None

    def gates(self, step: int, signals: Signals, generator: torch.Generator) -> Tensors:
        """At a relaxed step, what each weight is multiplied by; differentiable in the variables."""
        raise AssertionError(f"{type(self).__name__} has no gates, but step {step} is relaxed")

    def penalty(self, step: int, signals: Signals) -> Tensor | None:
        """What is added to the loss at `step`: weights, gains and variables are differentiable."""
        return None

    def check_start(self, masks: Masks) -> None:
        """Raise TopologyError unless training can start from these given masks (a ticket's)."""
        num_given = sum(int(mask.sum()) for mask in masks.values())
        num_planned = self.planned_total(0)
        if not num_planned - self.grain < num_given <= num_planned:
            num_weights = sum(mask.numel() for mask in masks.values())
            raise TopologyError(
                f"the given masks keep {num_given} of {num_weights} weights, but the topology "
                f"config plans to start with {num_planned}: to train a ticket again with its masks "
                f"fixed, use method: static with density: {num_given / num_weights!r}"
            )


class FixedTopology(TopologyMethod):
    """A method that chooses masks once; they never change."""

    def is_update_step(self, step: int) -> bool:
        """Never."""
        return False

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """Not to be called: there is no update step."""
        raise AssertionError(f"{type(self).__name__} has no update step, but step {step} was asked")
