"""The examples of one question, and what is known of each so far."""

from __future__ import annotations

import copy
import math
import time

import torch
from torch import Tensor, nn

from trainers.attack import polished
from trainers.bounds import IntervalPass, ball
from trainers.errors import VerificationError
from trainers.verify.checks import check_logits
from trainers.verify.verdict import StepRecord, Verdict

ROUNDING = 1e-6
"""Share of the largest logit that a margin must exceed, besides the rounding that is measured."""


class Examples:
    """Verdicts on examples (x, y) within radius_B (B,) of x, clipped to [low, high].

    `network` is a copy of the model as it is shipped, in evaluation mode, `precise` one in float64
    (float32 where a device has no other), whose bounds are computed. A margin counts as proven
    when it exceeds `slack_B`, of which `margin_B` is a part, a counterexample when both networks
    get it wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y_B: Tensor,
        radius_B: Tensor,
        low: float,
        high: float,
        margin_B: Tensor,
    ) -> None:
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self.dtype = torch.float32 if x.device.type == "mps" else torch.float64
        self.precise = copy.deepcopy(self.network).to(self.dtype)
        self.interval = IntervalPass(self.precise)
        self.x, self.y_B, self.low, self.high = x.detach(), y_B, low, high
        self.radius_B = radius_B.to(x.device, self.dtype)
        self.verdicts: list[Verdict] = ["unknown"] * len(x)
        self.method = ["undecided"] * len(x)
        self.counterexamples: dict[int, Tensor] = {}
        self.is_open = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.margin_B = margin_B.to(x.device, self.dtype)
        self.slack_B = torch.full((len(x),), math.inf, dtype=self.dtype, device=x.device)
        self.scale_B = self.slack_B.clone()  # the largest logit
        self.margins_BK = torch.empty(0)  # the best lower bounds so far, once K is known
        self.hardest = self.x.clone()  # per example, the worst input seen so far
        self.spent_B = torch.zeros(len(x), dtype=torch.float64)  # seconds, with its share of passes
        self.records: dict[str, StepRecord] = {}

    def radius(self, i: Tensor) -> Tensor:
        """The radii of examples `i`, in a shape that broadcasts to theirs."""
        return self.radius_B[i].view(-1, *[1] * (self.x.ndim - 1))

    def box(self, i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Examples `i` and the smallest and the largest inputs around them, in `dtype`."""
        x = self.x[i].to(self.dtype)
        return x, *ball(x, self.radius(i), self.low, self.high)

    def judge_natural(self, i: Tensor) -> Tensor:
        """Misclassified, and how much rounding is in the logits."""
        logits_BK = self._logits(i)
        check_logits(logits_BK, self.y_B[i])
        precise_BK = self.precise(self.x[i].to(self.dtype))
        rounding_B = (logits_BK.to(self.dtype) - precise_BK).abs().amax(1)
        self.scale_B[i] = precise_BK.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        self.slack_B[i] = 4 * rounding_B + ROUNDING * self.scale_B[i] + self.margin_B[i]
        self._check_trace(i, precise_BK)
        if not self.margins_BK.numel():
            shape = len(self.x), logits_BK.shape[1]
            self.margins_BK = torch.full(shape, -math.inf).to(precise_BK)
        return self.decide(i, logits_BK.argmax(1) != self.y_B[i], "misclassified", "natural")

    def prove(self, i: Tensor, margins_BK: Tensor, method: str) -> Tensor:
        """Enter lower bounds on margins (of class y: anything); which examples they verify.

        Raises VerificationError for bounds that an input in the ball contradicts.
        """
        y_B1, slack_B1 = self.y_B[i][:, None], self.slack_B[i][:, None]
        logits_BK = self.precise(self.hardest[i].to(self.dtype))
        seen_BK = logits_BK.gather(1, y_B1) - logits_BK
        margins_BK = margins_BK.scatter(1, y_B1, 0.0).nan_to_num(-math.inf, math.nan, -math.inf)
        if not (margins_BK <= seen_BK + slack_B1).all():
            raise VerificationError(
                f"{method} bounds exceed a margin that an input in the ball really has: they are "
                "wrong for this network; report it, and leave this method out"
            )
        best_BK = torch.maximum(self.margins_BK[i], margins_BK)
        self.margins_BK[i] = best_BK
        proven_B = best_BK.scatter(1, y_B1, math.inf).amin(1) > self.slack_B[i]
        return self.decide(i, proven_B, "verified", method)

    def falsify(self, i: Tensor, points: Tensor, method: str) -> Tensor:
        """Enter inputs that an attack found; which of them are counterexamples."""
        self.hardest[i] = points
        found = self._is_counterexample(i)
        for j in i[found].tolist():
            self.counterexamples[j] = self.hardest[j].clone()
        return self.decide(i, found, "falsified", method)

    def refute(self, j: int, point: Tensor) -> bool:
        """Whether a solver's point (in float64) leads to a counterexample, which is then kept."""
        i = torch.tensor([j], device=self.x.device)
        start = point.view_as(self.x[i]).to(self.x)
        radius = float(self.radius_B[j])
        found = polished(
            self.network, start, self.x[i], self.y_B[i], radius, low=self.low, high=self.high
        )
        return bool(self.falsify(i, found, "exact"))

    def decide(self, i: Tensor, decided: Tensor, verdict: Verdict, method: str) -> Tensor:
        """Close the examples among `i` that are `decided`."""
        self.is_open[i[decided]] = False
        for j in i[decided].tolist():
            self.verdicts[j], self.method[j] = verdict, method
        return decided

    def record(self, name: str, i: Tensor, num_decided: int, started: float) -> None:
        """Enter a batch that step `name` has just judged, since `started`."""
        seconds = time.perf_counter() - started
        self.spent_B[i.cpu()] += seconds / max(1, len(i))
        self.count(name, len(i), num_decided, seconds)

    def count(self, name: str, num_examples: int, num_decided: int, seconds: float) -> None:
        """Add to the record of step `name`."""
        old = self.records.get(name, StepRecord(name, 0, 0, 0.0))
        self.records[name] = StepRecord(
            name, old.num_examples + num_examples, old.num_decided + num_decided,
            old.seconds + seconds,
        )  # fmt: skip

    def _logits(self, i: Tensor) -> Tensor:
        try:
            logits_BK: Tensor = self.network(self.x[i])
        except RuntimeError as error:
            raise VerificationError(
                f"the network does not take inputs of shape {tuple(self.x.shape)}: {error}"
            ) from error
        return logits_BK

    def _check_trace(self, i: Tensor, logits_BK: Tensor) -> None:
        """Every bound is of the network as it was traced: it must be the network itself."""
        traced_BK = self.interval.program(self.x[i].to(self.dtype))
        share = 1e-6 if self.dtype == torch.float64 else 1e-4
        if not ((traced_BK - logits_BK).abs().amax(1) <= share * self.scale_B[i]).all():
            raise VerificationError(
                "the network as it was traced computes other logits than the network itself: its "
                "forward is not a fixed computation, and cannot be verified"
            )

    def _is_counterexample(self, i: Tensor) -> Tensor:
        points = self.hardest[i]
        distance_B = (points.double() - self.x[i].double()).abs().flatten(1).amax(1)
        inside = ((points >= self.low) & (points <= self.high)).flatten(1).all(1)
        inside &= distance_B <= self.radius_B[i]
        wrong = self.network(points).argmax(1) != self.y_B[i]
        return inside & wrong & (self.precise(points.to(self.dtype)).argmax(1) != self.y_B[i])
