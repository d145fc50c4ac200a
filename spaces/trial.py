"""TrialConfig: everything that one trial is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from spaces.base import Config, Seed
from spaces.data import DataConfig
from spaces.fidelity import FidelityConfig
from spaces.grafting import GraftingConfig
from spaces.model import MlpConfig, ModelConfig, PythonModelConfig
from spaces.reading import compact_json, join, read_yaml
from spaces.topology import DenseConfig, SlimmingConfig, TopologyConfig
from spaces.training import (
    CertifiedLossConfig,
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
    grafting: GraftingConfig = GraftingConfig()
    fidelity: FidelityConfig = FidelityConfig()
    compute: ComputeConfig = ComputeConfig()

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrialConfig:
        """Read one trial from a file; raise ConfigError with a line per problem."""
        return read_config(cls, read_yaml(path), source=str(path))

    @model_validator(mode="after")
    def _certified_criteria_have_a_certified_loss(self) -> TrialConfig:
        if isinstance(self.loss, CertifiedLossConfig):
            return self
        if getattr(self.topology, "grow", None) == "certified_gradient":
            raise ValueError(
                f"topology.grow: certified_gradient{self._default_of('grow')} needs a certified "
                f"loss, but loss.name is {self.loss.name}: use grow: gradient, or a certified loss "
                "such as ibp"
            )
        if getattr(self.topology, "saliency", None) == "certified":
            raise ValueError(
                "topology.saliency: certified needs a certified loss, but loss.name is "
                f"{self.loss.name}: use saliency: natural, or a certified loss such as ibp"
            )
        return self

    @model_validator(mode="after")
    def _slimming_has_scales(self) -> TrialConfig:
        model = self.model
        if isinstance(model, PythonModelConfig) or model.batch_norm:
            return self
        if isinstance(self.topology, SlimmingConfig):
            raise ValueError(
                "topology.method: slimming prunes by the scales of batch normalisation, but "
                "model.batch_norm is false: set it to true, or use another method with "
                "granularity: unit"
            )
        return self

    @model_validator(mode="after")
    def _grafted_networks_keep_their_units(self) -> TrialConfig:
        if self.grafting.fraction == 0.0 or getattr(self.topology, "granularity", "") != "unit":
            return self
        slimming = isinstance(self.topology, SlimmingConfig)
        raise ValueError(
            f"grafting.fraction: {self.grafting.fraction:g} gives each unit of a layer a line of "
            f"its own, but topology.method: {self.topology.method} with granularity: unit removes "
            f"units as a whole: use another {'method' if slimming else 'granularity'}, or set "
            "grafting.fraction to 0"
        )

    @model_validator(mode="after")
    def _each_layer_has_a_ratio(self) -> TrialConfig:
        given, needed = len(_layer_ratios(self.topology)), self.model.num_weight_layers
        if given and needed is not None and given != needed:
            raise ValueError(
                f"topology.layer_ratios has {given} values, but the network of model.family: "
                f"{self.model.family} has {needed} layers with weights: give one value for each, "
                "from the first to the last"
            )
        return self

    def _default_of(self, name: str) -> str:
        """A remark for rules about a setting that the author did not write."""
        if name in self.topology.model_fields_set:
            return ""
        return f" (the default of method: {self.topology.method})"


def _layer_ratios(topology: TopologyConfig) -> tuple[float, ...]:
    return () if isinstance(topology, DenseConfig) else topology.layer_ratios


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
