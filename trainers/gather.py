"""Gets a topology method the signals that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import signals as sources
from trainers.losses import Loss, LossTerms
from trainers.topology import Signals
from trainers.wiring import Wiring

ATTACK_STEPS = 5
"""Of the attack behind `adversarial_gradients`."""


class SignalGatherer:
    """Signals of one network in training: what is asked for is computed, and nothing else."""

    def __init__(self, loss: Loss, weights: Mapping[str, nn.Parameter], wiring: Wiring) -> None:
        self.loss, self.weights, self.wiring = loss, dict(weights), wiring
        self.model = loss.model

    def initial(
        self, names: frozenset[str], x_BCHW: Tensor, y_B: Tensor, epsilon: float
    ) -> Signals:
        """Before the first step, on one batch: natural gradients, and certified ones at epsilon."""

        def natural() -> Tensor:
            return F.cross_entropy(self.loss.logits(x_BCHW), y_B)

        def certified() -> Tensor:
            return self.loss(x_BCHW, y_B, epsilon, 1.0).certified

        found: dict[str, Any] = {}
        for prefix, loss in (("", natural), ("certified_", certified)):
            if f"{prefix}gradients" in names:
                found[f"{prefix}gradients"] = self.gradients(loss())
            if f"{prefix}hessian_gradients" in names:
                product = sources.hessian_gradients(self.model, self.weights, loss)
                found[f"{prefix}hessian_gradients"] = product
        if "synaptic_flow" in names:
            program = self.wiring.program
            found["synaptic_flow"] = sources.synaptic_flow(program, self.weights, x_BCHW.shape[1:])
        return Signals({n: w.detach() for n, w in self.weights.items()}, **found)

    def before_backward(self, names: frozenset[str], terms: LossTerms) -> dict[str, Any]:
        """Signals that need the graph of the training loss."""
        if "certified_gradients" not in names:
            return {}
        return {"certified_gradients": self.gradients(terms.certified)}

    def after_backward(
        self, names: frozenset[str], x_BCHW: Tensor, y_B: Tensor, epsilon: float
    ) -> dict[str, Any]:
        """Signals of the network as it is at an update step."""
        found: dict[str, Any] = {"gradients": {n: w.grad for n, w in self.weights.items()}}
        if "adversarial_gradients" in names:
            found["adversarial_gradients"] = sources.adversarial_gradients(
                self.model, self.weights, x_BCHW, y_B, epsilon, ATTACK_STEPS
            )
        if "cosines" in names:
            found["cosines"] = sources.cosines(self.wiring.program, self.weights, x_BCHW)
        if "instability" in names:
            found["instability"] = sources.instability(
                self.loss.interval, self.wiring, x_BCHW, y_B, epsilon
            )
        if "gains" in names:
            gains = self.gains()
            found["gains"] = {name: gain.detach() for name, gain in gains.items()}
        return found

    def gains(self) -> dict[str, Tensor]:
        """Scales of batch normalisation, differentiable."""
        return sources.gains(self.model, self.wiring, self.weights)

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Of a loss whose graph is needed again."""
        gradients = torch.autograd.grad(loss, list(self.weights.values()), retain_graph=True)
        return dict(zip(self.weights, gradients, strict=True))
