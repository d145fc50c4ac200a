"""Verdicts on an exported network: on the file that ships, as its runtime computes it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainers.attack import climb, inner_ball, margins
from trainers.bounds import IntervalPass, ball
from trainers.bounds.arithmetic import allow_for_float32
from trainers.bounds.program import Program
from trainers.bounds.rounded import Rounded
from trainers.errors import VerificationError
from trainers.verify.cascade import verify
from trainers.verify.verdict import StepRecord, Verdict, VerificationResult

FLOAT32 = 1e-5
"""Share of the largest logit (at least 1) that a network of float32 weights may be off."""
_STEPS = 20
_BATCH = 100


@dataclass(frozen=True)
class Artifact:
    """An exported network.

    `program` is what was read from its file, in float64 (`trainers.lowering.onnx_reader`). `run`
    gives the logits (B, K) that its runtime computes for inputs (B, ...) in float32, each example
    in a batch of its own.
    """

    program: Program
    run: Callable[[Tensor], Tensor]

    @property
    def is_rounded(self) -> bool:
        """Whether activations are rounded to 8 bits."""
        return any(isinstance(op, Rounded) for op in self.program.ops)

    @property
    def is_dynamic(self) -> bool:
        """Whether roundings depend on the batch: what is proved holds for one example at a time."""
        return any(isinstance(op, Rounded) and op.scale is None for op in self.program.ops)


@torch.no_grad()
def verify_artifact(
    artifact: Artifact,
    x_BCHW: Tensor,
    y_B: Tensor,
    radius: float,
    **options: Any,
) -> VerificationResult:
    """Judge each example (x, y) as `trainers.verify.verify` does, but of what the runtime computes.

    "verified": proved of the network that was read, by margins that exceed what float32 arithmetic
    may change: bounded from the weights where activations are rounded, else four times what was
    measured. "misclassified" and "falsified": by the runtime itself, on an input of float32 in the
    ball; what only the network read gets wrong is unknown. `options` are those of `verify`.

    Raises VerificationError where the runtime contradicts a bound or a proof.
    """
    program, x = copy.deepcopy(artifact.program), x_BCHW.detach().double()
    box = ball(x, radius, options.get("low", 0.0), options.get("high", 1.0))
    bound = allow_for_float32(program, *box)
    error = bound if artifact.is_rounded else None

    def run(points: Tensor) -> Tensor:
        logits_BK = artifact.run(points)
        _check_runtime(program, error, points.double(), logits_BK)
        return logits_BK

    logits_BK = run(x_BCHW)
    if error is None:
        margin_B = 4.0 * (logits_BK - _in_batches(program, x)).abs().amax(1)
        if not math.isfinite(bound):  # sums may overflow in the ball, which no measurement tells
            margin_B = torch.full_like(margin_B, math.inf)
    else:
        margin_B = x.new_full((len(x),), 2.0 * error)
    found = verify(program, x, y_B, radius, margin=margin_B, **options)
    started = time.perf_counter()
    is_right = (logits_BK.argmax(1) == y_B).tolist()
    refuted = _attack(replace(artifact, run=run), x_BCHW.detach(), y_B, radius, found, options)
    return _judged(found, is_right, refuted, time.perf_counter() - started)


def _check_runtime(program: Program, error: float | None, x: Tensor, logits_BK: Tensor) -> None:
    """Raise VerificationError for logits that are not what was read from the file computes.

    Of rounded networks with tolerances, bounds at x itself tell what float32, off by `error`, may
    make of it; others may differ by FLOAT32.
    """
    if error is None:
        lower = upper = _in_batches(program, x)
        error = FLOAT32 * max(1.0, float(lower.abs().max()))
    else:
        interval = IntervalPass(program)
        parts = [interval.bounds(part, part) for part in x.split(_BATCH)]
        lower, upper = (torch.cat(ends) for ends in zip(*parts, strict=True))
    if logits_BK.shape != lower.shape:
        raise VerificationError(
            f"the runtime returns shape {tuple(logits_BK.shape)}, where the network in the file "
            f"has logits of shape {tuple(lower.shape)}"
        )
    beyond = torch.maximum(lower - logits_BK, logits_BK - upper).max()
    if not beyond <= error * (1.0 + 1e-9):
        raise VerificationError(
            f"the runtime's logits are up to {float(beyond):.3g} off what the weights in the file "
            f"make of the same input, where {error:.3g} is allowed: it computes something else, "
            "and nothing is certified"
        )


def _in_batches(program: Program, x: Tensor) -> Tensor:
    return torch.cat([program(part) for part in x.split(_BATCH)])


def _attack(
    artifact: Artifact,
    x: Tensor,
    y_B: Tensor,
    radius: float,
    found: VerificationResult,
    options: dict[str, Any],
) -> dict[int, Tensor]:
    """Inputs of the ball, in float32, that the runtime itself gets wrong."""
    range_ = options.get("low", 0.0), options.get("high", 1.0)
    lower, upper = inner_ball(x, radius, *range_)
    start = x.clone()
    for i, point in found.counterexamples.items():
        start[i] = point.to(x)
    start = start.clamp(lower, upper)
    refuted = _wrong(artifact, start, y_B)
    steps = options.get("attack_steps", _STEPS)
    for i in torch.arange(len(x), device=x.device).split(_BATCH):
        # As far as it goes, since the runtime is not quite the network that is climbed.
        ends = lower[i].double(), upper[i].double()
        objective = partial(_wrongness, artifact.program, y_B[i])
        point = climb(objective, start[i].double(), *ends, radius / 2, steps)
        for n, wrong in _wrong(artifact, point.to(x), y_B[i]).items():
            refuted.setdefault(int(i[n]), wrong)
    return refuted


def _wrongness(program: Program, y_B: Tensor, points: Tensor) -> Tensor:
    return margins(program(points), y_B).sum()


def _wrong(artifact: Artifact, points: Tensor, y_B: Tensor) -> dict[int, Tensor]:
    wrong = artifact.run(points).argmax(1) != y_B
    return {i: points[i].clone() for i in wrong.nonzero().flatten().tolist()}


def _judged(
    found: VerificationResult, is_right: list[bool], refuted: dict[int, Tensor], seconds: float
) -> VerificationResult:
    """Verdicts on the runtime, from those on the network read and what the runtime gets wrong."""
    judged = [_verdict(found, i, is_right[i], i in refuted) for i in range(len(is_right))]
    kept = {i: x for i, x in refuted.items() if is_right[i]}
    step = StepRecord("replay", sum(is_right), len(kept), seconds)
    return replace(
        found,
        verdicts=tuple(verdict for verdict, _ in judged),
        method=tuple(method for _, method in judged),
        counterexamples=kept,
        seconds=found.seconds + seconds,
        steps=(*found.steps, step),
    )


def _verdict(
    found: VerificationResult, i: int, is_right: bool, is_refuted: bool
) -> tuple[Verdict, str]:
    verdict, method = found.verdicts[i], found.method[i]
    if verdict == "verified" and (is_refuted or not is_right):
        raise VerificationError(
            f"example {i} is verified by {method}, but the runtime gets an input of its ball "
            "wrong: the proof does not hold for this file; report it, with the file"
        )
    if not is_right:
        return "misclassified", "natural"
    if is_refuted:
        return "falsified", method if verdict == "falsified" else "pgd"
    if verdict == "verified":
        return verdict, method
    return "unknown", "timeout" if method == "timeout" else "undecided"
