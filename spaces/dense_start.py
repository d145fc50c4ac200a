"""Topology methods that train the dense network first, and cut or search the ticket in it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spaces.base import Fraction, OpenFraction
from spaces.sparsity import DropCriterion, RankedConfig


class GradualConfig(RankedConfig):
    """Dense to sparse in small steps: density falls by the cube of the time that is left."""

    drop: DropCriterion = Field(
        "magnitude", description="Criterion by which the worst weights are pruned."
    )
    start: Fraction = Field(0.1, description="Share of training after which pruning starts.")
    end: OpenFraction = Field(0.6, description="Share of training at which density is reached.")
    update_every: int | None = Field(
        None,
        ge=1,
        description="Steps between two prunings. When unset 100, or fewer in a short training, so "
        "that there are five.",
    )

    @model_validator(mode="after")
    def _pruning_has_time(self) -> GradualConfig:
        if self.end <= self.start:
            raise ValueError(
                f"end ({self.end}) must be greater than start ({self.start}): raise end or lower "
                "start"
            )
        return self


class GmpConfig(GradualConfig):
    """Gradual magnitude pruning (Zhu and Gupta 2017), or pruning by another criterion."""

    method: Literal["gmp"] = "gmp"


class StabilityConfig(GradualConfig):
    """Prunes what feeds unstable ReLUs first (CertifiedPruning, Li et al. 2022).

    Best with `stability_weight` of the loss above 0, the NRS term of the same paper.
    """

    method: Literal["stability"] = "stability"
    drop: Literal["stability"] = "stability"


class GapConfig(GradualConfig):
    """Greedy adversarial pruning: the largest adversarial gradients go first.

    Our reading; neither the schedule nor the code of GAP is public.
    """

    method: Literal["gap"] = "gap"
    drop: Literal["adversarial_gradient"] = "adversarial_gradient"


class AcdcConfig(RankedConfig):
    """Alternating compressed and decompressed phases, with a dense twin (Peste et al. 2021)."""

    method: Literal["acdc"] = "acdc"
    warmup: OpenFraction = Field(0.05, description="Share of training before the first phase.")
    cycles: int = Field(4, ge=1, le=100, description="Compressed and decompressed phase pairs.")
    final: OpenFraction = Field(0.15, description="Share of training of the last, sparse phase.")

    @model_validator(mode="after")
    def _phases_have_time(self) -> AcdcConfig:
        if self.warmup + self.final >= 1.0:
            raise ValueError(
                f"warmup ({self.warmup}) and final ({self.final}) must leave time for the phases "
                "between them: lower one, so that their sum is below 1"
            )
        return self


class DeadwoodingConfig(RankedConfig):
    """A Lagrangian multiplier presses weights to zero, then one cut, then distillation.

    Our reading of Deadwooding, whose code is not public.
    """

    method: Literal["deadwooding"] = "deadwooding"
    cut: OpenFraction = Field(0.5, description="Share of training at which weights are cut.")
    scale: float = Field(
        0.01, gt=0.0, le=10.0, description="Magnitude from which on a weight counts as one."
    )
    dual_rate: float = Field(
        0.01, gt=0.0, le=10.0, description="How fast the multiplier grows with the violation."
    )
    distillation: float = Field(
        0.5, ge=0.0, le=10.0, description="Weight of the dense twin's outputs after the cut."
    )


class GibbsConfig(RankedConfig):
    """Masks are drawn anew at each step, ever less at random (Labach and Valaee 2020)."""

    method: Literal["gibbs"] = "gibbs"
    granularity: Literal["weight", "kernel", "unit"] = Field(
        "weight", description="What is kept or pruned as a whole; N:M has no Gibbs form."
    )
    beta_start: float = Field(1.0, gt=0.0, le=1e8, description="Inverse temperature at the start.")
    beta_end: float = Field(1e4, gt=0.0, le=1e8, description="Inverse temperature at the end.")
    end: OpenFraction = Field(0.64, description="Share of training after which masks are fixed.")

    @model_validator(mode="after")
    def _masks_cool_down(self) -> GibbsConfig:
        if self.beta_end < self.beta_start:
            raise ValueError(
                f"beta_end ({self.beta_end:g}) must be at least beta_start ({self.beta_start:g}), "
                "so that masks become less random: raise beta_end or lower beta_start"
            )
        return self


class SlimmingConfig(RankedConfig):
    """Sparsity of batch normalisation's scales, then one cut of channels (Liu et al. 2017).

    Needs a model with batch normalisation.
    """

    method: Literal["slimming"] = "slimming"
    granularity: Literal["unit"] = "unit"
    penalty: float = Field(
        1e-4, ge=0.0, le=1.0, description="Weight of the l1 norm of the scales before the cut."
    )
    cut: OpenFraction = Field(0.5, description="Share of training at which channels are cut.")


class HardConcreteConfig(RankedConfig):
    """Masks learned on adversarial inputs around frozen weights (Zheng et al. 2022).

    Weights are trained dense up to `search_start`, then masks alone up to `search_end`, then the
    weights of the ticket.
    """

    method: Literal["hard_concrete"] = "hard_concrete"
    search_start: OpenFraction = Field(0.4, description="Share of training before the mask search.")
    search_end: OpenFraction = Field(0.6, description="Share of training at the search's end.")
    penalty: float = Field(0.5, ge=0.0, le=100.0, description="Weight of the expected density.")
    mask_lr: float = Field(0.1, gt=0.0, le=10.0, description="Learning rate of the masks (AdamW).")
    attack_steps: int = Field(5, ge=1, le=100, description="Steps of the attack in the search.")

    @model_validator(mode="after")
    def _search_has_time(self) -> HardConcreteConfig:
        if self.search_end <= self.search_start:
            raise ValueError(
                f"search_end ({self.search_end}) must be greater than search_start "
                f"({self.search_start}): raise search_end or lower search_start"
            )
        return self


class JackpotsConfig(RankedConfig):
    """A mask is searched on a frozen network (Lottery Jackpots, Zhang et al. 2021).

    The network is trained dense up to `search_start`; give `train` the weights of a trained one,
    and a small `search_start`, to search in that.
    """

    method: Literal["jackpots"] = "jackpots"
    search_start: float = Field(
        0.5, ge=0.0, lt=1.0, description="Share of training before the mask search."
    )
    mask_lr: float = Field(0.1, gt=0.0, le=10.0, description="Learning rate of the scores (SGD).")
