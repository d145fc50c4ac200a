"""Verifying a ticket's network on one split of its data, within limits of time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.errors import TicketError
from analysis.manifest import MANIFEST
from analysis.ticket import Ticket
from trainers.bounds import IntervalPass
from trainers.data import Split, load_data
from trainers.device import num_cpus, resolve_device
from trainers.verify import (
    AVAILABLE_METHODS,
    Artifact,
    CertifiedRadii,
    SecondOpinion,
    VerificationResult,
    certified_radii,
    second_opinion,
    verify_artifact,
    verify_radii,
)
from trainers.verify.checks import check_limits, check_settings

NUM_COMPARED = 4
"""Examples on which bounds are computed by auto_LiRPA too."""


@dataclass(frozen=True)
class Limits:
    """Seconds per example, seconds in all (None: no limit), and solver threads.

    The clock of `budget_s` starts when the object is made.
    """

    timeout_s: float | None
    budget_s: float | None
    workers: int
    started: float

    @classmethod
    def from_now(
        cls, timeout_s: float | None, budget_s: float | None, workers: int | None
    ) -> Limits:
        """Start the clock; VerificationError for a negative time or no worker."""
        workers = num_cpus() if workers is None else workers
        check_limits({"timeout_s": timeout_s, "budget_s": budget_s}, {"workers": (workers, 1)})
        # Infinity and None are the same question, but JSON can only say one of them.
        timeout_s, budget_s = (None if s == math.inf else s for s in (timeout_s, budget_s))
        return cls(timeout_s, budget_s, workers, time.perf_counter())

    def options(self) -> dict[str, Any]:
        """What is left now, as options of `trainers.verify.verify`."""
        left = self.budget_s
        if left is not None:
            left = max(0.0, left - (time.perf_counter() - self.started))
        return {"timeout_s": self.timeout_s, "budget_s": left, "workers": self.workers}


class Judge:
    """Verifies the network of `ticket`, whose folder is `folder`, on this machine's best device.

    Raises UnsupportedLayer, naming the layer, for a network that has no bounds.
    """

    def __init__(self, ticket: Ticket, folder: Path, limits: Limits) -> None:
        self.ticket, self.folder, self.limits = ticket, folder, limits
        self.device = resolve_device("auto")
        self.model = ticket.model().to(self.device)
        IntervalPass(self.model)

    def load(self, split: str) -> Split:
        """A split of the ticket's data; TicketError when it is not what it was in training."""
        part: Split = getattr(load_data(self.ticket.config.data, self.device), split)
        recorded = self.ticket.data_fingerprints.get(split)
        if recorded is not None and part.fingerprint != recorded:
            raise TicketError(
                f"the {split} split of {self.ticket.config.data.name} has changed since training: "
                f"its sha256 is {part.fingerprint}, but {self.folder / MANIFEST} says {recorded}. "
                "Restore the data, or the library that ships it, to what the ticket was trained "
                "with"
            )
        return part

    def verdicts(
        self, x_BCHW: Tensor, y_B: Tensor, radii: Sequence[float], methods: Sequence[str]
    ) -> dict[float, VerificationResult]:
        """Verdicts by radius, attacked as in the ticket's own evaluation."""
        return verify_radii(self.model, x_BCHW, y_B, radii, **self._options(methods))

    def artifact_verdicts(
        self,
        artifact: Artifact,
        x_BCHW: Tensor,
        y_B: Tensor,
        radii: Sequence[float],
        methods: Sequence[str],
    ) -> dict[float, VerificationResult]:
        """The same of an exported network, on the device of the examples."""
        options = self._options(methods)
        return verify_radii(artifact, x_BCHW, y_B, radii, judge=verify_artifact, **options)

    def certified_radii(
        self,
        x_BCHW: Tensor,
        y_B: Tensor,
        largest: float,
        tolerance: float,
        methods: Sequence[str],
    ) -> CertifiedRadii:
        """The radius up to which each example is verified."""
        return certified_radii(
            self.model, x_BCHW, y_B, largest=largest, tolerance=tolerance, **self._options(methods)
        )

    def second_opinion(self, x_BCHW: Tensor, y_B: Tensor, radius: float) -> SecondOpinion:
        """Whether auto_LiRPA finds the same bounds on the first few examples."""
        first = slice(NUM_COMPARED)
        return second_opinion(self.model, x_BCHW[first], y_B[first], radius)

    def _options(self, methods: Sequence[str]) -> dict[str, Any]:
        evaluation = self.ticket.config.evaluation
        return {
            "methods": tuple(methods),
            "attack_steps": evaluation.attack_steps,
            "attack_restarts": evaluation.attack_restarts,
            "seed": self.ticket.seed,
            **self.limits.options(),
        }


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """`methods` in the order of the cascade; VerificationError for one that does not exist."""
    check_settings(methods, AVAILABLE_METHODS, 0.0, 1.0)
    return tuple(name for name in AVAILABLE_METHODS if name in methods)
