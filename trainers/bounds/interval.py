"""Interval bound propagation in plain torch (Gowal et al. 2018, arXiv:1810.12715).

One pass carries, for every activation, its natural value and an interval in midpoint-radius form:
an affine layer maps the midpoint as it maps the value, and the radius by its absolute weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainers.bounds.normalization import Norm, apply_norm, norm_radius, normalize
from trainers.bounds.program import Add, Affine, Flatten, SpatialMean, Step, is_number
from trainers.bounds.rounded import Rounded
from trainers.bounds.trace import trace
from trainers.errors import UnsupportedLayer

Bounds = tuple[Tensor, Tensor]
Norms = Mapping[int, Norm]
"""What each layer of batch normalisation was in one pass, by the number of its step."""


@dataclass(frozen=True)
class Activation:
    """A natural value and the interval [center - radius, center + radius], all of one shape."""

    value: Tensor
    center: Tensor
    radius: Tensor
    norm: Norm | None = None
    """What the batch normalisation that made it was in this pass; None elsewhere."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Activation:
        """The same function of value, center and radius."""
        return Activation(function(self.value), function(self.center), function(self.radius))

    def detach(self) -> Activation:
        """The same, as constants."""
        norm = None if self.norm is None else (self.norm[0].detach(), self.norm[1].detach())
        return replace(self.map(Tensor.detach), norm=norm)

    def select(self, chosen: Tensor) -> Activation:
        """That of some examples of the batch."""
        return replace(self.map(lambda t: t[chosen]), norm=self.norm)

    @property
    def bounds(self) -> Bounds:
        """(lower, upper)."""
        return self.center - self.radius, self.center + self.radius


@dataclass(frozen=True)
class IntervalResult:
    """What one interval pass found.

    margins_BK[b, j] is a lower bound on logit[y_b] - logit[j]; the column of y_b is exactly 0. The
    margin itself is within 2 widths_BK[b, j] above it. `inputs` holds (lower, upper) of the input,
    `relu_inputs` what enters each ReLU, in order, and `values` every value up to the last linear
    layer, by its number in the program.
    """

    logits_BK: Tensor
    margins_BK: Tensor
    widths_BK: Tensor
    inputs: Bounds
    relu_inputs: list[Activation]
    values: list[Activation] = field(default_factory=list)

    @property
    def norms(self) -> Norms:
        """What batch normalisation was in this pass, for `IntervalPass.points`."""
        return {i - 1: v.norm for i, v in enumerate(self.values) if v.norm is not None}

    @property
    def pre_activations(self) -> list[Bounds]:
        """(lower, upper) in front of each ReLU, in order of execution; differentiable."""
        return [activation.bounds for activation in self.relu_inputs]

    @property
    def num_unstable_B(self) -> Tensor:
        """For each example, how many ReLUs may be on either side of zero."""
        total = torch.zeros(len(self.logits_BK), dtype=torch.int64, device=self.logits_BK.device)
        for lower, upper in self.pre_activations:
            total += ((lower < 0) & (upper > 0)).flatten(1).sum(1)
        return total


Refine = Callable[[list[Activation], int], Activation]


class IntervalPass:
    """Interval bounds of any supported network; raises UnsupportedLayer before any work.

    The network's parameters, buffers and modes are used as they are at each call. In training
    mode batch normalisation takes the statistics of the natural value for value and bounds alike,
    and updates its running statistics once. `bf16` runs the natural value in bfloat16 on CUDA;
    bounds stay in the network's precision. Everything is differentiable.
    """

    def __init__(self, model: nn.Module, *, bf16: bool = False) -> None:
        self.model, self.bf16 = model, bf16
        self.program = trace(model)

    def compile(self) -> None:
        """Let torch.compile make `margins` and `points`, from the next call on."""
        self.margins = torch.compile(self.margins)  # type: ignore[method-assign]
        self.points = torch.compile(self.points)  # type: ignore[method-assign]

    def margins(
        self,
        x: Tensor,
        y_B: Tensor,
        lower: Tensor,
        upper: Tensor,
        *,
        relu_shrink: float = 1.0,
    ) -> IntervalResult:
        """Logits of `x` and lower bounds on the margins over all inputs in [lower, upper].

        A final linear layer is fused with the specification: the margin's weights are
        W[y] - W[j], which is tighter than a difference of logit bounds. `x` need not lie in the
        box. `relu_shrink` below 1 multiplies the radius behind each ReLU: bounds no longer.
        """
        program = self.program
        steps = program.steps
        fused = bool(steps) and program.output == len(steps) and isinstance(steps[-1].op, nn.Linear)
        values = self.values(
            x, lower, upper, steps[:-1] if fused else steps, relu_shrink=relu_shrink
        )
        if fused:
            last: Any = steps[-1].op
            before = values[steps[-1].inputs[0]]
            logits_BK, center_BK = self._value_and_center(last, before)
            width_BK = _margin_width(last.weight, before.radius, y_B)
        else:
            output = values[program.output]
            logits_BK, center_BK = output.value, output.center
            _check_logits(logits_BK)
            width_BK = output.radius + output.radius.gather(1, y_B[:, None])
            width_BK = width_BK.scatter(1, y_B[:, None], 0.0)
        margins_BK = center_BK.gather(1, y_B[:, None]) - center_BK - width_BK
        relus = [values[s.inputs[0]] for s in steps if isinstance(s.op, nn.ReLU)]
        return IntervalResult(logits_BK, margins_BK, width_BK, (lower, upper), relus, values)

    def bounds(self, lower: Tensor, upper: Tensor) -> Bounds:
        """Bounds (lower_BK, upper_BK) on the outputs; the midpoint serves as natural value."""
        return self.values((lower + upper) / 2, lower, upper)[self.program.output].bounds

    def points(self, x: Tensor, norms: Norms | None = None, start: int = 0) -> tuple[Tensor, Norms]:
        """What the network makes of `x` in the place of its value number `start`.

        Without `norms` it is a natural pass like any other, whose norms are returned. With those of
        another pass batch normalisation is what it was there, and running statistics are left
        alone. Differentiable in all of them.
        """
        values, used = {start: x}, dict(norms or {})
        for number, step in enumerate(self.program.steps[start:], start):
            if not all(i in values for i in step.inputs):
                continue  # nothing of it can reach the output
            inputs = [values[i] for i in step.inputs]
            if isinstance(step.op, nn.BatchNorm1d | nn.BatchNorm2d):
                if norms is None:
                    out, used[number] = normalize(step.op, inputs[0])
                else:
                    out = apply_norm(norms[number], inputs[0])
            elif isinstance(step.op, nn.Linear | nn.Conv2d):
                out = self._value(step.op, inputs[0])
            else:
                out = step.op(*inputs)
            values[number + 1] = out
        return values[self.program.output], used

    def values(
        self,
        x: Tensor,
        lower: Tensor,
        upper: Tensor,
        steps: Sequence[Step] | None = None,
        *,
        relu_shrink: float = 1.0,
        refine: Refine | None = None,
    ) -> list[Activation]:
        """Every value of the program (of the first `steps`), by its number; the input is value 0.

        `refine(values, number)` may return a tighter activation for a value that enters a ReLU,
        from which the pass then goes on.
        """
        values = [Activation(x, (lower + upper) / 2, (upper - lower) / 2)]
        for step in self.program.steps if steps is None else steps:
            if refine is not None and isinstance(step.op, nn.ReLU):
                values[step.inputs[0]] = refine(values, step.inputs[0])
            inputs = [values[i] for i in step.inputs]
            a = inputs[0]
            if isinstance(step.op, nn.Linear | nn.Conv2d):
                value, center = self._value_and_center(step.op, a)
                out = Activation(value, center, absolute(step.op, a.radius))
            elif isinstance(step.op, nn.BatchNorm1d | nn.BatchNorm2d):
                value, norm = normalize(step.op, a.value)
                center, radius = apply_norm(norm, a.center), norm_radius(norm, a.radius)
                out = Activation(value, center, radius, norm)
            else:
                out = _rule(step.op)(step.op, *inputs)
            if relu_shrink != 1.0 and isinstance(step.op, nn.ReLU):
                out = replace(out, radius=out.radius * relu_shrink)
            values.append(out)
        return values

    def _value_and_center(self, op: nn.Module, a: Activation) -> tuple[Tensor, Tensor]:
        # Two calls, not one of twice the batch: measured faster on a CPU.
        return self._value(op, a.value), op(a.center)

    def _value(self, op: nn.Module, x: Tensor) -> Tensor:
        if not self.bf16 or x.device.type != "cuda":
            return op(x)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return op(x).to(x.dtype)


class _IntervalReLU(torch.autograd.Function):
    """ReLU of an interval in midpoint-radius form; by hand, for half the memory traffic."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, radius: Tensor) -> Bounds:
        lower, upper = (center - radius).relu_(), (center + radius).relu_()
        ctx.save_for_backward(lower, upper)
        return (lower + upper).mul_(0.5), (upper - lower).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, center_grad: Tensor, radius_grad: Tensor) -> Bounds:
        lower, upper = ctx.saved_tensors
        lower = torch.ops.aten.threshold_backward(center_grad - radius_grad, lower, 0.0)
        upper = torch.ops.aten.threshold_backward(center_grad + radius_grad, upper, 0.0)
        return (lower + upper).mul_(0.5), upper.sub_(lower).mul_(0.5)


def _relu(op: nn.Module, a: Activation) -> Activation:
    return Activation(a.value.relu(), *_IntervalReLU.apply(a.center, a.radius))


def absolute(op: Any, radius: Tensor) -> Tensor:
    """The layer with absolute weights and without bias: what it makes of a radius."""
    weight = op.weight.abs()
    if isinstance(op, nn.Linear):
        return F.linear(radius, weight)
    return F.conv2d(radius, weight, None, op.stride, op.padding, op.dilation, op.groups)


def _affine(op: Affine, a: Activation) -> Activation:
    scale, shift = op.constants(a.value)
    radius = a.radius if is_number(scale, 1.0) else a.radius * abs(scale)
    value, center = (op.scale_and_shift(t, scale, shift) for t in (a.value, a.center))
    return Activation(value, center, radius)


def _add(op: Add, a: Activation, b: Activation) -> Activation:
    return Activation(op(a.value, b.value), a.center + b.center, a.radius + b.radius)


def _rounded(op: Rounded, a: Activation) -> Activation:
    lower, upper = op.range(*a.bounds)
    return Activation(op(a.value), (lower + upper) / 2, (upper - lower) / 2)


def _same_for_all(op: nn.Module, a: Activation) -> Activation:
    """Linear without bias and with weights >= 0: the radius goes through like the midpoint."""
    return a.map(op)


def _dropout(op: Any, a: Activation) -> Activation:
    if op.training and op.p > 0.0:
        raise UnsupportedLayer(
            f"{type(op).__name__}(p={op.p}) has no bound in training mode: set p=0, or train "
            "with the natural loss"
        )
    return a


def _margin_width(weight_KF: Tensor, radius_BF: Tensor, y_B: Tensor) -> Tensor:
    """|W[y] - W[j]| radius, for each j."""
    difference_KKF = (weight_KF[:, None, :] - weight_KF[None, :, :]).abs()
    # Not an einsum: as a batch of matrix-vector products it is several times slower.
    return (difference_KKF[y_B] * radius_BF[:, None, :]).sum(2)


def _check_logits(logits_BK: Tensor) -> None:
    if logits_BK.ndim != 2:
        raise UnsupportedLayer(
            f"the network returns shape {tuple(logits_BK.shape)}: margins need logits of shape "
            "(batch, classes)"
        )


def _rule(op: nn.Module) -> Callable[..., Activation]:
    return next(rule for kind, rule in _RULES.items() if isinstance(op, kind))


_RULES: dict[type[nn.Module], Callable[..., Activation]] = {
    nn.ReLU: _relu,
    nn.AvgPool2d: _same_for_all,
    SpatialMean: _same_for_all,
    Flatten: _same_for_all,
    Affine: _affine,
    Add: _add,
    Rounded: _rounded,
    nn.Identity: _same_for_all,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
}
