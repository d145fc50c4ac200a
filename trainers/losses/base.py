"""The seam behind which every loss lives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.bounds import IntervalPass, IntervalResult

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class LossTerms:
    """What a loss found on one batch; every loss returns all of it.

    total: what is minimised. natural: cross-entropy of the logits. certified: cross-entropy of the
    worst-case logits (equal to `natural` while epsilon is 0, and for the natural loss). All three
    are scalars on one autograd graph, so that each can be differentiated on its own. num_correct
    and num_certified are int64 scalars. logits_BK are those of the inputs themselves.
    """

    total: Tensor
    natural: Tensor
    certified: Tensor
    num_correct: Tensor
    num_certified: Tensor
    logits_BK: Tensor


class Loss(ABC):
    """A training loss of one network; pure but for batch normalisation's running statistics.

    `interval` is the network's interval pass.
    """

    def __init__(self, interval: IntervalPass) -> None:
        self.interval = interval
        self.model = interval.model

    @abstractmethod
    def __call__(self, x_BCHW: Tensor, y_B: Tensor, epsilon: float, progress: float) -> LossTerms:
        """The loss of a batch at training radius `epsilon` (data units).

        `progress` in [0, 1] is epsilon over its final value: mixing weights depend on it.
        """

    def passes(self, epsilon: float, progress: float) -> int:
        """What a step costs, in passes through the network, for the count of training FLOPs."""
        return 1

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


def worst_case(margins_BK: Tensor, y_B: Tensor) -> Tensor:
    """Cross-entropy of the worst logits in a box, mean over the batch, from bounds on margins.

    margins_BK[b, j] bounds logit[y_b] - logit[j] from below, and is 0 at j = y_b, so cross-entropy
    of -margins is the largest that the logits in the box can have (Wong and Kolter 2018, thm. 2).
    """
    return F.cross_entropy(-margins_BK, y_B)


def worst_case_terms(
    result: IntervalResult, certified: Tensor, y_B: Tensor, kappa: float
) -> LossTerms:
    """Return kappa * natural + (1 - kappa) * certified; intervals say how many are certified."""
    natural = F.cross_entropy(result.logits_BK, y_B)
    own = F.one_hot(y_B, result.margins_BK.shape[1]).bool()
    return LossTerms(
        total=kappa * natural + (1.0 - kappa) * certified,
        natural=natural,
        certified=certified,
        num_correct=(result.logits_BK.argmax(1) == y_B).sum(),
        num_certified=((result.margins_BK > 0) | own).all(1).sum(),
        logits_BK=result.logits_BK,
    )


def mix(start: Number, end: Number, progress: float) -> Number:
    """From `start` at progress 0 to `end` at progress 1, both exactly."""
    return start * (1.0 - progress) + end * progress
