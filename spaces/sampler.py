"""By which sampler a study proposes its trials."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spaces.base import Config


class TpeConfig(Config):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; several objectives: Ozaki 2022)."""

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(10, ge=0, description="Random trials before the model is used.")
    multivariate: bool = Field(True, description="Model parameters jointly, not one by one.")


class Nsga2Config(Config):
    """Genetic search with non-dominated sorting (Deb et al. 2002)."""

    name: Literal["nsga2"] = "nsga2"
    population_size: int = Field(20, ge=2)


class RandomConfig(Config):
    """Independent draws."""

    name: Literal["random"] = "random"


SamplerConfig = Annotated[TpeConfig | Nsga2Config | RandomConfig, Field(discriminator="name")]
