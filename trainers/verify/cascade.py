"""Verification, cheap steps first; each example stops at the first step that decides it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from trainers.attack import pgd
from trainers.bounds.crown import backward_margins, crown_values, optimized_margins
from trainers.bounds.interval import Activation
from trainers.verify.checks import (
    check_examples,
    check_limits,
    check_margin,
    check_radius,
    check_settings,
)
from trainers.verify.encode import Encoder
from trainers.verify.exact import SOLVER_MARGIN, Outcome, decide
from trainers.verify.examples import ROUNDING, Examples
from trainers.verify.relu_program import FEASIBILITY, Array
from trainers.verify.verdict import VerificationResult

AVAILABLE_METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "exact")
"""What `verify` can prove by, in the order in which it does."""

_CLOSELY = AVAILABLE_METHODS[2:]
_ROWS = 2**14
"""About how many values of one batch CROWN bounds."""


def verify(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    radius: float | Tensor,
    *,
    methods: Sequence[str] = AVAILABLE_METHODS,
    timeout_s: float | None = 60.0,
    budget_s: float | None = None,
    low: float = 0.0,
    high: float = 1.0,
    margin: float | Tensor = 0.0,
    attack_steps: int = 20,
    attack_restarts: int = 2,
    batch_size: int = 100,
    workers: int = 1,
    seed: int = 0,
) -> VerificationResult:
    """Judge each example (x, y) over the l-infinity ball of `radius`, clipped to [low, high].

    The cascade: misclassified already; verified by interval bounds; falsified by an attack (none
    when attack_steps is 0); verified by the dearer bounds among `methods`; verified or falsified by
    mixed-integer programs, `workers` at a time. An example is given up after `timeout_s` seconds
    of its own (its share of batches included), and all of them after `budget_s`: they are
    "unknown". `radius` is a number, or a tensor (B,) with one for each example. The model is
    copied, in evaluation mode; it is not changed. `margin`, a number or one for each example (B,),
    is what margins must exceed besides: for what runs in the model's place and is only so near.

    Bounds are computed in float64 (float32 where a device has no other), and must exceed zero by
    more than the rounding of the network itself: four times the difference between its logits in
    its own type and in float64, plus 1e-6 of the largest logit, and for programs another 1e-5 of
    it. A counterexample counts when a replay finds it in the ball, in the range and misclassified,
    in both types.

    Raises VerificationError for a question that makes no sense, and UnsupportedLayer for a
    network that has no bounds.
    """
    check_settings(methods, AVAILABLE_METHODS, low, high)
    check_limits(
        {"timeout_s": timeout_s, "budget_s": budget_s},
        {"attack_steps": (attack_steps, 0), "attack_restarts": (attack_restarts, 1)},
        {"batch_size": (batch_size, 1), "workers": (workers, 1)},
    )
    check_examples(model, x_BCHW, y_B, low, high)
    radius_B = check_radius(radius, len(x_BCHW))
    margin_B = check_margin(margin, x_BCHW)
    examples = Examples(model, x_BCHW, y_B.long(), radius_B, low, high, margin_B)
    cascade = Cascade(examples, timeout_s, budget_s, batch_size, workers)
    cascade.run(methods, attack_steps, attack_restarts, seed)
    return cascade.result()


class Cascade:
    """The steps that decide more and more of the examples."""

    def __init__(
        self,
        examples: Examples,
        timeout_s: float | None,
        budget_s: float | None,
        batch_size: int,
        workers: int,
    ) -> None:
        self.examples, self.batch_size, self.workers = examples, batch_size, workers
        self.started = time.perf_counter()
        self.timeout_s = math.inf if timeout_s is None else timeout_s
        self.deadline = math.inf if budget_s is None else self.started + budget_s
        self.num_open_relus: dict[int, int] = {}
        self.encoder = Encoder(examples.interval.program)

    @torch.no_grad()
    def run(self, methods: Sequence[str], steps: int, restarts: int, seed: int) -> None:
        """Take the examples through the steps that `methods` and `steps` of attack ask for."""
        self._in_batches("natural", self.examples.judge_natural)
        if "ibp" in methods:
            self._in_batches("ibp", self._by_intervals)
        if steps > 0:
            generator = torch.Generator().manual_seed(seed)
            self._in_batches("pgd", lambda i: self._attack(i, steps, restarts, generator))
        if "crown-ibp" in methods:
            self._in_batches("crown-ibp", self._by_crown_ibp)
        closely = [name for name in _CLOSELY if name in methods]
        if closely:
            for i in self._batches(self._close_batch_size()):
                self._closely(i, closely)

    def result(self) -> VerificationResult:
        """All that was found."""
        examples = self.examples
        for j in examples.is_open.nonzero().flatten().tolist():
            if self._deadline(j) <= time.perf_counter():
                examples.method[j] = "timeout"
        return VerificationResult(
            verdicts=tuple(examples.verdicts),
            method=tuple(examples.method),
            counterexamples=examples.counterexamples,
            radius=float(examples.radius_B.max()),
            seconds=time.perf_counter() - self.started,
            steps=tuple(examples.records.values()),
            precision=str(examples.dtype).removeprefix("torch."),
            example_seconds=tuple(examples.spent_B.tolist()),
            num_open_relus=self.num_open_relus,
            tolerances={
                "rounding": ROUNDING,
                "solver_margin": SOLVER_MARGIN,
                "solver_feasibility": FEASIBILITY,
            },
        )

    def _in_batches(self, name: str, judge: Callable[[Tensor], Tensor]) -> None:
        """Give the open examples to `judge`, batch by batch; it returns which it decided."""
        for i in self._batches(self.batch_size, even_late=name == "natural"):
            started = time.perf_counter()
            decided = judge(i)
            self.examples.record(name, i, int(decided.sum()), started)

    def _batches(self, size: int, even_late: bool = False) -> Iterator[Tensor]:
        """Open examples that have time left."""
        for i in self.examples.is_open.nonzero().flatten().split(size):
            i = i if even_late else self._in_time(i)
            if len(i):
                yield i

    def _in_time(self, i: Tensor) -> Tensor:
        if time.perf_counter() >= self.deadline:
            return i[:0]
        return i[(self.examples.spent_B[i.cpu()] < self.timeout_s).to(i.device)]

    def _deadline(self, j: int) -> float:
        left = self.timeout_s - float(self.examples.spent_B[j])
        return min(self.deadline, time.perf_counter() + left)

    def _by_intervals(self, i: Tensor) -> Tensor:
        examples = self.examples
        x, lower, upper = examples.box(i)
        result = examples.interval.margins(x, examples.y_B[i], lower, upper)
        return examples.prove(i, result.margins_BK, "ibp")

    def _attack(self, i: Tensor, steps: int, restarts: int, generator: torch.Generator) -> Tensor:
        examples = self.examples
        points, _ = pgd(
            examples.network,
            examples.x[i],
            examples.y_B[i],
            examples.radius(i),
            steps=steps,
            restarts=restarts,
            generator=generator,
            low=examples.low,
            high=examples.high,
        )
        return examples.falsify(i, points, "pgd")

    def _by_crown_ibp(self, i: Tensor) -> Tensor:
        examples = self.examples
        values = examples.interval.values(*examples.box(i))
        return examples.prove(i, self._margins(i, values), "crown-ibp")

    def _margins(self, i: Tensor, values: list[Activation]) -> Tensor:
        logits_BK = values[self.examples.interval.program.output].value
        return backward_margins(self.examples.interval, values, self.examples.y_B[i], logits_BK)

    def _closely(self, i: Tensor, methods: Sequence[str]) -> None:
        """CROWN bounds of every ReLU, and what can be had from them."""
        examples, started = self.examples, time.perf_counter()
        values = crown_values(examples.interval, *examples.box(i))
        for method in methods:
            going = examples.is_open[i]
            i, values = i[going], [value.select(going) for value in values]
            if not len(i):
                return
            if method == "crown":
                decided = examples.prove(i, self._margins(i, values), method)
            elif method == "alpha-crown":
                found = optimized_margins(
                    examples.interval, values, examples.y_B[i], examples.margins_BK[i]
                )
                decided = examples.prove(i, found, method)
            else:
                self._exactly(i, values, started)
                return
            examples.record(method, i, int(decided.sum()), started)
            started = time.perf_counter()

    def _exactly(self, i: Tensor, values: list[Activation], started: float) -> None:
        """By programs, several at a time; HiGHS leaves Python's lock alone while it works."""
        examples = self.examples
        examples.spent_B[i.cpu()] += (time.perf_counter() - started) / len(i)
        with ThreadPoolExecutor(self.workers) as pool:
            numbers = range(len(i))
            outcomes = list(pool.map(lambda n: self._decide(n, int(i[n]), values), numbers))
        late = torch.tensor([outcome == "timeout" for outcome in outcomes], device=i.device)
        examples.decide(i, late, "unknown", "timeout")
        proven = i[torch.tensor([outcome == "verified" for outcome in outcomes], device=i.device)]
        if len(proven):
            # Like bounds, proofs must not contradict the worst input that is known.
            least_BK = 2.0 * examples.slack_B[proven][:, None]
            examples.prove(proven, examples.margins_BK[proven].clamp(min=least_BK), "exact")
        num_decided = sum(outcome in ("verified", "falsified") for outcome in outcomes)
        examples.count("exact", len(i), num_decided, time.perf_counter() - started)

    def _decide(self, n: int, j: int, values: list[Activation]) -> Outcome:
        """Example `j`, the `n`th of those that `values` are of."""
        examples, deadline, started = self.examples, self._deadline(j), time.perf_counter()
        if started >= deadline:
            return "timeout"
        y, slack, unit = (
            int(examples.y_B[j]),
            *(float(t[j]) for t in (examples.slack_B, examples.scale_B)),
        )
        margins_K = examples.margins_BK[j]
        classes = [k for k in margins_K.argsort().tolist() if k != y and margins_K[k] <= slack]
        program = self.encoder.encode(values, n, y)
        self.num_open_relus[j] = len(program.below)

        def replay(point: Array) -> bool:
            # Behind the inputs stands what roundings do.
            return examples.refute(j, torch.from_numpy(point[: examples.x[j].numel()]))

        outcome = decide(program, classes, slack, unit, deadline, replay)
        examples.spent_B[j] += time.perf_counter() - started
        return outcome

    def _close_batch_size(self) -> int:
        """As many examples as CROWN bounds in a few seconds, so that limits of time are kept."""
        examples, program = self.examples, self.examples.interval.program
        i = examples.is_open.nonzero().flatten()[:10]
        if not len(i):
            return 1
        values = examples.interval.values(*examples.box(i))
        inputs = [values[s.inputs[0]] for s in program.steps if isinstance(s.op, nn.ReLU)]
        num_open = sum(int((v.center.abs() < v.radius).sum()) for v in inputs) / len(i)
        return max(1, min(self.batch_size, int(_ROWS / (1 + num_open))))
