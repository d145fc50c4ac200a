"""What keeps interval training stable while the radius grows (Shi et al. 2021, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.bounds import IntervalResult

TOLERANCE = 0.5


def warmup_penalty(result: IntervalResult) -> Tensor:
    """Mean over the ReLU layers of a tightness and a balance term; a scalar >= 0.

    Tightness (eq. 8): relu(tau - d_0 / d_i) / tau, where d_i is the mean width of the bounds in front
    of layer i and d_0 that of the input: bounds may grow, but not by more than 1 / tau = 2.
    Balance (eq. 10): relu(tau - a) / tau for a = min(r, 1 / r), where r compares active with inactive
    neurons, once by the sums of their centres and once by the sums of squares around the mean.
    """
    widths = [(upper - lower).mean() for lower, upper in result.pre_activations]
    if not widths:
        return result.logits_BK.new_zeros(())
    input_width = (result.inputs[1] - result.inputs[0]).mean()
    tightness = [_shortfall(input_width / width.clamp(min=1e-12)) for width in widths]
    balance = [_imbalance(lower, upper) for lower, upper in result.pre_activations]
    return torch.stack(tightness + balance).sum() / len(widths)


def _shortfall(ratio: Tensor) -> Tensor:
    return F.relu(TOLERANCE - ratio) / TOLERANCE


def _imbalance(lower: Tensor, upper: Tensor) -> Tensor:
    """Zero when no neuron is active for certain, or none inactive: there is nothing to compare."""
    center = (lower + upper) / 2
    active, inactive = (lower > 0).to(center), (upper < 0).to(center)
    squares = (center - center.mean()).square()
    terms = [
        _shortfall(_evenness((center * active).sum(), -(center * inactive).sum())),
        _shortfall(_evenness((squares * active).sum(), (squares * inactive).sum())),
    ]
    present = (active.any() & inactive.any()).to(center)
    return torch.stack(terms).sum() * present


def _evenness(a: Tensor, b: Tensor) -> Tensor:
    """min(a / b, b / a) for positive a and b."""
    a, b = a.clamp(min=1e-12), b.clamp(min=1e-12)
    return torch.minimum(a / b, b / a)
