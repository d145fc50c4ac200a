"""By which rule a study stops trials early."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spaces.base import Config


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2020) on the metric rung_score.

    Rungs lie at grace_epochs * reduction_factor^k; the best 1/reduction_factor of a rung goes on.
    """

    name: Literal["asha"] = "asha"
    grace_epochs: int = Field(3, ge=1, description="Epochs before a trial may be stopped.")
    reduction_factor: int = Field(3, ge=2)
    brackets: int = Field(1, ge=1, description="Bracket s starts its rungs s factors later.")


class FifoConfig(Config):
    """No early stopping."""

    name: Literal["fifo"] = "fifo"


SchedulerConfig = Annotated[AshaConfig | FifoConfig, Field(discriminator="name")]
