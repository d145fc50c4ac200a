"""Verification, cheap steps first; each example stops at the first step that decides it."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from trainers.attack import pgd
from trainers.bounds import IntervalPass, ball
from trainers.bounds.lirpa import LirpaBounds
from trainers.errors import VerificationError
from trainers.verify.checks import check_examples, check_logits, check_settings
from trainers.verify.verdict import StepRecord, Verdict, VerificationResult

AVAILABLE_METHODS = ("ibp", "crown-ibp", "crown")
"""Bounds that `verify` can use, in the order in which it uses them."""

_ROUNDING = 1e-6
"""Share of the largest logit that a margin must exceed, besides the rounding that is measured."""
_CROWN_ELEMENTS = 2**25
"""Largest number of coefficients of one batch of CROWN bounds."""


def verify(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    radius: float,
    *,
    methods: Sequence[str] = AVAILABLE_METHODS,
    timeout_s: float | None = None,
    low: float = 0.0,
    high: float = 1.0,
    attack_steps: int = 20,
    attack_restarts: int = 2,
    batch_size: int = 100,
    seed: int = 0,
) -> VerificationResult:
    """Judge each example (x, y) over the l-infinity ball of `radius`, clipped to [low, high].

    The cascade: misclassified already; verified by interval bounds; falsified by an attack (none
    when attack_steps is 0); verified by the dearer bounds among `methods`. After `timeout_s`
    seconds what is open is "unknown". The model is copied, in evaluation mode; it is not changed.

    Bounds are computed in float64 (float32 where a device has no other), and must exceed zero by
    more than the rounding of the network itself: four times the difference between its logits in
    its own type and in float64, plus 1e-6 of the largest logit. A counterexample counts when a
    replay finds it in the ball, in the range and misclassified, in both types.

    Raises VerificationError for a question that makes no sense, and UnsupportedLayer for a
    network that has no bounds.
    """
    check_settings(radius, methods, AVAILABLE_METHODS, low, high)
    if timeout_s is not None and not timeout_s >= 0:
        raise VerificationError(f"timeout_s is {timeout_s}: give seconds >= 0, or None")
    for name, value, least in (
        ("attack_steps", attack_steps, 0),
        ("attack_restarts", attack_restarts, 1),
        ("batch_size", batch_size, 1),
    ):
        if value < least:
            raise VerificationError(f"{name} is {value}: it must be at least {least}")
    check_examples(model, x_BCHW, y_B, low, high)
    cascade = _Cascade(model, x_BCHW, y_B.long(), float(radius), (low, high), batch_size)
    if timeout_s is not None:
        cascade.deadline = cascade.started + timeout_s
    cascade.run("natural", cascade.judge_natural)
    if "ibp" in methods:
        cascade.run("ibp", cascade.judge_by_intervals)
    if attack_steps > 0:
        generator = torch.Generator().manual_seed(seed)
        cascade.run("pgd", lambda i: cascade.attack(i, attack_steps, attack_restarts, generator))
    for method in AVAILABLE_METHODS[1:]:
        if method in methods:
            cascade.run(method, functools.partial(cascade.judge_by_lirpa, method=method))
    return cascade.result()


class _Cascade:
    """The examples, what is known of each so far, and the steps that decide more of them."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y_B: Tensor,
        radius: float,
        data_range: tuple[float, float],
        batch_size: int,
    ) -> None:
        self.started, self.deadline = time.perf_counter(), math.inf
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self.dtype = torch.float32 if x.device.type == "mps" else torch.float64
        self.precise = copy.deepcopy(self.network).to(self.dtype)
        self.interval = IntervalPass(self.precise)
        self.lirpa: LirpaBounds | None = None
        self.x, self.y_B, self.radius = x.detach(), y_B, radius
        self.data_range, self.batch_size = data_range, batch_size
        self.verdicts: list[Verdict] = ["unknown"] * len(x)
        self.method = ["undecided"] * len(x)
        self.counterexamples: dict[int, Tensor] = {}
        self.open = torch.arange(len(x), device=x.device)
        self.slack_B = torch.full((len(x),), math.inf, dtype=self.dtype, device=x.device)
        self.hardest = self.x.clone()  # per example, the worst input seen so far
        self.steps: list[StepRecord] = []

    @torch.no_grad()
    def run(self, name: str, judge: Callable[[Tensor], Tensor]) -> None:
        """Give the open examples to `judge`, batch by batch; it returns which it decided."""
        started, examples, num_seen = time.perf_counter(), self.open, 0
        if not len(examples):
            return
        decided = torch.zeros_like(examples, dtype=torch.bool)
        for batch in self._batches(name, examples):
            if time.perf_counter() > self.deadline and name != "natural":
                break
            found = judge(examples[batch])
            decided[batch] = found
            num_seen += len(found)
            for i in examples[batch][found].tolist():
                self.method[i] = name
        self.open = examples[~decided]
        seconds = time.perf_counter() - started
        self.steps.append(StepRecord(name, num_seen, int(decided.sum()), seconds))

    def judge_natural(self, i: Tensor) -> Tensor:
        """Misclassified, and how much rounding is in the logits."""
        logits_BK = self._logits(self.network, self.x[i])
        check_logits(logits_BK, self.y_B[i])
        precise_BK = self._logits(self.precise, self.x[i].to(self.dtype))
        rounding_B = (logits_BK.to(self.dtype) - precise_BK).abs().amax(1)
        self.slack_B[i] = 4 * rounding_B + _ROUNDING * precise_BK.abs().amax(1).clamp(min=1.0)
        wrong = logits_BK.argmax(1) != self.y_B[i]
        return self._decide(i, wrong, "misclassified")

    def judge_by_intervals(self, i: Tensor) -> Tensor:
        """Verified by interval bounds."""
        x = self.x[i].to(self.dtype)
        result = self.interval.margins(x, self.y_B[i], *ball(x, self.radius, *self.data_range))
        expected_BK = self.precise(x)
        if not torch.allclose(result.logits_BK, expected_BK, rtol=1e-6, atol=1e-6):
            raise VerificationError(
                "the network as it was traced computes other logits than the network itself: its "
                "forward is not a fixed computation, and cannot be verified"
            )
        return self._decide(i, self._proven(i, result.margins_BK, "ibp"), "verified")

    def judge_by_lirpa(self, i: Tensor, method: str) -> Tensor:
        """Verified by one of auto_LiRPA's bounds."""
        if self.lirpa is None:
            self.lirpa = LirpaBounds(self.precise, self.x[:2].to(self.dtype))
        x = self.x[i].to(self.dtype)
        margins_BK = self.lirpa.margins(x, self.y_B[i], self.radius, method, *self.data_range)
        return self._decide(i, self._proven(i, margins_BK, method), "verified")

    def attack(self, i: Tensor, steps: int, restarts: int, generator: torch.Generator) -> Tensor:
        """Falsified by projected gradient descent, the counterexample replayed."""
        low, high = self.data_range
        self.hardest[i], found = pgd(
            self.network,
            self.x[i],
            self.y_B[i],
            self.radius,
            steps=steps,
            restarts=restarts,
            generator=generator,
            low=low,
            high=high,
        )
        found = found & self._is_counterexample(i)
        for j in i[found].tolist():
            self.counterexamples[j] = self.hardest[j].clone()
        return self._decide(i, found, "falsified")

    def result(self) -> VerificationResult:
        """All that was found."""
        if time.perf_counter() > self.deadline:
            for i in self.open.tolist():
                self.method[i] = "timeout"
        return VerificationResult(
            verdicts=tuple(self.verdicts),
            method=tuple(self.method),
            counterexamples=self.counterexamples,
            radius=self.radius,
            seconds=time.perf_counter() - self.started,
            steps=tuple(self.steps),
            precision=str(self.dtype).removeprefix("torch."),
        )

    def _proven(self, i: Tensor, margins_BK: Tensor, method: str) -> Tensor:
        """Whether all margins to other classes are finite and clear of rounding."""
        y_B1 = self.y_B[i][:, None]
        logits_BK = self.precise(self.hardest[i].to(self.dtype))
        seen_BK = logits_BK.gather(1, y_B1) - logits_BK
        if (margins_BK > seen_BK + self.slack_B[i][:, None]).any():
            raise VerificationError(
                f"{method} bounds exceed a margin that an input in the ball really has: they are "
                "wrong for this network; report it, and leave this method out"
            )
        others_BK = margins_BK.scatter(1, y_B1, math.inf)
        usable = margins_BK.isfinite().all(1)
        return usable & (others_BK.amin(1) > self.slack_B[i])

    def _is_counterexample(self, i: Tensor) -> Tensor:
        low, high = self.data_range
        points = self.hardest[i]
        distance = (points.double() - self.x[i].double()).abs().flatten(1).amax(1)
        inside = ((points >= low) & (points <= high)).flatten(1).all(1) & (distance <= self.radius)
        wrong = self.network(points).argmax(1) != self.y_B[i]
        return inside & wrong & (self.precise(points.to(self.dtype)).argmax(1) != self.y_B[i])

    def _decide(self, i: Tensor, decided: Tensor, verdict: Verdict) -> Tensor:
        for j in i[decided].tolist():
            self.verdicts[j] = verdict
        return decided

    def _batches(self, name: str, examples: Tensor) -> Iterator[slice]:
        size = self.batch_size
        if name == "crown":
            size = min(size, max(1, _CROWN_ELEMENTS // self._crown_elements(examples)))
        for start in range(0, len(examples), size):
            yield slice(start, start + size)

    def _crown_elements(self, examples: Tensor) -> int:
        """Coefficients of one example: the most unstable neurons of a layer, times the widest."""
        i = examples[: self.batch_size]
        x = self.x[i].to(self.dtype)
        result = self.interval.margins(x, self.y_B[i], *ball(x, self.radius, *self.data_range))
        rows, widest = result.margins_BK.shape[1], x[0].numel()
        for lower, upper in result.pre_activations:
            unstable = ((lower < 0) & (upper > 0)).flatten(1)
            rows, widest = max(rows, int(unstable.sum(1).max())), max(widest, unstable.shape[1])
        return rows * widest

    def _logits(self, network: nn.Module, x: Tensor) -> Tensor:
        try:
            logits_BK: Tensor = network(x)
        except RuntimeError as error:
            raise VerificationError(
                f"the network does not take inputs of shape {tuple(x.shape)}: {error}"
            ) from error
        return logits_BK
