"""STAPS as a loss."""

from __future__ import annotations

from spaces.training import StapsLossConfig
from trainers.losses.sabr import SabrLoss
from trainers.losses.taps import TapsLoss


class StapsLoss(SabrLoss, TapsLoss):
    """TAPS on the small box of SABR (Mao et al. 2023): both attacks, one after another."""

    config: StapsLossConfig
