"""What keeps interval training stable while the radius grows (Shi et al. 2021, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.bounds import IntervalResult

TOLERANCE = 0.5
# The terms are means over examples and neurons. Over a whole batch they cost more than the interval
# pass itself; over so many examples they differ little and cost next to nothing.
NUM_EXAMPLES = 16


def warmup_penalty(result: IntervalResult) -> Tensor:
    """Mean over the ReLU layers of a tightness and a balance term; a scalar >= 0.

    Tightness: relu(tau - d_0 / d_i) / tau, where d_i is the mean width of the bounds in front of
    layer i and d_0 that of the input: bounds may grow, but not by more than 1 / tau = 2.
    Balance: relu(tau - a) / tau for a = min(r, 1 / r), where r compares active with inactive
    neurons, once by the sums of their centres and once by the sums of squares around the mean.
    Computed on the first NUM_EXAMPLES examples of the batch.
    """
    if not result.relu_inputs:
        return result.logits_BK.new_zeros(())
    lower, upper = (bound[:NUM_EXAMPLES] for bound in result.inputs)
    input_radius = (upper - lower).mean() / 2
    terms = []
    for activation in result.relu_inputs:
        center, radius = activation.center[:NUM_EXAMPLES], activation.radius[:NUM_EXAMPLES]
        terms.append(_shortfall(input_radius / radius.mean().clamp(min=1e-12)))
        terms.append(_imbalance(center, radius))
    return torch.stack(terms).sum() / len(result.relu_inputs)


def _shortfall(ratio: Tensor) -> Tensor:
    return F.relu(TOLERANCE - ratio) / TOLERANCE


def _imbalance(center: Tensor, radius: Tensor) -> Tensor:
    """Zero when no neuron is active for certain, or none inactive: there is nothing to compare."""
    active, inactive = center > radius, center < -radius
    squares = (center - center.mean()).square()
    terms = [
        _shortfall(_evenness(part.where(active, 0.0).sum(), part.where(inactive, 0.0).sum()))
        for part in (center.abs(), squares)
    ]
    return torch.where(active.any() & inactive.any(), terms[0] + terms[1], 0.0)


def _evenness(a: Tensor, b: Tensor) -> Tensor:
    """min(a / b, b / a) for positive a and b."""
    a, b = a.clamp(min=1e-12), b.clamp(min=1e-12)
    return torch.minimum(a / b, b / a)
