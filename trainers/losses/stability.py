"""How surely each unit's ReLU stays on one side of zero, and the loss term that rewards it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.bounds import IntervalResult
from trainers.wiring import Wiring


def nrs(lower: Tensor, upper: Tensor, gain: Tensor | None = None) -> Tensor:
    """Normalised ReLU stability of each unit, in [-1, 1]: -1 stable, 1 unstable; differentiable.

    The mean of -tanh(1 + lower * upper / (gain^2 + 1e-8)) over examples and positions, in front of
    a ReLU (Xiao et al. 2019, arXiv:1809.03008; normalised by Li et al. 2022, arXiv:2206.07311).
    lower, upper: (B, n_units, ...). gain: (n_units,), the scale that batch normalisation gives the
    units; no gradient reaches it. Without it nothing is divided. Returns (n_units,).
    """
    product = lower * upper
    if gain is not None:
        square = gain.detach().square().view(-1, *[1] * (product.ndim - 2))
        product = product / (square + 1e-8)
    return -torch.tanh(1.0 + product).transpose(0, 1).flatten(1).mean(1)


def nrs_penalty(result: IntervalResult, gains: Mapping[int, Tensor]) -> Tensor:
    """Mean of `nrs` over all units of all ReLU layers; a scalar, 0 for a network without ReLU.

    gains: what `relu_gains` returns.
    """
    if not result.relu_inputs:
        return result.logits_BK.new_zeros(())
    bounds = enumerate(result.pre_activations)
    return torch.cat([nrs(lower, upper, gains.get(i)) for i, (lower, upper) in bounds]).mean()


def relu_gains(model: nn.Module, wiring: Wiring) -> dict[int, Tensor]:
    """For each ReLU behind batch normalisation, by its index: the scale of its units, (n_units,).

    Where branches are added, that of a sum of independent units: the root of the sum of squares.
    """
    names: dict[int, set[str]] = {}
    for weight, index in wiring.relus.items():
        if weight in wiring.gains:
            names.setdefault(index, set()).add(wiring.gains[weight])
    return {
        index: torch.stack([model.get_parameter(n).detach() for n in sorted(group)]).norm(dim=0)
        for index, group in names.items()
    }
