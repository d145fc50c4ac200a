"""Loss, training epsilon, optimizer, evaluation and compute of one trial."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spaces.base import Config, Fraction

Kappa = Annotated[
    Fraction, Field(description="Weight of the natural loss once the ramp has ended.")
]
KappaStart = Annotated[Fraction, Field(description="Weight of the natural loss when it starts.")]
ReluShrink = Annotated[
    float,
    Field(
        gt=0.0,
        le=1.0,
        description="Factor on the radii behind each ReLU, in training only, for it is not sound; "
        "1: off. 0.8 for CIFAR-10 at 2/255 (CTBench; Mao et al. 2024).",
    ),
]


class BaseLossConfig(Config):
    """What every loss may have."""

    stability_weight: float = Field(
        0.0,
        ge=0.0,
        le=10.0,
        description="Weight of the normalised ReLU stability of all units, by interval bounds at "
        "the current epsilon: 0.001 in CertifiedPruning with CROWN-IBP (Li et al. 2022).",
    )


class MixedLossConfig(BaseLossConfig):
    """kappa * natural + (1 - kappa) * the loss's own, kappa going from `kappa_start` to `kappa`."""

    kappa: Kappa = 0.5
    kappa_start: KappaStart = 1.0


class CertifiedLossConfig(MixedLossConfig):
    """A loss whose own term bounds, or comes near to, the worst case in the ball."""

    warmup_regularizer: float = Field(
        0.5,
        ge=0.0,
        le=100.0,
        description="Weight of the bound-tightness and ReLU-balance terms during the ramp "
        "(Shi et al. 2021).",
    )


class AttackConfig(Config):
    """An attack within a training step: signed gradient steps from the example itself."""

    attack_steps: int = Field(8, ge=1, le=1000, description="Steps of the attack.")
    attack_step_size: float = Field(
        1.0,
        gt=0.0,
        le=10.0,
        description="First step over the attack's radius; steps shrink to nearly 0 along half a "
        "cosine.",
    )


class SmallBoxConfig(AttackConfig):
    """A box around an adversarial point, smaller than the ball."""

    subselection_ratio: float = Field(
        0.4,
        gt=0.0,
        le=1.0,
        description="lambda: radius of the box over epsilon, once the ramp has ended. 0.4 and 0.6 "
        "for MNIST at 0.1 and 0.3, 0.1 and 0.7 for CIFAR-10 at 2/255 and 8/255 (Mueller et al. "
        "2023).",
    )
    subselection_ratio_start: float | None = Field(
        None, gt=0.0, le=1.0, description="lambda when the ramp starts; unset: the same throughout."
    )


class NaturalLossConfig(BaseLossConfig):
    """Plain cross-entropy; the network is verified all the same."""

    name: Literal["natural"] = "natural"


class PgdLossConfig(MixedLossConfig, AttackConfig):
    """Adversarial training: cross-entropy at the end of an attack (Madry et al. 2018)."""

    name: Literal["pgd"] = "pgd"
    kappa: Kappa = 0.0
    kappa_start: KappaStart = 0.0


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


class SabrLossConfig(CertifiedLossConfig, SmallBoxConfig):
    """SABR (Mueller et al. 2023): intervals of a small box around an adversarial point.

    kappa is that of CTBench for MNIST at 0.1 (Mao et al. 2024), as it is of the losses below.
    """

    name: Literal["sabr"] = "sabr"
    kappa: Kappa = 0.3
    kappa_start: KappaStart = 0.3
    relu_shrink: ReluShrink = 1.0


class MtlIbpLossConfig(CertifiedLossConfig, AttackConfig):
    """MTL-IBP (De Palma et al. 2024): alpha * IBP + (1 - alpha) * adversarial loss."""

    name: Literal["mtl_ibp"] = "mtl_ibp"
    kappa: Kappa = 0.3
    kappa_start: KappaStart = 0.3
    alpha: Fraction = Field(
        0.02,
        description="Weight of the IBP loss once the ramp has ended. 0.02 and 0.5 for MNIST at 0.1 "
        "and 0.3, 0.01 and 0.6 for CIFAR-10 at 2/255 and 8/255 (CTBench).",
    )
    alpha_start: Fraction | None = Field(
        None, description="Weight of the IBP loss when it starts; unset: the same throughout."
    )
    attack_factor: float = Field(
        1.0,
        gt=0.0,
        le=10.0,
        description="Radius of the attack over epsilon: 2 for MNIST at 0.1, 2.1 for CIFAR-10 at "
        "2/255 (De Palma et al. 2024).",
    )


class LatentAttackConfig(CertifiedLossConfig, AttackConfig):
    """Intervals up to a cut, an attack within their box behind it."""

    kappa: Kappa = 0.3
    kappa_start: KappaStart = 0.3
    attacked_relus: int = Field(
        1, ge=1, le=1000, description="The cut: how many ReLU layers, the last ones, lie behind it."
    )
    gradient_scale: float = Field(
        4.0,
        gt=0.0,
        le=1000.0,
        description="Factor on the gradient of the attack's loss: 4 for MNIST, 2 or 4 for CIFAR-10 "
        "(CTBench), 5 in the paper.",
    )
    relu_shrink: ReluShrink = 1.0


class TapsLossConfig(LatentAttackConfig):
    """TAPS (Mao et al. 2023): intervals up to a cut, an attack within their box behind it.

    The loss is the product of the attack's and that of intervals all the way.
    """

    name: Literal["taps"] = "taps"


class StapsLossConfig(LatentAttackConfig, SmallBoxConfig):
    """STAPS (Mao et al. 2023): TAPS on the small box of SABR."""

    name: Literal["staps"] = "staps"


LossConfig = Annotated[
    NaturalLossConfig
    | PgdLossConfig
    | IbpLossConfig
    | CrownIbpLossConfig
    | SabrLossConfig
    | MtlIbpLossConfig
    | TapsLossConfig
    | StapsLossConfig,
    Field(discriminator="name"),
]


class EpsilonConfig(Config):
    """The training radius over time: zero, then a ramp, then `train_factor` * evaluation radius.

    Shares are of all epochs of the budget, whether a trial gets to train for them or not: one that
    is stopped early has been through the beginning of its schedule, never a shorter version of it.
    """

    train_factor: float = Field(
        1.0, gt=0.0, le=10.0, description="Training radius over evaluation radius, after the ramp."
    )
    warmup: float = Field(0.05, ge=0.0, lt=1.0, description="Share of the epochs before the ramp.")
    ramp_end: float = Field(
        0.5, gt=0.0, le=1.0, description="Share of the epochs by which the ramp has ended."
    )
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
        (0.75, 0.9), description="Shares of all steps at which `step` multiplies lr by lr_factor."
    )
    lr_factor: float = Field(0.2, gt=0.0, le=1.0)
    swa_start: Fraction = Field(
        1.0,
        description="Stochastic weight averaging (Izmailov et al. 2018): the result is the mean of "
        "the weights after each epoch that ends later than this share of the epochs; 1: off.",
    )


VerificationMethod = Literal["ibp", "crown-ibp", "crown", "alpha-crown", "exact"]


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
        ("ibp", "crown-ibp", "crown"),
        min_length=1,
        description="The cascade at the end of a trial, cheapest first.",
    )
    timeout_s: float = Field(
        10.0, ge=0.0, description="Seconds that one example may take at the end of a trial."
    )
    budget_s: float = Field(
        300.0,
        ge=0.0,
        description="Seconds that all examples together may take at the end of a trial, all radii "
        "included; what is open then counts as not verified.",
    )
    certify_front: bool = Field(
        True,
        description="Once the search has ended, find exact verdicts for the members of the front: "
        "metric exact_verified_accuracy.",
    )
    latency: bool = Field(
        False,
        description="Time the compacted network at the end of a trial, for about half a second: "
        "metrics latency_s and latency_256_s. Trials that run beside it slow it down.",
    )
    attack_steps: int = Field(20, ge=1)
    attack_restarts: int = Field(2, ge=1)
    rung_score: Literal["small_radius", "training_radius", "mean_radii"] = Field(
        "small_radius",
        description="At which radius the IBP-verified accuracy after an epoch is the metric "
        "rung_score, by which trials are compared while their epsilon ramps differ: at "
        "rung_radius_factor times the radius; at the current training radius, or the radius if "
        "that is smaller; or the mean at 0.25, 0.5, 0.75 and 1 times the radius.",
    )
    rung_radius_factor: float = Field(
        0.1, gt=0.0, le=1.0, description="Of rung_score: small_radius; a share of the radius."
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
