"""Hard-concrete masks, learned on adversarial inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spaces.topology import HardConcreteConfig
from trainers.topology.base import Phase, Shapes, Signals, Tensors
from trainers.topology.masks import Masks, random_scores
from trainers.topology.methods.dense_start import Relaxed, step_at

BETA, LOW, HIGH = 2.0 / 3.0, -0.1, 1.1
START = math.log((0.9 - LOW) / (HIGH - 0.9))
"""Where the stretched sigmoid of theta is 0.9, as in the code of Zheng et al. (2022)."""


class HardConcrete(Relaxed):
    """Robust lottery tickets (Zheng et al. 2022) with gates of Louizos et al. (2018, eq. 11).

    Dense training; then, around frozen weights, a gate clip((HIGH - LOW) s + LOW, 0, 1) per item,
    s = sigmoid((ln u - ln(1 - u) + theta) / BETA), is learned on adversarial inputs, with the
    expected density as a penalty; then the items with the largest theta make the ticket, which goes
    on from the dense weights. The paper perturbs embeddings of a language model (FreeLB); here the
    inputs are attacked by PGD, at the training radius.
    """

    inputs = frozenset({"weights", "variables"})

    def __init__(self, config: HardConcreteConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        self.config = config
        self.start = step_at(config.search_start, total_steps, first=0)
        self.end = max(step_at(config.search_end, total_steps), self.start + 1)
        # Gates alone move in the search, on adversarial inputs.
        self.gated = Phase(relaxed=True, frozen=True, attack_steps=config.attack_steps)

    def init_variables(self, weights: Tensors) -> dict[str, Tensor]:
        """One theta per item."""
        items = self.selection.pattern.scores(weights)
        return {name: torch.full_like(item, START) for name, item in items.items()}

    def build_optimizer(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        """AdamW, as in the paper."""
        return torch.optim.AdamW(variables, lr=self.config.mask_lr, weight_decay=1e-6)

    def gates(self, step: int, signals: Signals, generator: torch.Generator) -> Tensors:
        """One sample of the gates."""
        values = {}
        for name, theta in signals["variables"].items():
            u = random_scores(theta, generator)
            s = torch.sigmoid((torch.logit(u) + theta) / BETA)
            values[name] = (s * (HIGH - LOW) + LOW).clamp(0.0, 1.0)
        return self.selection.pattern.gate(values)

    def penalty(self, step: int, signals: Signals) -> Tensor | None:
        """The mean probability that a gate is open, warmed up over a third of the search."""
        if not self.phase(step).relaxed:
            return None
        progress = (step - self.start) / (self.end - self.start)
        weight = self.config.penalty * min(max((progress - 0.1) / 0.3, 0.0), 1.0)
        open_ = [
            torch.sigmoid(theta - BETA * math.log(-LOW / HIGH)).flatten()
            for theta in signals["variables"].values()
        ]
        return weight * torch.cat(open_).mean()

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """The items with the largest theta."""
        return self.selection.select_items(signals["variables"], self.density)
