"""What a certificate says."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from analysis.intervals import wilson
from analysis.manifest import OnnxCheck, digest
from spaces.base import Config
from trainers.verify import CertifiedRadii, VerificationResult

SCHEMA_VERSION = 3
"""1 had no steps, tolerances, second opinion or certified radii, and a time limit per radius; 2 no
artifacts and no digest."""


class Step(Config):
    """One step of the cascade: how many examples came to it, what it decided, in what time."""

    name: str
    num_examples: int
    num_decided: int
    seconds: float


class OpenRelus(Config):
    """ReLUs that CROWN leaves on either side of zero, per example that came to the solver."""

    num_examples: int
    median: float
    largest: int


class RadiusResult(Config):
    """Verdicts at one radius: accuracies are fractions of all examples, intervals Wilson 95 %."""

    radius: float
    natural_accuracy: float
    natural_interval: tuple[float, float]
    verified_accuracy: float
    verified_interval: tuple[float, float]
    falsified_accuracy_bound: float
    num_verified: int
    num_falsified: int
    num_unknown: int
    num_misclassified: int
    decided_by: dict[str, int] = Field(description="Examples decided by each method.")
    precision: str = Field(description="Floating-point type of the bounds.")
    seconds: float
    verdicts: tuple[str, ...] = Field(description="One per example, in the split's order.")
    method: tuple[str, ...] = Field(description="Which method decided each example.")
    steps: tuple[Step, ...] = Field((), description="The cascade, in the order in which it ran.")
    open_relus: OpenRelus | None = Field(None, description="None when no example came to a solver.")

    @property
    def num_timeouts(self) -> int:
        """Of the unknown examples, those for which time ran out."""
        return self.method.count("timeout")

    @classmethod
    def from_result(cls, result: VerificationResult) -> RadiusResult:
        """The record of what verification found at one radius."""
        counts, n = Counter(result.verdicts), result.num_examples
        return cls(
            radius=result.radius,
            natural_accuracy=result.natural_accuracy,
            natural_interval=wilson(n - counts["misclassified"], n),
            verified_accuracy=result.verified_accuracy,
            verified_interval=wilson(counts["verified"], n),
            falsified_accuracy_bound=result.falsified_accuracy_bound,
            num_verified=counts["verified"],
            num_falsified=counts["falsified"],
            num_unknown=counts["unknown"],
            num_misclassified=counts["misclassified"],
            decided_by=dict(sorted(Counter(result.method).items())),
            precision=result.precision,
            seconds=round(result.seconds, 3),
            verdicts=result.verdicts,
            method=result.method,
            steps=tuple(
                Step(
                    name=step.name,
                    num_examples=step.num_examples,
                    num_decided=step.num_decided,
                    seconds=round(step.seconds, 3),
                )
                for step in result.steps
            ),
            open_relus=_open_relus(result.num_open_relus),
        )


class SecondOpinionRecord(Config):
    """Our bounds against auto_LiRPA's: on how many examples, and the largest difference.

    A share of the largest margin of its example (at least 1). `reason`: why there is none.
    """

    method: str = "crown-ibp"
    radius: float
    num_examples: int
    largest_difference: float
    reason: str | None


class OwnFigures(Config):
    """What the ticket says of itself, certified again by the bound that it names."""

    split: str
    bound: str
    radius: float
    num_examples: int
    claimed_verified_accuracy: float
    verified_accuracy: float
    num_timeouts: int


class CertifiedRadius(Config):
    """Up to which radius each example is verified, found by bisection between 0 and `largest`."""

    largest: float
    tolerance: float
    bound: str
    mean: float = Field(description="Mean of `verified`; what is misclassified counts as 0.")
    verified: tuple[float | None, ...] = Field(
        description="Largest radius found verified; null where the network is wrong already."
    )
    falsified: tuple[float | None, ...] = Field(
        description="Distance of the nearest counterexample found; null where there is none."
    )
    curve: tuple[tuple[float, float, float], ...] = Field(
        description="Radius, verified accuracy there, and 1 - share falsified within it. At 0 it "
        "is the natural accuracy."
    )
    seconds: float

    @classmethod
    def from_radii(cls, found: CertifiedRadii, bound: str) -> CertifiedRadius:
        """The record of the radii found by the cascade `bound`."""
        verified = tuple(None if math.isnan(r) else r for r in found.verified_B.tolist())
        falsified = tuple(None if math.isinf(r) else r for r in found.falsified_B.tolist())
        return cls(
            largest=found.largest,
            tolerance=found.tolerance,
            bound=bound,
            mean=found.mean_certified_radius,
            verified=verified,
            falsified=falsified,
            curve=tuple(
                (r, found.verified_accuracy(r), float((found.falsified_B > r).double().mean()))
                for r in _halvings(found.largest)
            ),
            seconds=round(found.seconds, 3),
        )


class ArtifactRecord(Config):
    """What was proved of one file that ships, or how else it was checked.

    Only "certified" files have `results`; `how` tells what that rests on, or why a file is not.
    """

    file: str
    sha256: str
    status: Literal["certified", "same weights", "compared", "not certified"]
    how: str
    batch_size: int | None = Field(
        None, description="Largest batch for which it holds; null: for all."
    )
    max_abs_difference: float | None = Field(
        None, description="Of its runtime's logits from those of the network read from the file."
    )
    difference_from_weights: float | None = Field(
        None, description="Of its runtime's logits from those of the ticket's weights."
    )
    agreement: float | None = Field(
        None, description="Share of examples for which it predicts what the ticket's weights do."
    )
    num_examples: int = Field(0, description="On how many examples these were measured.")
    results: tuple[RadiusResult, ...] = ()
    seconds: float = 0.0


class Certificate(Config):
    """What was proved of one ticket, on which examples, and by what."""

    schema_version: int = SCHEMA_VERSION
    ticket_digest: str = Field(description="`digest` of the ticket.json that was verified.")
    files: dict[str, str] = Field(description="sha256 of the ticket's files.")
    data: str
    split: str
    split_fingerprint: str
    num_examples: int
    bound: str = Field(description="The cascade of methods, cheapest first, joined by +.")
    timeout_s: float | None = Field(description="Seconds that one example may take at a radius.")
    budget_s: float | None = Field(None, description="Seconds that all of it may take.")
    workers: int | None = Field(None, description="Solver threads.")
    tolerances: dict[str, float] = Field(
        default_factory=dict,
        description="Shares of an example's largest logit: `rounding` that a bound must exceed, "
        "besides four times the measured rounding, and `solver_margin` that a program must exceed "
        "more; `solver_feasibility` is by how much the solver may miss a constraint.",
    )
    onnx: OnnxCheck | None
    second_opinion: SecondOpinionRecord | None = None
    own_figures: OwnFigures | None = None
    counterexamples: str | None = Field(
        description="sha256 of counterexamples.safetensors: a tensor `<radius>/<example>` for each "
        "falsified example, `<file>/<radius>/<example>` for one of an artifact; None when there is "
        "none."
    )
    versions: dict[str, str]
    results: tuple[RadiusResult, ...]
    certified_radius: CertifiedRadius | None = None
    artifacts: tuple[ArtifactRecord, ...] = Field((), description="The files that ship.")
    text: str = Field("", description="sha256 of certificate.md.")

    @property
    def summary(self) -> list[dict[str, float | int | str]]:
        """One row per radius: accuracies with intervals, counts, and how they were obtained."""
        return [
            {
                "split": self.split,
                "radius": r.radius,
                "bound": self.bound,
                "num_examples": self.num_examples,
                "natural_accuracy": r.natural_accuracy,
                "natural_low": r.natural_interval[0],
                "natural_high": r.natural_interval[1],
                "verified_accuracy": r.verified_accuracy,
                "verified_low": r.verified_interval[0],
                "verified_high": r.verified_interval[1],
                "falsified_accuracy_bound": r.falsified_accuracy_bound,
                "num_unknown": r.num_unknown,
                "seconds": r.seconds,
            }
            for r in self.results
        ]

    def to_json(self) -> str:
        """The certificate and its per-example verdicts as one JSON document with a digest."""
        document = {**self.model_dump(mode="json"), "summary": self.summary}
        return json.dumps({**document, "digest": digest(document)}, indent=1, allow_nan=False)


def _open_relus(counts: Mapping[int, int]) -> OpenRelus | None:
    if not counts:
        return None
    numbers = list(counts.values())
    return OpenRelus(
        num_examples=len(numbers), median=statistics.median(numbers), largest=max(numbers)
    )


def _halvings(largest: float, times: int = 4) -> list[float]:
    """0, `largest` and what lies between, by the very midpoints at which bisection asks."""
    points = [0.0, largest]
    for _ in range(times):
        middles = [(a + b) / 2 for a, b in zip(points, points[1:], strict=False)]
        points = sorted([*points, *middles])
    return points
