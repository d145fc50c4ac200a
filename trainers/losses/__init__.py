"""Training losses: one file each, all behind `Loss`."""

from __future__ import annotations

from torch import Tensor, nn

from spaces.training import (
    ComputeConfig,
    CrownIbpLossConfig,
    IbpLossConfig,
    LossConfig,
    MtlIbpLossConfig,
    NaturalLossConfig,
    PgdLossConfig,
    SabrLossConfig,
    StapsLossConfig,
    TapsLossConfig,
)
from trainers.bounds import IntervalPass
from trainers.losses.base import Loss, LossTerms, natural_terms
from trainers.losses.crown_ibp import CrownIbpLoss
from trainers.losses.ibp import IbpLoss
from trainers.losses.mtl_ibp import MtlIbpLoss
from trainers.losses.natural import NaturalLoss
from trainers.losses.pgd import PgdLoss
from trainers.losses.sabr import SabrLoss
from trainers.losses.staps import StapsLoss
from trainers.losses.taps import TapsLoss

__all__ = ["Loss", "LossTerms", "build_loss", "natural_terms"]


def build_loss(
    config: LossConfig, model: nn.Module, x_example: Tensor, compute: ComputeConfig | None = None
) -> Loss:
    """The loss that `config` names, for `model` and inputs shaped like `x_example`.

    `compute` says whether the natural pass runs in bfloat16 on CUDA, and whether to compile. Raises
    UnsupportedLayer when the network has a layer without bounds, and ModelError when it cannot be
    cut as TAPS asks.
    """
    compute = compute or ComputeConfig()
    loss = _build(config, IntervalPass(model, bf16=compute.bf16), x_example)
    if compute.compile:
        loss.compile()
    return loss


def _build(config: LossConfig, interval: IntervalPass, x_example: Tensor) -> Loss:
    match config:
        case NaturalLossConfig():
            return NaturalLoss(interval, config)
        case PgdLossConfig():
            return PgdLoss(interval, config)
        case IbpLossConfig():
            return IbpLoss(interval, config)
        case CrownIbpLossConfig():
            return CrownIbpLoss(interval, config, x_example)
        case SabrLossConfig():
            return SabrLoss(interval, config)
        case MtlIbpLossConfig():
            return MtlIbpLoss(interval, config)
        case TapsLossConfig():
            return TapsLoss(interval, config, x_example)
        case StapsLossConfig():
            return StapsLoss(interval, config, x_example)
