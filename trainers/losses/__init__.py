"""Training losses: one file each, all behind `Loss`."""

from __future__ import annotations

from torch import Tensor, nn

from spaces.training import ComputeConfig, CrownIbpLossConfig, IbpLossConfig, LossConfig
from trainers.bounds import IntervalPass
from trainers.losses.base import Loss, LossTerms, natural_terms
from trainers.losses.crown_ibp import CrownIbpLoss
from trainers.losses.ibp import IbpLoss
from trainers.losses.natural import NaturalLoss

__all__ = ["Loss", "LossTerms", "build_loss", "natural_terms"]


def build_loss(
    config: LossConfig, model: nn.Module, x_example: Tensor, compute: ComputeConfig | None = None
) -> Loss:
    """The loss that `config` names, for `model` and inputs shaped like `x_example`.

    `compute` says whether the natural pass runs in bfloat16 on CUDA, and whether to compile. Raises
    UnsupportedLayer when the network has a layer without bounds.
    """
    compute = compute or ComputeConfig()
    loss = _build(config, IntervalPass(model, bf16=compute.bf16), x_example)
    if compute.compile:
        loss.compile()
    return loss


def _build(config: LossConfig, interval: IntervalPass, x_example: Tensor) -> Loss:
    if isinstance(config, CrownIbpLossConfig):
        return CrownIbpLoss(interval, config, x_example)
    if isinstance(config, IbpLossConfig):
        return IbpLoss(interval, config)
    return NaturalLoss(interval)
