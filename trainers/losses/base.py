"""The seam behind which every loss lives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.training import BaseLossConfig
from trainers.bounds import IntervalPass, IntervalResult
from trainers.losses.stability import nrs_penalty, relu_gains
from trainers.wiring import Wiring

Flops = Mapping[str, float]


@dataclass(frozen=True)
class LossTerms:
    """What a loss found on one batch; every loss returns all of it.

    total: what is minimised. natural: cross-entropy of the logits. certified: what the loss has in
    the place of the worst case in the ball: the cross-entropy of worst-case logits where it bounds
    them (equal to `natural` while epsilon is 0, and for the natural loss). All three are scalars on
    one autograd graph, so that each can be differentiated on its own. num_correct counts examples
    that are classified correctly, num_certified those of which the loss finds the same in the worst
    case that it looks at, which is a proof for ibp and crown_ibp alone; both are int64 scalars.
    logits_BK are those of the inputs themselves.
    """

    total: Tensor
    natural: Tensor
    certified: Tensor
    num_correct: Tensor
    num_certified: Tensor
    logits_BK: Tensor


class Loss(ABC):
    """A training loss of one network; pure but for batch normalisation's running statistics.

    `interval` is the network's interval pass. While epsilon is 0, a step of every loss is a natural
    one.
    """

    def __init__(self, interval: IntervalPass, config: BaseLossConfig) -> None:
        self.interval = interval
        self.model = interval.model
        self.stability_weight = config.stability_weight
        self.wiring = Wiring.of(self.model) if self.stability_weight > 0.0 else None

    @abstractmethod
    def __call__(self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float) -> LossTerms:
        """The loss of a batch at training radius `epsilon` (data units).

        `progress` in [0, 1] is epsilon over its final value: mixing weights depend on it.
        """

    def passes(self, epsilon: float, progress: float) -> int:
        """What a step costs, in passes through the network, for the count of training FLOPs.

        Passes go forward, back to the inputs, and back to the weights; attacks are counted apart.
        """
        return 1

    def attack_flops(
        self, layers: Flops, gradients: Flops, epsilon: float, progress: float
    ) -> float:
        """Operations per example of a step's attacks, beyond its `passes`.

        layers: those of each layer in a forward pass, by the name of its weight; as many take a
        gradient back to the layer's inputs. gradients: those of the gradient of the weight.
        """
        return 0.0

    def stability(self, result: IntervalResult) -> Tensor | float:
        """The NRS term by the bounds of a pass at the current epsilon; 0 where its weight is."""
        if self.wiring is None:
            return 0.0
        gains = relu_gains(self.model, self.wiring)
        return self.stability_weight * nrs_penalty(result, gains)

    def compile(self) -> None:
        """Let torch.compile make the passes through the network, from now on."""
        self.interval.compile()
        self.logits = torch.compile(self.logits)  # type: ignore[method-assign]

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """The natural pass alone, in bfloat16 where the interval pass does so too."""
        enabled = self.interval.bf16 and x_BCHW.is_cuda
        with torch.autocast(x_BCHW.device.type, dtype=torch.bfloat16, enabled=enabled):
            return self.model(x_BCHW).float() if enabled else self.model(x_BCHW)


def natural_terms(logits_BK: Tensor, y_B: Tensor) -> LossTerms:
    """Cross-entropy of the logits, for every loss while there is nothing to certify."""
    loss = F.cross_entropy(logits_BK, y_B)
    num_correct = (logits_BK.argmax(1) == y_B).sum()
    return LossTerms(loss, loss, loss, num_correct, num_correct, logits_BK)


def mixed_terms(
    logits_BK: Tensor, y_B: Tensor, certified: Tensor, certified_B: Tensor, kappa: float
) -> LossTerms:
    """Return kappa * natural + (1 - kappa) * certified; certified_B tells for which it holds."""
    natural = F.cross_entropy(logits_BK, y_B)
    return LossTerms(
        total=kappa * natural + (1.0 - kappa) * certified,
        natural=natural,
        certified=certified,
        num_correct=(logits_BK.argmax(1) == y_B).sum(),
        num_certified=certified_B.sum(),
        logits_BK=logits_BK,
    )


def all_positive(margins_BK: Tensor, y_B: Tensor) -> Tensor:
    """For which examples every margin to another class is above 0."""
    own = F.one_hot(y_B, margins_BK.shape[1]).bool()
    return ((margins_BK > 0) | own).all(1)


def mix(start: float | None, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1, both exactly; `end` without a start."""
    return end if start is None else start * (1.0 - progress) + end * progress
