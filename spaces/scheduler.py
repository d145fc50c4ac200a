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
    reduction_factor: int = Field(3, ge=2, description="One in so many goes on at a rung.")
    brackets: int = Field(1, ge=1, description="Bracket s starts its rungs s factors later.")


class MoashaConfig(Config):
    """Asynchronous successive halving on all objectives of the study.

    Trials at a rung are ordered by Pareto fronts and, within one, so that they differ; each is
    compared with trials of like cost, by rung_score in place of verified accuracy.
    """

    name: Literal["moasha"] = "moasha"
    grace_epochs: int = Field(3, ge=1, description="Epochs before a trial may be stopped.")
    reduction_factor: int = Field(3, ge=2, description="One in so many goes on at a rung.")
    brackets: int = Field(1, ge=1, description="Bracket s starts its rungs s factors later.")
    variant: Literal["stopping", "promotion"] = Field(
        "stopping",
        description="stopping: a trial that is not among the best ends. promotion: it waits, and "
        "goes on from its checkpoint when it is among the best of more trials: better fronts from "
        "a hundred trials on, few completed trials from twenty.",
    )


class FifoConfig(Config):
    """No early stopping."""

    name: Literal["fifo"] = "fifo"


SchedulerConfig = Annotated[AshaConfig | MoashaConfig | FifoConfig, Field(discriminator="name")]
