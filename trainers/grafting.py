"""Which ReLUs of a network in training become lines, and when (Chen et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.grafting import GraftingConfig
from trainers.bounds import IntervalPass, ball
from trainers.bounds.program import Program
from trainers.data import Split
from trainers.errors import ModelError
from trainers.models.grafted import GraftedReLU
from trainers.models.modes import evaluating

_BATCH = 250


class Grafting:
    """Grafts units of the network of `interval`, once, before the step after `start` of training.

    Exactly round(fraction * number of units) of all GraftedReLUs are lines from then on; those of
    given weights stay, and count. Raises ModelError when a ReLU cannot be grafted, or when the
    given weights have more lines than that.
    """

    def __init__(
        self, config: GraftingConfig, interval: IntervalPass, radius: float, total_steps: int
    ) -> None:
        self.config, self.interval, self.radius = config, interval, radius
        self.step = math.floor(config.start * total_steps) + 1
        self.relus = _graftable(interval) if config.fraction > 0.0 else []
        self.num_units = sum(relu.grafted.numel() for relu in self.relus)
        self.count = round(config.fraction * self.num_units)
        given = sum(relu.num_grafted for relu in self.relus)
        if given > self.count:
            raise ModelError(
                f"grafting.fraction: {config.fraction:g} of {self.num_units} ReLUs is {self.count} "
                f"lines, but the given weights have {given} already: raise grafting.fraction to "
                f"{given / self.num_units:.6g} or more"
            )

    def is_due(self, step: int) -> bool:
        """Whether units are to be grafted before this step, which is counted from 1."""
        return self.count > 0 and step == self.step

    def graft(self, split: Split, optimizer: torch.optim.Optimizer) -> None:
        """Choose units on the first `examples` of the split; their lines start without momenta."""
        examples = Split(split.x[: self.config.examples], split.y[: self.config.examples])
        with evaluating(self.interval.model):
            unstable = instability_shares(self.interval, self.relus, examples, self.radius)
            by_gradient = self.config.significance == "gradient"
            measure = gradient_sizes if by_gradient else activation_sizes
            sizes = measure(self.interval.program, self.relus, examples)
        given = [relu.grafted for relu in self.relus]
        chosen = choose_units(sizes, unstable, self.count, given)
        for relu, grafted in zip(self.relus, chosen, strict=True):
            relu.grafted.copy_(grafted)
            for parameter in relu.parameters():
                optimizer.state.pop(parameter, None)


def choose_units(
    significance: Sequence[Tensor],
    instability: Sequence[Tensor],
    count: int,
    given: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Bool masks of exactly `count` units that matter least and are unstable; `given` ones first.

    One tensor per layer of ReLUs, of any shape; all layers compete. A unit's rank is the share of
    examples on which it is unstable, times the share of its layer's units that are as significant
    or more (activations of different layers are not on one scale). Equals go by significance
    alone, then by index. The authors combine both scores too (Chen et al. 2022), but by a script
    that is not public: this is our reading.
    """
    insignificance = torch.cat([_insignificance(s.flatten()) for s in significance])
    rank = insignificance * torch.cat([share.flatten() for share in instability]).double()
    if given is not None:
        rank[torch.cat([mask.flatten() for mask in given])] = math.inf
    order = insignificance.argsort(descending=True, stable=True)
    order = order[rank[order].argsort(descending=True, stable=True)]
    chosen = torch.zeros_like(rank, dtype=torch.bool)
    chosen[order[:count]] = True
    parts = chosen.split([share.numel() for share in instability])
    return [part.view(share.shape) for part, share in zip(parts, instability, strict=True)]


def instability_shares(
    interval: IntervalPass, relus: Sequence[GraftedReLU], examples: Split, radius: float
) -> list[Tensor]:
    """For each unit, on what share of examples (and positions) interval bounds leave its sign open.

    radius: l-infinity, in data units. Lines are stable.
    """
    sums = [torch.zeros_like(relu.slope) for relu in relus]
    with torch.no_grad():
        for x, y_B in _batches(examples):
            result = interval.margins(x, y_B, *ball(x, radius))
            for total, (lower, upper) in zip(sums, result.pre_activations, strict=True):
                total += _mean(((lower < 0) & (upper > 0)).to(total), total.shape, len(examples))
    return sums


def activation_sizes(
    program: Program, relus: Sequence[GraftedReLU], examples: Split
) -> list[Tensor]:
    """The mean of |activation| of each unit over examples (and positions)."""
    sums = [torch.zeros_like(relu.slope) for relu in relus]
    with torch.no_grad():
        for x, _ in _batches(examples):
            values = program.values(x)
            for total, number in zip(sums, program.graft_sums.values(), strict=True):
                total += _mean(values[number].abs(), total.shape, len(examples))
    return sums


def gradient_sizes(program: Program, relus: Sequence[GraftedReLU], examples: Split) -> list[Tensor]:
    """The mean of |dL/d activation| of each unit; L is an example's cross-entropy."""
    sums = [torch.zeros_like(relu.slope) for relu in relus]
    for x, y_B in _batches(examples):
        with torch.enable_grad():
            values = program.values(x)
            loss = F.cross_entropy(values[program.output], y_B, reduction="sum")
            activations = [values[number] for number in program.graft_sums.values()]
            gradients = torch.autograd.grad(loss, activations, materialize_grads=True)
        with torch.no_grad():
            for total, gradient in zip(sums, gradients, strict=True):
                total += _mean(gradient.abs(), total.shape, len(examples))
    return sums


def mean_unstable_relus(interval: IntervalPass, examples: Split, radius: float) -> float:
    """How many ReLUs of an example may be on either side of zero, by interval bounds; the mean."""
    with evaluating(interval.model), torch.no_grad():
        results = (interval.margins(x, y_B, *ball(x, radius)) for x, y_B in _batches(examples))
        return sum(int(result.num_unstable_B.sum()) for result in results) / len(examples)


def _graftable(interval: IntervalPass) -> list[GraftedReLU]:
    """The network's GraftedReLUs in order of execution."""
    found = []
    for number, step in enumerate(interval.program.steps, 1):
        if isinstance(step.op, nn.ReLU):
            if number not in interval.program.graft_sums:
                raise ModelError(
                    f"grafting: the ReLU at {step.place} is a function, and only modules can be "
                    "grafted: write it as a nn.ReLU() of its own, or leave grafting.fraction at 0"
                )
            relu = interval.model.get_submodule(step.place)
            assert isinstance(relu, GraftedReLU)
            found.append(relu)
    return found


def _insignificance(significance: Tensor) -> Tensor:
    """For each entry, the share of entries that are as large or larger, in float64."""
    smaller = torch.searchsorted(significance.sort().values, significance.contiguous())
    return 1.0 - smaller.double() / len(significance)


def _mean(values: Tensor, shape: torch.Size, num_examples: int) -> Tensor:
    """What a batch adds to means over examples and over the positions of a unit."""
    positions = values[0].numel() / shape.numel()
    return values.sum_to_size(shape) / (positions * num_examples)


def _batches(examples: Split) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(examples.x.split(_BATCH), examples.y.split(_BATCH), strict=True)
