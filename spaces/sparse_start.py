"""Topology methods that are sparse from the first step: masks chosen once, and drop/grow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spaces.base import Fraction, OpenFraction
from spaces.sparsity import (
    DropCriterion,
    DropSchedule,
    GrowCriterion,
    RankedConfig,
    SparseConfig,
)

_GRADIENTS = ("gradient", "certified_gradient")


class StaticConfig(SparseConfig):
    """A random mask, never changed."""

    method: Literal["static"] = "static"


class SnipConfig(RankedConfig):
    """Connection sensitivity at initialisation (Lee et al. 2019)."""

    method: Literal["snip"] = "snip"
    saliency: Literal["natural", "certified"] = Field(
        "natural", description="The loss whose sensitivity is measured."
    )


class GraspConfig(RankedConfig):
    """Keeps what the flow of gradients at initialisation needs (Wang et al. 2020)."""

    method: Literal["grasp"] = "grasp"
    saliency: Literal["natural", "certified"] = Field(
        "natural", description="The loss whose gradient should keep flowing."
    )


class SynFlowConfig(RankedConfig):
    """Keeps synaptic flow, a score without data, in many small rounds (Tanaka et al. 2020)."""

    method: Literal["synflow"] = "synflow"
    rounds: int = Field(100, ge=1, le=1000, description="Pruning rounds at initialisation.")


class DropGrowConfig(SparseConfig):
    """Dynamic sparse training: drop some weights, grow others, again and again.

    `density` is reached exactly at the last update. With `regrowth_rate` below 1 training starts
    denser, above 1 sparser; at 1 the density never changes.
    """

    drop: DropCriterion = Field(
        "magnitude", description="Criterion by which the worst weights are dropped."
    )
    grow: GrowCriterion = Field(
        "gradient", description="Criterion by which the best pruned weights are grown."
    )
    drop_fraction: OpenFraction = Field(
        0.3, description="Share of a layer's weights dropped at the first update."
    )
    drop_schedule: DropSchedule = Field(
        "cosine", description="How the dropped share falls towards the last update."
    )
    update_every: int | None = Field(
        None,
        ge=1,
        description="Steps between two updates. When unset 100, or fewer in a short training, so "
        "that there are five.",
    )
    update_end: Fraction = Field(
        0.75, description="Share of all training steps after which the topology is fixed."
    )
    regrowth_rate: float = Field(
        1.0,
        gt=0.0,
        le=2.0,
        description="Weights grown per weight dropped; below 1 training starts denser than "
        "density, above 1 sparser.",
    )

    @model_validator(mode="after")
    def _units_grow_by_what_they_have(self) -> DropGrowConfig:
        if self.granularity == "unit" and self.grow in ("cosine", "momentum"):
            raise ValueError(
                f"grow: {self.grow} does not go with granularity: unit, because a unit that is off "
                "has neither momentum nor activations: use grow: gradient, certified_gradient or "
                "random"
            )
        return self


class SetConfig(DropGrowConfig):
    """Sparse evolutionary training: magnitude drop, random growth (Mocanu et al. 2018).

    What an update drops cannot grow in the same update.
    """

    method: Literal["set"] = "set"
    grow: GrowCriterion = Field(
        "random", description="Criterion by which the best pruned weights are grown."
    )


class _RegrowingConfig(DropGrowConfig):
    """Weights that were just dropped compete for growth at once (as in RigL)."""

    @model_validator(mode="after")
    def _growth_does_not_undo_the_drop(self) -> _RegrowingConfig:
        if self.drop == "adversarial_gradient" and self.grow in _GRADIENTS:
            raise ValueError(
                f"drop: adversarial_gradient does not go with grow: {self.grow} here, because "
                "weights dropped for their large gradient would be grown again at once: use "
                "method: set, where they stay out, or grow: cosine, momentum or random"
            )
        return self


class RigLConfig(_RegrowingConfig):
    """Rigging the lottery: magnitude drop, growth by the dense gradient (Evci et al. 2020)."""

    method: Literal["rigl"] = "rigl"


class SparseVlrConfig(_RegrowingConfig):
    """Verified-robust training from a random sparse start, grown by the certified gradient.

    Our reading of SparseVLR / VeriSparse, whose rule is not public.
    """

    method: Literal["sparsevlr"] = "sparsevlr"
    grow: GrowCriterion = Field(
        "certified_gradient", description="Criterion by which the best pruned weights are grown."
    )


class CtreConfig(DropGrowConfig):
    """Cosine similarity and random topology exploration, no gradient (Atashgahi et al. 2022)."""

    method: Literal["ctre"] = "ctre"
    mode: Literal["sequential", "simultaneous"] = Field(
        "sequential",
        description="sequential: growth by cosine similarity until validation accuracy has stalled "
        "for patience epochs, then at random; simultaneous: by cosine similarity, with random "
        "weights in the place of those that the same update dropped.",
    )
    grow: Literal["cosine"] = "cosine"
    granularity: Literal["weight"] = "weight"
    drop_fraction: OpenFraction = Field(
        0.2, description="Share of a layer's weights dropped at the first update."
    )
    drop_schedule: DropSchedule = Field(
        "constant", description="How the dropped share falls towards the last update."
    )
    patience: int = Field(
        40, ge=1, description="sequential: epochs without a better validation accuracy."
    )
