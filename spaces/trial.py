"""TrialConfig: everything that one trial is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from spaces.base import Config, Seed
from spaces.data import DataConfig
from spaces.model import MlpConfig, ModelConfig
from spaces.reading import compact_json, join, read_yaml
from spaces.topology import DenseConfig, TopologyConfig
from spaces.training import (
    ComputeConfig,
    EpsilonConfig,
    EvaluationConfig,
    IbpLossConfig,
    LossConfig,
    OptimizerConfig,
)
from spaces.walk import read_config


class TrialConfig(Config):
    """One training of one network: with the code version, all that is needed to repeat it."""

    seed: Seed = Field(0, description="Fixes initial weights, masks and batch order.")
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

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrialConfig:
        """Read one trial from a file; raise ConfigError with a line per problem."""
        return read_config(cls, read_yaml(path), source=str(path))

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


def flatten(config: TrialConfig) -> dict[str, str | int | float | bool]:
    """Dotted names and scalars, as a tracker wants them; lists and None become JSON.

    Names have no variant label, so that `topology.density` is one column for all methods.
    """
    return dict(_leaves(config.model_dump(mode="json"), ""))


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, str | int | float | bool]]:
    for name, value in tree.items():
        path = join(prefix, name)
        if isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            yield path, value if isinstance(value, str | int | float) else compact_json(value)
