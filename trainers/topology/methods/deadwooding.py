"""Deadwooding: Lagrangian-dual global pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.topology import DeadwoodingConfig
from trainers.topology.base import ORDINARY, Phase, Shapes, Signals, Tensors
from trainers.topology.masks import Masks
from trainers.topology.methods.dense_start import OneCut


class Deadwooding(OneCut):
    """Minimises L + lambda * violation, raises lambda by the violation, then cuts and distils.

    Our reading; neither code nor full rule is public. violation = max(0, softcount - k) / n for k
    weights to keep of n, softcount = sum of 1 - exp(-(w / scale)^2). The multiplier follows
    lambda <- max(0, lambda + dual_rate * violation) (dual ascent). At `cut` the k largest |w|
    stay; from then on the distance to the outputs of the dense twin is added to the loss. L is the
    trial's own, so a certified loss makes this pruning under a robustness constraint.
    """

    inputs = frozenset({"weights"})

    def __init__(self, config: DeadwoodingConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes, config.cut, total_steps)
        self.config = config
        self.budget = self.selection.total(config.density)

    def init_variables(self, weights: Tensors) -> dict[str, Tensor]:
        """The multiplier, 0 at first."""
        return {"multiplier": next(iter(weights.values())).new_zeros(())}

    def build_optimizer(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        """Ascent by plain steps of `dual_rate`."""
        return torch.optim.SGD(variables, lr=self.config.dual_rate, maximize=True)

    def penalty(self, step: int, signals: Signals) -> Tensor | None:
        """The multiplier times the violation, up to the cut."""
        if step >= self.cut:
            return None
        ratios = [weight / self.config.scale for weight in signals["weights"].values()]
        count = torch.stack([-torch.expm1(-ratio.square()).sum() for ratio in ratios]).sum()
        violation = (count - self.budget).relu() / self.num_weights
        multiplier: Tensor = signals["variables"]["multiplier"]
        return multiplier * violation

    def phase(self, step: int) -> Phase:
        """Distillation after the cut."""
        if step == self.cut:
            return Phase(keeps_twin=True)
        return Phase(distillation=self.config.distillation) if step > self.cut else ORDINARY

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """The largest magnitudes."""
        scores = {name: weight.abs() for name, weight in signals["weights"].items()}
        return self.selection.select(scores, self.density)
