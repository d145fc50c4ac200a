"""What methods that start from the dense network have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch

from spaces.sparsity import RankedConfig
from trainers.topology.base import ORDINARY, Phase, Shapes, Signals, TopologyMethod
from trainers.topology.masks import Masks, full_masks
from trainers.topology.selection import Selection


class DenseStart(TopologyMethod):
    """All weights at first; `density_after(step)` says what is left of them."""

    def __init__(self, config: RankedConfig, shapes: Shapes) -> None:
        self.selection = Selection(config, shapes)
        self.density, self.grain = config.density, self.selection.grain
        self.by_unit = self.selection.by_unit
        self.num_weights = self.selection.layout.num_weights

    @abstractmethod
    def density_after(self, step: int) -> float:
        """The density after `step`; 1 is dense."""

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """All ones."""
        return full_masks(signals["weights"])

    def planned_total(self, step: int) -> int:
        """What `density_after` allows."""
        density = self.density_after(step)
        return self.num_weights if density == 1.0 else self.selection.total(density)

    def planned_counts(self, step: int) -> dict[str, int] | None:
        """By layer, once it is known; None when all layers are ranked together."""
        density = self.density_after(step)
        if density == 1.0:
            return {name: shape.numel() for name, shape in self.selection.layout.items()}
        return self.selection.counts(density)


class OneCut(DenseStart):
    """Dense up to one step, `cut`; sparse from then on."""

    def __init__(
        self, config: RankedConfig, shapes: Shapes, share: float, total_steps: int
    ) -> None:
        super().__init__(config, shapes)
        self.cut = step_at(share, total_steps)

    def density_after(self, step: int) -> float:
        """1 before the cut."""
        return self.density if step >= self.cut else 1.0

    def is_update_step(self, step: int) -> bool:
        """The cut alone."""
        return step == self.cut


class Relaxed(DenseStart):
    """Gates every weight from the step after `start` up to `end`; sparse from then on.

    `start` may be 0, and `gated` is the phase of the relaxed steps.
    """

    start: int
    end: int
    gated: Phase = Phase(relaxed=True)

    def density_after(self, step: int) -> float:
        """Sparse from the first relaxed step on."""
        return self.density if step > self.start else 1.0

    def is_update_step(self, step: int) -> bool:
        """Never: masks change at relaxed steps."""
        return False

    def phase(self, step: int) -> Phase:
        """Ordinary before the relaxed steps and after them."""
        return self.gated if self.start < step <= self.end else ORDINARY


def step_at(share: float, total_steps: int, *, first: int = 1) -> int:
    """The step at a share of training, neither before `first` nor at the last one."""
    return max(min(round(share * total_steps), total_steps - 1), first)
