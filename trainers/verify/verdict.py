"""What verification found, example by example, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Verdict = Literal["verified", "falsified", "unknown", "misclassified"]


@dataclass(frozen=True)
class StepRecord:
    """One step of the cascade: how many examples reached it, how many it decided, in what time."""

    name: str
    num_examples: int
    num_decided: int
    seconds: float


@dataclass(frozen=True)
class VerificationResult:
    """Verdicts on `num_examples` examples at l-infinity `radius` (data units).

    With a radius for each example, `radius` is the largest.
    verdicts[i] is "misclassified" (already without perturbation), "verified" (no input of the
    ball, clipped to the data range, changes the class), "falsified" (counterexamples[i] does) or
    "unknown". method[i] is the step that decided: "natural", "pgd", a bound's name or "exact";
    "undecided" or "timeout" for unknown ones. `precision` is the floating-point type of the bounds.
    example_seconds: what each took, its share of batches included.
    num_open_relus has, for examples that came to the exact step, the ReLUs that CROWN left on
    either side of zero. tolerances: shares of the largest logit that a margin must exceed,
    "rounding" for bounds and "solver_margin" more for programs, and by how much the solver may miss
    a constraint ("solver_feasibility").
    """

    verdicts: tuple[Verdict, ...]
    method: tuple[str, ...]
    counterexamples: dict[int, Tensor]
    radius: float
    seconds: float
    steps: tuple[StepRecord, ...]
    precision: str
    example_seconds: tuple[float, ...] = ()
    num_open_relus: Mapping[int, int] = field(default_factory=dict)
    tolerances: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        """How many examples were judged."""
        return len(self.verdicts)

    @property
    def natural_accuracy(self) -> float:
        """Share of examples classified correctly without perturbation."""
        return self._share("verified", "falsified", "unknown")

    @property
    def verified_accuracy(self) -> float:
        """Share of examples classified correctly on the whole ball, proven."""
        return self._share("verified")

    @property
    def falsified_accuracy_bound(self) -> float:
        """1 - share falsified or misclassified: no verifier can prove more."""
        return self._share("verified", "unknown")

    def _share(self, *verdicts: Verdict) -> float:
        return sum(verdict in verdicts for verdict in self.verdicts) / self.num_examples
