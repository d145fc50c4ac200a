"""The seam behind which every topology method lives: signals in, masks out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

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

    A method declares what it reads in `inputs` and `init_inputs`; the loop computes only that.
    """

    weights: Tensors
    gradients: Tensors | None = None
    certified_gradients: Tensors | None = None

    def __getitem__(self, name: str) -> Tensors:
        """The signal called `name`; reading one that was not supplied is a programming error."""
        value: Tensors | None = getattr(self, name)
        assert value is not None, (
            f"the signal {name!r} was read but not supplied: add it to the method's `inputs` "
            "(updates) or `init_inputs` (initial masks), and compute it in the training loop"
        )
        return value


class TopologyMethod(ABC):
    """Decides which weights exist, and when that changes.

    A method is pure: what it returns depends on its constructor's arguments (config, shapes,
    total_steps), on the arguments of the call and on the generator's state, and on nothing else.
    It keeps no counters and changes no tensor that it is given. Steps count from 1 to total_steps.
    """

    inputs: frozenset[str] = frozenset()
    """Names of the signals that `update_masks` reads."""
    init_inputs: frozenset[str] = frozenset({"weights"})
    """Names of the signals that `init_masks` reads."""

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
        """New masks from those in force, at a step for which `is_update_step` holds."""

    @abstractmethod
    def planned_total(self, step: int) -> int:
        """Exact number of weights kept after `step` (0: after `init_masks`)."""

    def planned_counts(self, step: int) -> dict[str, int] | None:
        """The same by layer, or None when a ranking across layers decides who gets how many."""
        return None

    def check_start(self, masks: Masks) -> None:
        """Raise TopologyError unless training can start from these given masks (a ticket's)."""
        num_given = sum(int(mask.sum()) for mask in masks.values())
        num_planned = self.planned_total(0)
        if num_given != num_planned:
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
