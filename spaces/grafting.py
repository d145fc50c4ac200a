"""Linearity grafting: which ReLUs become learned lines, and when."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spaces.base import Config, Fraction


class GraftingConfig(Config):
    """Replaces ReLUs that matter little and are unstable by learned lines (Chen et al. 2022).

    A line needs no relaxation, so bounds become tighter and exact verification has fewer cases.
    """

    fraction: Fraction = Field(
        0.0, description="Share of all ReLUs that are replaced; 0 switches grafting off."
    )
    start: float = Field(
        0.5,
        ge=0.0,
        lt=1.0,
        description="Share of training after which they are chosen and replaced, all at once; 0 "
        "when given weights are trained already.",
    )
    significance: Literal["activation", "gradient"] = Field(
        "gradient",
        description="Units matter little where the mean size of the activation, or of the loss's "
        "gradient there, is small.",
    )
    examples: int = Field(
        1000, ge=1, description="Training examples on which significance and stability are judged."
    )
    granularity: Literal["neuron", "channel"] = Field(
        "neuron",
        description="What is replaced as a whole, and counts as one ReLU in fraction: a position "
        "of a channel, or the whole channel.",
    )
    lr_scale: float = Field(
        10.0,
        gt=0.0,
        le=1000.0,
        description="Learning rate of the lines over that of the weights; lines have no weight "
        "decay.",
    )
