"""Training losses: one file each, all behind `Loss`."""

from __future__ import annotations

from torch import Tensor, nn

from spaces.training import CrownIbpLossConfig, IbpLossConfig, LossConfig
from trainers.bounds import IntervalPass
from trainers.losses.base import Loss, LossTerms
from trainers.losses.crown_ibp import CrownIbpLoss
from trainers.losses.ibp import IbpLoss
from trainers.losses.natural import NaturalLoss

__all__ = ["Loss", "LossTerms", "build_loss"]


def build_loss(
    config: LossConfig, model: nn.Module, x_example: Tensor, *, bf16: bool = False
) -> Loss:
    """The loss that `config` names, for `model` and inputs shaped like `x_example`.

    `bf16` runs the natural pass in bfloat16 on CUDA. Raises UnsupportedLayer when the network has a
    layer without bounds.
    """
    interval = IntervalPass(model, bf16=bf16 and x_example.is_cuda)
    if isinstance(config, CrownIbpLossConfig):
        return CrownIbpLoss(interval, config, x_example)
    if isinstance(config, IbpLossConfig):
        return IbpLoss(interval, config)
    return NaturalLoss(interval)
