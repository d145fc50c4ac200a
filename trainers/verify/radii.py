"""Several radii in one call, and the largest radius at which each example is verified."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainers.errors import VerificationError
from trainers.verify.cascade import AVAILABLE_METHODS, verify
from trainers.verify.verdict import VerificationResult

Verify = Callable[..., VerificationResult]
"""`verify`, or what judges something else than an nn.Module in the same way."""


def verify_radii(
    model: Any,
    x_BCHW: Tensor,
    y_B: Tensor,
    radii: Sequence[float],
    *,
    judge: Verify = verify,
    **options: Any,
) -> dict[float, VerificationResult]:
    """`verify` at each of the `radii`, by radius, without asking what is known already.

    What is verified at one radius is verified at each smaller one, and what is falsified there is
    falsified, by the same input, at each larger one: `method` then says "larger radius" or "smaller
    radius". The middle radius is asked first, then those in the middle of what is left. `options`
    are those of `judge`, which is `verify`, or `verify_artifact` for an exported network;
    `budget_s` is for all radii together.
    """
    if not radii:
        raise VerificationError("radii is empty: give at least one radius")
    ordered = sorted(set(radii))
    known: dict[float, VerificationResult] = {}
    deadline = _deadline(options)
    for radius in _middle_first(ordered):
        known[radius] = _at(
            radius, known, partial(judge, model), x_BCHW, y_B, {**options, **_left(deadline)}
        )
    return {radius: known[radius] for radius in ordered}


@dataclass(frozen=True)
class CertifiedRadii:
    """How far each example is safe, in data units.

    verified_B: the largest radius found verified, at least 0 for what is classified correctly, and
    NaN for what is not. falsified_B: the distance of the nearest counterexample found, infinite
    where there is none. The true radius lies between the two.
    """

    verified_B: Tensor
    falsified_B: Tensor
    largest: float
    tolerance: float
    bound: str
    seconds: float

    @property
    def mean_certified_radius(self) -> float:
        """Mean of verified_B; what is misclassified counts as 0."""
        return float(self.verified_B.nan_to_num(0.0).mean())

    def verified_accuracy(self, radius: float) -> float:
        """Share of the examples that are verified at `radius`: the curve, up to `largest`."""
        return float((self.verified_B >= radius).double().mean())


def certified_radii(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    *,
    largest: float,
    tolerance: float,
    **options: Any,
) -> CertifiedRadii:
    """Find the radius up to which each example is verified, by bisection between 0 and `largest`.

    It ends when the largest verified and the smallest other radius are within `tolerance`. Where
    `verify` finds no answer, the search goes on below. `options` are those of `verify`; `budget_s`
    is for all of it, and what is found by then counts.
    """
    if not (math.isfinite(largest) and 0.0 < tolerance <= largest):
        raise VerificationError(
            f"largest is {largest} and tolerance {tolerance}: give 0 < tolerance <= largest"
        )
    started, deadline = time.perf_counter(), _deadline(options)
    verified_B = torch.zeros(len(x_BCHW), dtype=torch.float64)
    falsified_B = torch.full_like(verified_B, math.inf)
    beyond_B = torch.full_like(verified_B, largest)  # not verified there, as far as is known
    asked_B = beyond_B.clone()
    going = torch.arange(len(x_BCHW))
    while len(going):
        found = verify(
            model, x_BCHW[going], y_B[going], asked_B[going], **{**options, **_left(deadline)}
        )
        for n, (i, verdict) in enumerate(zip(going.tolist(), found.verdicts, strict=True)):
            if verdict == "verified":
                verified_B[i] = asked_B[i]
            elif verdict == "misclassified":
                verified_B[i], falsified_B[i] = math.nan, 0.0
            else:
                beyond_B[i] = asked_B[i]
            if verdict == "falsified":
                difference = found.counterexamples[n].double() - x_BCHW[i].double()
                falsified_B[i] = difference.abs().max()
        # A comparison with NaN is false: what is misclassified is not asked again.
        going = (beyond_B - verified_B > tolerance).nonzero().flatten()
        if time.perf_counter() >= deadline:
            break
        asked_B = (beyond_B + verified_B) / 2
    bound = "+".join(options.get("methods", AVAILABLE_METHODS))
    seconds = time.perf_counter() - started
    return CertifiedRadii(verified_B, falsified_B, largest, tolerance, bound, seconds)


def _middle_first(ordered: Sequence[float]) -> list[float]:
    if not ordered:
        return []
    middle = len(ordered) // 2
    return [
        ordered[middle],
        *_middle_first(ordered[:middle]),
        *_middle_first(ordered[middle + 1 :]),
    ]


def _at(
    radius: float,
    known: dict[float, VerificationResult],
    judge: Verify,
    x_BCHW: Tensor,
    y_B: Tensor,
    options: dict[str, Any],
) -> VerificationResult:
    """The result at one radius, given those at others."""
    verdicts: list[Any] = [None] * len(y_B)
    method, counterexamples = [""] * len(y_B), {}
    for other, result in known.items():
        for i, verdict in enumerate(result.verdicts):
            if verdict == "misclassified":
                verdicts[i], method[i] = verdict, "natural"
            elif verdict == "verified" and radius < other:
                verdicts[i], method[i] = verdict, "larger radius"
            elif verdict == "falsified" and radius > other:
                verdicts[i], method[i] = verdict, "smaller radius"
                counterexamples[i] = result.counterexamples[i]
    open_ = [i for i, verdict in enumerate(verdicts) if verdict is None]
    if not open_:
        template = next(iter(known.values()))
        return replace(
            template, verdicts=tuple(verdicts), method=tuple(method), radius=radius, seconds=0.0,
            counterexamples=counterexamples, steps=(), num_open_relus={},
            example_seconds=(0.0,) * len(y_B),
        )  # fmt: skip
    found = judge(x_BCHW[open_], y_B[open_], radius, **options)
    seconds = [0.0] * len(y_B)
    for n, i in enumerate(open_):
        verdicts[i], method[i] = found.verdicts[n], found.method[n]
        seconds[i] = found.example_seconds[n]
        if n in found.counterexamples:
            counterexamples[i] = found.counterexamples[n]
    num_open = {open_[n]: count for n, count in found.num_open_relus.items()}
    return replace(
        found, verdicts=tuple(verdicts), method=tuple(method), counterexamples=counterexamples,
        num_open_relus=num_open, example_seconds=tuple(seconds),
    )  # fmt: skip


def _deadline(options: dict[str, Any]) -> float:
    budget_s = options.get("budget_s")
    return math.inf if budget_s is None else time.perf_counter() + budget_s


def _left(deadline: float) -> dict[str, float]:
    """The budget that is left, as an option of `verify`."""
    return {} if deadline == math.inf else {"budget_s": max(0.0, deadline - time.perf_counter())}
