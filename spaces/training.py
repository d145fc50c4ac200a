"""Loss, training epsilon, optimizer, evaluation and compute of one trial."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spaces.base import Config, Fraction


class NaturalLossConfig(Config):
    """Plain cross-entropy; the network is verified all the same."""

    name: Literal["natural"] = "natural"


class CertifiedLossConfig(Config):
    """kappa * natural + (1 - kappa) * certified, kappa going from `kappa_start` to `kappa`."""

    kappa: Fraction = Field(0.5, description="Weight of the natural loss once the ramp has ended.")
    kappa_start: Fraction = Field(1.0, description="Weight of the natural loss when it starts.")
    warmup_regularizer: float = Field(
        0.5,
        ge=0.0,
        le=100.0,
        description="Weight of the bound-tightness and ReLU-balance terms during the ramp "
        "(Shi et al. 2021).",
    )
    stability_weight: float = Field(
        0.0,
        ge=0.0,
        le=10.0,
        description="Weight of the normalised ReLU stability of all units at the current epsilon: "
        "0.001 in CertifiedPruning with CROWN-IBP (Li et al. 2022).",
    )


class IbpLossConfig(CertifiedLossConfig):
    """Interval bound propagation (Gowal et al. 2018)."""

    name: Literal["ibp"] = "ibp"


class CrownIbpLossConfig(CertifiedLossConfig):
    """CROWN-IBP (Zhang et al. 2020): beta * CROWN-IBP + (1 - beta) * IBP bounds.

    beta goes from 1 to `beta_end` during the epsilon ramp.
    """

    name: Literal["crown_ibp"] = "crown_ibp"
    beta_end: Fraction = Field(0.0, description="Weight of CROWN-IBP bounds after the ramp.")
    fusion: bool = Field(
        True,
        description="Bound the loss itself, by one backward pass, not each class's margin by one "
        "(loss fusion, Xu et al. 2020): somewhat looser, and many times faster.",
    )


LossConfig = Annotated[
    NaturalLossConfig | IbpLossConfig | CrownIbpLossConfig, Field(discriminator="name")
]


class EpsilonConfig(Config):
    """The training radius over time: zero, then a ramp, then `train_factor` * evaluation radius."""

    train_factor: float = Field(
        1.0, gt=0.0, le=10.0, description="Training radius over evaluation radius, after the ramp."
    )
    warmup: float = Field(0.05, ge=0.0, lt=1.0, description="Share of training before the ramp.")
    ramp_end: float = Field(0.5, gt=0.0, le=1.0, description="Share of training at the ramp's end.")
    shape: Literal["smoothed", "linear"] = Field(
        "smoothed", description="smoothed: quartic start, then linear (auto_LiRPA's scheduler)."
    )

    @model_validator(mode="after")
    def _ramp_has_length(self) -> EpsilonConfig:
        if self.ramp_end <= self.warmup:
            raise ValueError(
                f"ramp_end ({self.ramp_end}) must be greater than warmup ({self.warmup}): "
                "raise ramp_end or lower warmup"
            )
        return self


class OptimizerConfig(Config):
    """Optimizer, regularisation and learning-rate schedule."""

    name: Literal["adam", "adamw", "radam", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0.0, le=10.0)
    weight_decay: float = Field(0.0, ge=0.0, le=1.0)
    l1: float = Field(0.0, ge=0.0, le=1.0, description="Weight of the l1 norm of the weights.")
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="Of sgd only.")
    clip_norm: float = Field(10.0, gt=0.0, description="Largest l2 norm of the whole gradient.")
    lr_schedule: Literal["constant", "step", "cosine"] = "step"
    lr_milestones: tuple[Fraction, ...] = Field(
        (0.75, 0.9), description="Shares of training at which `step` multiplies lr by lr_factor."
    )
    lr_factor: float = Field(0.2, gt=0.0, le=1.0)


VerificationMethod = Literal["ibp", "crown-ibp", "crown"]


class EvaluationConfig(Config):
    """At which radii, and how, a network is measured. Radii are l-infinity, in data units."""

    radius: float = Field(gt=0.0, le=1.0, description="The radius of `verified_accuracy`.")
    radii: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (), description="Further radii, logged as verified_accuracy_at_<radius>."
    )
    examples: int | None = Field(
        None, ge=1, description="Validation examples used at the end of a trial (all when unset)."
    )
    epoch_examples: int = Field(
        500, ge=1, description="Validation examples used after each epoch, by the cheap bound."
    )
    methods: tuple[VerificationMethod, ...] = Field(
        ("ibp", "crown-ibp", "crown"), min_length=1, description="The cascade, cheapest first."
    )
    attack_steps: int = Field(20, ge=1)
    attack_restarts: int = Field(2, ge=1)
    rung_radius_factor: float = Field(
        0.1,
        gt=0.0,
        le=1.0,
        description="rung_score is the IBP-verified accuracy at this share of the radius: "
        "comparable between trials whose epsilon ramps differ.",
    )

    @model_validator(mode="after")
    def _radii_are_distinct(self) -> EvaluationConfig:
        names = [f"{radius:g}" for radius in (self.radius, *self.radii)]  # as metrics name them
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"radii: {name} appears twice in radius and radii: remove it")
        return self


class ComputeConfig(Config):
    """Where and how fast a trial runs; changes no result beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, description="torch threads on the CPU.")
    bf16: bool = Field(True, description="On CUDA, run the natural pass in bfloat16.")
    compile: bool = Field(False, description="Compile the training step with torch.compile.")
