"""What a certificate says."""

from __future__ import annotations

import json
import math

from pydantic import Field

from analysis.manifest import OnnxCheck
from spaces.base import Config


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


class Certificate(Config):
    """What was proved of one ticket, on which examples, and by what."""

    schema_version: int = 1
    ticket_digest: str = Field(description="`digest` of the ticket.json that was verified.")
    files: dict[str, str] = Field(description="sha256 of the ticket's files.")
    data: str
    split: str
    split_fingerprint: str
    num_examples: int
    bound: str = Field(description="The cascade of methods, cheapest first, joined by +.")
    timeout_s: float | None
    onnx: OnnxCheck | None
    counterexamples: str | None = Field(
        description="sha256 of counterexamples.safetensors: a tensor `<radius>/<example>` for each "
        "falsified example; None when there is none."
    )
    versions: dict[str, str]
    results: tuple[RadiusResult, ...]

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
        """The certificate with its per-example verdicts as one JSON document."""
        document = {**self.model_dump(mode="json"), "summary": self.summary}
        return json.dumps(document, indent=1, allow_nan=False)


def wilson(num_successes: int, num_trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 % by default (Wilson 1927)."""
    n, share = num_trials, num_successes / num_trials
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
