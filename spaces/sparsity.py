"""What sparse topology methods share: density, how it is spread, in which units, by which score."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from spaces.base import Config, Density

Distribution = Literal["uniform", "erdos_renyi", "erk", "searched"]
RankedDistribution = Literal["global", "uniform", "erdos_renyi", "erk", "searched"]
DropCriterion = Literal[
    "magnitude",
    "sensitivity",
    "stability",
    "adversarial_gradient",
    "cosine",
    "momentum",
    "random",
]
GrowCriterion = Literal["gradient", "certified_gradient", "cosine", "momentum", "random"]
DropSchedule = Literal["cosine", "constant", "linear"]


def _as_text(value: Any) -> Any:
    """YAML reads 2:4 without quotes as a number to the base of 60."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 60:
        n, m = divmod(value, 60)
        raise ValueError(f'write it in quotes: granularity: "{n}:{m}"')
    return value


Granularity = Annotated[
    str, BeforeValidator(_as_text), Field(pattern=r"^(weight|kernel|unit|[1-9]\d?:[1-9]\d?)$")
]


class SparseConfig(Config):
    """What every sparse method shares."""

    density: Density = Field(
        0.1,
        description="Share of the weights of linear and convolution layers that the ticket keeps.",
    )
    distribution: Distribution = Field(
        "erk",
        description="How the weights are shared out among layers: the same share everywhere, "
        "Erdos-Renyi (Mocanu et al. 2018), Erdos-Renyi-Kernel (Evci et al. 2020), or searched: "
        "in proportion to layer_ratios.",
    )
    layer_ratios: tuple[Annotated[float, Field(gt=0.0, le=1e6)], ...] = Field(
        (),
        description="With distribution: searched, the density of each linear and convolution layer "
        "relative to the others, from the first to the last (a shortcut comes after its block). "
        "Only their proportions matter; density stays as it is. Units take that of the layer that "
        "makes them.",
    )
    granularity: Granularity = Field(
        "weight",
        description="What is kept or pruned as a whole: weight, kernel (of a convolution; else a "
        "weight), unit (channel or neuron, with its incoming and outgoing weights), or N:M, such "
        'as "2:4" in quotes (of each M weights in a row, at most N stay).',
    )

    @model_validator(mode="after")
    def _ratios_belong_to_searched(self) -> SparseConfig:
        if self.distribution == "searched" and not self.layer_ratios:
            raise ValueError(
                "distribution: searched needs the density of each layer relative to the others: "
                "add layer_ratios, for example [1.0, {low: 0.2, high: 5.0, log: true}, 2.0] for "
                "three layers"
            )
        if self.layer_ratios and self.distribution != "searched":
            raise ValueError(
                f"layer_ratios belongs to distribution: searched, but distribution is "
                f"{self.distribution}: remove layer_ratios, or set distribution: searched"
            )
        return self

    @model_validator(mode="after")
    def _density_fits_the_pattern(self) -> SparseConfig:
        pattern = n_of_m(self.granularity)
        if pattern is None:
            return self
        n, m = pattern
        if 2 * n > m:
            raise ValueError(
                f"granularity: {self.granularity} must keep at most half of each {m} weights: use "
                f"{max(m // 2, 1)}:{max(m, 2)}, or granularity: weight"
            )
        if self.density > n / m:
            raise ValueError(
                f"density: {self.density:g} is more than granularity: {self.granularity} can keep: "
                f"lower it to {n / m!r} or less"
            )
        return self


class RankedConfig(SparseConfig):
    """A method that gives every weight a score, so that all layers can be ranked together."""

    distribution: RankedDistribution = Field(  # type: ignore[assignment]
        "global",
        description="global: the best weights of the whole network stay, wherever they are; or "
        "how the weights are shared out among layers first, as for other methods.",
    )


def n_of_m(granularity: str) -> tuple[int, int] | None:
    """(N, M) of a granularity N:M, None of the others."""
    match = re.fullmatch(r"(\d+):(\d+)", granularity)
    return (int(match[1]), int(match[2])) if match else None
