"""How a network becomes sparse: one config class per topology method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spaces.base import Config, Density, Fraction, OpenFraction

Distribution = Literal["uniform", "erdos_renyi", "erk"]
DropCriterion = Literal["magnitude", "sensitivity", "random"]
GrowCriterion = Literal["gradient", "certified_gradient", "random"]
DropSchedule = Literal["cosine", "constant", "linear"]


class DenseConfig(Config):
    """Every weight is kept: the null method and the honest baseline."""

    method: Literal["dense"] = "dense"


class SparseConfig(Config):
    """What every sparse method shares."""

    density: Density = Field(
        0.1,
        description="Share of the weights of linear and convolution layers that the ticket keeps.",
    )
    distribution: Distribution = Field(
        "erk",
        description="How the weights are shared out among layers: the same share everywhere, "
        "Erdos-Renyi (Mocanu et al. 2018), or Erdos-Renyi-Kernel (Evci et al. 2020).",
    )


class StaticConfig(SparseConfig):
    """A random mask, never changed."""

    method: Literal["static"] = "static"


class SnipConfig(SparseConfig):
    """Connection sensitivity at initialisation, ranked over the whole network (Lee et al. 2019).

    SNIP ranks all layers together, so `distribution` does not apply to it.
    """

    method: Literal["snip"] = "snip"
    distribution: Literal["global"] = "global"  # type: ignore[assignment]
    saliency: Literal["natural", "certified"] = Field(
        "natural", description="The loss whose sensitivity is measured."
    )


class DropGrowConfig(SparseConfig):
    """Dynamic sparse training: drop some weights, grow others, again and again.

    `density` is reached exactly at the last update. With `regrowth_rate` below 1 training starts
    denser, above 1 sparser; at 1 the density never changes.
    """

    drop: DropCriterion = "magnitude"
    grow: GrowCriterion = "gradient"
    drop_fraction: OpenFraction = Field(
        0.3, description="Share of a layer's weights dropped at the first update."
    )
    drop_schedule: DropSchedule = Field(
        "cosine", description="How the dropped share falls towards the last update."
    )
    update_every: int = Field(50, ge=1, description="Steps between two updates.")
    update_end: Fraction = Field(
        0.75, description="Share of all training steps after which the topology is fixed."
    )
    regrowth_rate: float = Field(
        1.0, gt=0.0, le=2.0, description="Weights grown per weight dropped."
    )


class SetConfig(DropGrowConfig):
    """Sparse evolutionary training: magnitude drop, random growth (Mocanu et al. 2018)."""

    method: Literal["set"] = "set"
    grow: GrowCriterion = "random"


class RigLConfig(DropGrowConfig):
    """Rigging the lottery: magnitude drop, growth by the dense gradient (Evci et al. 2020)."""

    method: Literal["rigl"] = "rigl"


TopologyConfig = Annotated[
    DenseConfig | StaticConfig | SnipConfig | SetConfig | RigLConfig, Field(discriminator="method")
]
