"""How a network becomes sparse: one config class per topology method, and their union."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spaces.base import Config
from spaces.dense_start import (
    AcdcConfig,
    DeadwoodingConfig,
    GapConfig,
    GibbsConfig,
    GmpConfig,
    GradualConfig,
    HardConcreteConfig,
    JackpotsConfig,
    SlimmingConfig,
    StabilityConfig,
)
from spaces.sparse_start import (
    CtreConfig,
    DropGrowConfig,
    GraspConfig,
    RigLConfig,
    SetConfig,
    SnipConfig,
    SparseVlrConfig,
    StaticConfig,
    SynFlowConfig,
)
from spaces.sparsity import DropSchedule


class DenseConfig(Config):
    """Every weight is kept: the null method and the honest baseline."""

    method: Literal["dense"] = "dense"


TopologyConfig = Annotated[
    DenseConfig
    | StaticConfig
    | SnipConfig
    | GraspConfig
    | SynFlowConfig
    | SetConfig
    | RigLConfig
    | SparseVlrConfig
    | CtreConfig
    | GmpConfig
    | StabilityConfig
    | GapConfig
    | AcdcConfig
    | DeadwoodingConfig
    | GibbsConfig
    | SlimmingConfig
    | HardConcreteConfig
    | JackpotsConfig,
    Field(discriminator="method"),
]

__all__ = [
    "AcdcConfig",
    "CtreConfig",
    "DeadwoodingConfig",
    "DenseConfig",
    "DropGrowConfig",
    "DropSchedule",
    "GapConfig",
    "GibbsConfig",
    "GmpConfig",
    "GradualConfig",
    "GraspConfig",
    "HardConcreteConfig",
    "JackpotsConfig",
    "RigLConfig",
    "SetConfig",
    "SlimmingConfig",
    "SnipConfig",
    "SparseVlrConfig",
    "StabilityConfig",
    "StaticConfig",
    "SynFlowConfig",
    "TopologyConfig",
]
