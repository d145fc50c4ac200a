"""TrialConfig: everything that one trial is."""

from __future__ import annotations

from pydantic import Field, model_validator

from spaces.base import Config
from spaces.data import DataConfig
from spaces.model import MlpConfig, ModelConfig
from spaces.topology import DenseConfig, TopologyConfig
from spaces.training import (
    ComputeConfig,
    EpsilonConfig,
    EvaluationConfig,
    IbpLossConfig,
    LossConfig,
    OptimizerConfig,
)


class TrialConfig(Config):
    """One training of one network: with the code version, all that is needed to repeat it."""

    seed: int = Field(0, ge=0, description="Fixes initial weights, masks and batch order.")
    data: DataConfig
    evaluation: EvaluationConfig
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=1)
    model: ModelConfig = MlpConfig()
    topology: TopologyConfig = DenseConfig()
    loss: LossConfig = IbpLossConfig()
    epsilon: EpsilonConfig = EpsilonConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _certified_criteria_have_a_certified_loss(self) -> TrialConfig:
        if self.loss.name != "natural":
            return self
        if getattr(self.topology, "grow", None) == "certified_gradient":
            raise ValueError(
                "topology.grow: certified_gradient needs a certified loss, but loss.name is "
                "natural: use grow: gradient, or a certified loss such as ibp"
            )
        if getattr(self.topology, "saliency", None) == "certified":
            raise ValueError(
                "topology.saliency: certified needs a certified loss, but loss.name is natural: "
                "use saliency: natural, or a certified loss such as ibp"
            )
        return self
