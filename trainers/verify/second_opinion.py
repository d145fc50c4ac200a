"""An independent check of our own bounds: the same ones by auto_LiRPA."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.bounds import IntervalPass, ball
from trainers.bounds.crown import backward_margins
from trainers.bounds.lirpa import LirpaBounds
from trainers.errors import VerificationError
from trainers.verify.checks import check_examples, check_logits, check_radius

TOLERANCE = 1e-6
"""Largest difference allowed, as a share of an example's largest margin (at least 1)."""


@dataclass(frozen=True)
class SecondOpinion:
    """On how many examples both bounds were computed, and by how much they differ at most.

    The difference is a share of the largest margin of its example (at least 1). Where auto_LiRPA
    has no bounds for the network, num_examples is 0 and `reason` says why.
    """

    num_examples: int
    largest_difference: float
    reason: str | None = None


@torch.no_grad()
def second_opinion(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    radius: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> SecondOpinion:
    """Compare our CROWN-IBP margins with auto_LiRPA's, in float64 on the CPU, for a few examples.

    Both are defined to be the same numbers, computed by code that shares the traced network and
    nothing else. Raises VerificationError when they differ, and UnsupportedLayer for a network
    without bounds of our own.
    """
    check_examples(model, x_BCHW, y_B, low, high)
    check_radius(radius, len(x_BCHW))
    precise = copy.deepcopy(model).eval().requires_grad_(False).cpu().double()
    x, y_B = x_BCHW.detach().cpu().double(), y_B.cpu().long()
    interval = IntervalPass(precise)
    values = interval.values(x, *ball(x, radius, low, high))
    logits_BK = values[interval.program.output].value
    check_logits(logits_BK, y_B)
    ours_BK = backward_margins(interval, values, y_B, logits_BK)
    try:
        theirs_BK = LirpaBounds(precise, x).margins(x, y_B, radius, "crown-ibp", low, high)
    except Exception as error:  # whatever it stumbles over says nothing about our bounds
        return SecondOpinion(0, 0.0, f"{type(error).__name__}: {error}")
    return SecondOpinion(len(x), _difference(ours_BK, theirs_BK))


def _difference(ours_BK: Tensor, theirs_BK: Tensor) -> float:
    largest_BK = torch.maximum(ours_BK.abs(), theirs_BK.abs()).nan_to_num(1.0)
    scale_B1 = largest_BK.amax(1, keepdim=True).clamp(min=1.0)
    share_BK = (ours_BK - theirs_BK).abs() / scale_B1
    if not (share_BK <= TOLERANCE).all():  # NaN is no agreement
        b, k = divmod(int(share_BK.nan_to_num(torch.inf).argmax()), share_BK.shape[1])
        raise VerificationError(
            f"crown-ibp bounds of example {b} against class {k} are {float(ours_BK[b, k]):.9g} by "
            f"our own code, but {float(theirs_BK[b, k]):.9g} by auto_LiRPA: one of them is wrong "
            "for this network, so nothing is certified; report it"
        )
    return float(share_BK.max())
