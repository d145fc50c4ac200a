"""By which sampler a study proposes its trials."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spaces.base import Config

_STARTUP = "How the first trials are drawn: spread evenly (qmc), or at random."
_STARTUP_TRIALS = "Trials that have ended, or wait at a rung, before the model is used."
_POPULATION = (
    "Completed trials that make a generation; the first one is random. With early stopping it takes"
    " many more trials."
)


class TpeConfig(Config):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; several objectives: Ozaki 2022).

    Parameters of a branch of the space are modelled from the trials that took it. A quarter of the
    completed trials counts as good (with one objective: a tenth); all others, and those that were
    stopped early, as bad. Where trials wait at rungs (variant promotion), and fewer than five have
    completed, it is a quarter of those at the highest rung that five have reached.
    """

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(10, ge=0, description=_STARTUP_TRIALS)
    startup: Literal["qmc", "random"] = Field("qmc", description=_STARTUP)
    multivariate: bool = Field(False, description="Model parameters jointly, not one by one.")


class Nsga2Config(Config):
    """Genetic search with non-dominated sorting (Deb et al. 2002). Stopped trials are no parents.

    A parameter of a branch is inherited from one of the parents that took the same branch.
    """

    name: Literal["nsga2"] = "nsga2"
    population_size: int = Field(20, ge=2, description=_POPULATION)


class Nsga3Config(Config):
    """NSGA-II with reference points in the place of crowding (Deb and Jain 2014).

    For four objectives and more; branches and stopped trials as with nsga2.
    """

    name: Literal["nsga3"] = "nsga3"
    population_size: int = Field(20, ge=2, description=_POPULATION)


class GpConfig(Config):
    """Gaussian processes and expected hypervolume improvement, for few and costly trials.

    Only parameters that every trial has are modelled: those of a branch are drawn as at the start.
    Stopped trials are left out. A proposal takes seconds (3 after 30 completed trials, 11 after
    300), in which no other trial is started or stopped.
    """

    name: Literal["gp"] = "gp"
    startup_trials: int = Field(
        10, ge=1, description="Completed trials before the model is used; stopped ones are no help."
    )
    startup: Literal["qmc", "random"] = Field("qmc", description=_STARTUP)


class RandomConfig(Config):
    """Independent draws."""

    name: Literal["random"] = "random"


class QmcConfig(Config):
    """A scrambled Sobol sequence (Sobol 1967; Owen 1998): points spread more evenly than at random.

    It covers the whole space, each parameter of each branch included, and learns nothing.
    """

    name: Literal["qmc"] = "qmc"


class WarmStartConfig(Config):
    """Earlier studies whose trials the sampler knows before it proposes its first one.

    Used are completed trials whose settings lie in this study's space, and whose figures were
    measured as this study measures them. They are none of its own trials: neither its budget nor
    its front has them. Samplers that learn nothing (random, qmc) refuse.
    """

    studies: tuple[str, ...] = Field(
        (), description="Names of studies, or their files; all searches of a name are read."
    )
    tracking_uri: str | None = Field(
        None,
        min_length=1,
        description="Where they are recorded; this study's tracking.uri if unset.",
    )


SamplerConfig = Annotated[
    TpeConfig | Nsga2Config | Nsga3Config | GpConfig | RandomConfig | QmcConfig,
    Field(discriminator="name"),
]
