"""Gibbs pruning: masks are drawn at each step, and annealed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spaces.topology import GibbsConfig
from trainers.topology.base import Shapes, Signals, Tensors
from trainers.topology.masks import Masks, random_scores
from trainers.topology.methods.dense_start import Relaxed, step_at


class Gibbs(Relaxed):
    """Drops an item with probability 1 / (1 + exp(beta (w^2 - Q))) (Labach and Valaee 2020, eq. 4).

    w^2 is the mean square of the item's weights and Q the largest of those that the density does
    not keep: of the layer, or of all layers with distribution: global. A mask is drawn from these
    probabilities at every step, while pruned weights keep their values; beta grows geometrically
    from beta_start to beta_end at the share `end` of training, when the masks are fixed to the
    limit. Kernels and units are kept or dropped whole, the limit of strong coupling, where the
    paper couples the weights of a kernel or filter by finite terms; and its first layer is dense.
    """

    inputs = frozenset({"weights"})

    def __init__(self, config: GibbsConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        self.start, self.end = 0, step_at(config.end, total_steps)
        self.log_betas = math.log(config.beta_start), math.log(config.beta_end)

    def beta(self, step: int) -> float:
        """The inverse temperature."""
        start, end = self.log_betas
        return math.exp(start + (end - start) * min(step / self.end, 1.0))

    def gates(self, step: int, signals: Signals, generator: torch.Generator) -> Tensors:
        """A mask drawn at the temperature of the step."""
        pattern = self.selection.pattern
        squares = pattern.scores({n: weight.square() for n, weight in signals["weights"].items()})
        thresholds = self._thresholds(squares)
        drawn = {}
        for name, square in squares.items():
            keep = torch.sigmoid(self.beta(step) * (square - thresholds[name]))
            drawn[name] = random_scores(square, generator) < keep
        dtype = next(iter(squares.values())).dtype
        return {name: gate.to(dtype) for name, gate in pattern.expand(drawn).items()}

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """The limit of infinite beta: the largest squares."""
        squares = {name: weight.square() for name, weight in signals["weights"].items()}
        return self.selection.select(squares, self.density)

    def _thresholds(self, squares: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = self.selection.items(squares, self.density)
        dropped = {n: s.masked_fill(kept[n], -math.inf).amax() for n, s in squares.items()}
        if self.selection.is_global:
            return dict.fromkeys(dropped, torch.stack(list(dropped.values())).amax())
        return dropped
