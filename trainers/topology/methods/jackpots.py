"""Lottery jackpots: a mask is searched, the weights are left as they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spaces.topology import JackpotsConfig
from trainers.topology.base import Phase, Shapes, Signals, Tensors
from trainers.topology.masks import Masks
from trainers.topology.methods.dense_start import Relaxed, step_at


class Jackpots(Relaxed):
    """Learns one score per item around frozen weights (Zhang et al. 2021, arXiv:2104.08700).

    Each layer keeps as many items as the ranking by |w| gives it (globally, or by the config's
    distribution), and these are the ones with the largest scores; the gradient goes through the
    mask as if it were the score. Scores start at 1 for the largest |w| and at 0.99 for the others.
    Nothing but scores and running statistics changes after `search_start`. The paper's limit on
    swaps per step never binds in its code, and there is none here; its last layer stays dense, and
    is pruned like the others here. Weight decay pulls scores to where they started, not to zero.
    """

    inputs = frozenset({"weights", "variables"})
    gated = Phase(relaxed=True, frozen=True)

    def __init__(self, config: JackpotsConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        self.lr, self.end = config.mask_lr, total_steps
        self.start = step_at(config.search_start, total_steps, first=0)

    def init_variables(self, weights: Tensors) -> dict[str, Tensor]:
        """Scores of nothing yet: how far they have moved from where they start."""
        items = self.selection.pattern.scores(weights)
        return {name: torch.zeros_like(item) for name, item in items.items()}

    def build_optimizer(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        """SGD with momentum, as in the paper's code."""
        return torch.optim.SGD(variables, lr=self.lr, momentum=0.9, weight_decay=5e-4)

    def variable_lr(self, step: int) -> float:
        """Cosine over the search."""
        progress = (step - 1 - self.start) / (self.end - self.start)
        return self.lr / 2.0 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))

    def gates(self, step: int, signals: Signals, generator: torch.Generator) -> Tensors:
        """The mask, with the gradient of the scores."""
        kept = self._jackpot(signals)
        through = {
            name: kept[name].to(moved.dtype) + (moved - moved.detach())  # exactly 0 or 1
            for name, moved in signals["variables"].items()
        }
        return self.selection.pattern.gate(through)

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """The mask."""
        return self.selection.pattern.expand(self._jackpot(signals))

    def _jackpot(self, signals: Signals) -> Masks:
        magnitudes = {name: weight.abs() for name, weight in signals["weights"].items()}
        items = self.selection.pattern.scores(magnitudes)
        largest = self.selection.items(items, self.density)
        return {
            name: self.selection.pattern.top(_start(largest[name], moved), int(largest[name].sum()))
            for name, moved in signals["variables"].items()
        }


def _start(largest: Tensor, moved: Tensor) -> Tensor:
    """Scores: where they start, 0.99 or 1, and how far they have moved."""
    return torch.where(largest, 1.0, 0.99).to(moved.dtype) + moved.detach()
