"""What float32 may do to a network that rounds its activations, in whatever order it adds.

(Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.bounds.interval import Activation, IntervalPass, absolute
from trainers.bounds.program import Add, Affine, Flatten, Program, SpatialMean
from trainers.bounds.rounded import Rounded
from trainers.errors import VerificationError

UNIT = 2.0**-24
"""Largest relative error of one operation of float32, rounded to nearest."""
_OTHERS = 8
"""More than the operations on one term besides the sum: scales, a bias, conversions."""
_INFLATED = 1.0 + 2.0**-10
"""For terms of second order, and for float64."""
_TINY = 1e-30
"""Far above what underflow can lose."""
_OVERFLOW = 2.0**126
"""Sums of sizes beyond this one may be infinite in float32."""
_TRIES = 10


@torch.no_grad()
def allow_for_float32(
    program: Program, lower: Tensor, upper: Tensor, batch_size: int = 100
) -> float:
    """Set the tolerances of all Rounded steps, for inputs in any of the boxes [lower, upper].

    (B, ...), in float64. Returns by how much the logits of a float32 runtime may then be off those
    that exact arithmetic makes of the same rounded activations, infinite where sums may overflow.
    Raises VerificationError where there is no bound.
    """
    interval = IntervalPass(program)
    places = [n for n, step in enumerate(program.steps, 1) if isinstance(step.op, Rounded)]
    boxes = list(zip(lower.split(batch_size), upper.split(batch_size), strict=True))
    for _ in range(_TRIES):
        needed = dict.fromkeys([*places, program.output], torch.zeros(()).to(lower))
        for box in boxes:
            for number, error in _errors(interval, *box).items():
                needed[number] = torch.maximum(needed[number], error.amax(0))
        steps: dict[int, Any] = {number: program.steps[number - 1].op for number in places}
        if all((needed[n] <= op.tolerance).all() for n, op in steps.items()):
            return float(needed[program.output].max())
        for number, op in steps.items():
            # Larger tolerances make larger values, which need larger ones: twice is enough.
            op.tolerance = 2.0 * needed[number]
    raise VerificationError(
        "no bound was found on the rounding of float32 in this network: its weights are too large"
    )


def _errors(interval: IntervalPass, lower: Tensor, upper: Tensor) -> dict[int, Tensor]:
    """How far values in front of a rounding, by its number, and the output may be off.

    Each given the rounded values before it: rounding starts anew.
    """
    values = interval.values(lower, lower, upper)
    errors, found = [torch.zeros_like(lower)], {}
    for number, step in enumerate(interval.program.steps, 1):
        sizes = [_size(interval.program, values, i, step.op) for i in step.inputs]
        inputs = [(size + errors[i], errors[i]) for size, i in zip(sizes, step.inputs, strict=True)]
        if isinstance(step.op, Rounded):
            found[number] = errors[step.inputs[0]]
            errors.append(torch.zeros_like(values[number].center))
        else:
            errors.append(_behind(step.op, inputs))
    found[interval.program.output] = errors[interval.program.output]
    return found


def _size(program: Program, values: list[Activation], number: int, reader: nn.Module) -> Tensor:
    """The largest size of a value; in a sum of values in 8 bits, any that their range has.

    Such sums may be formed from the numbers before their zero points are taken off.
    """
    size = values[number].center.abs() + values[number].radius
    while number and isinstance(program.steps[number - 1].op, Flatten | nn.ReLU):
        (number,) = program.steps[number - 1].inputs
    op = program.steps[number - 1].op if number else None
    if isinstance(op, Rounded) and op.scale is not None and isinstance(reader, Add):
        return size.clamp(min=op.scale * (op.largest - op.least))
    return size


def _behind(op: Any, inputs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """What is passed on of an error, and what the step's own arithmetic adds.

    Inputs are (largest size, error).
    """
    largest, error = inputs[0]
    if isinstance(op, nn.Linear | nn.Conv2d):
        terms = absolute(op, largest)
        if op.bias is not None:
            bias = op.bias.abs()
            terms = terms + (bias.view(-1, 1, 1) if isinstance(op, nn.Conv2d) else bias)
        return absolute(op, error) + _lost(op.weight[0].numel(), terms)
    if isinstance(op, Add):
        return error + inputs[1][1] + _lost(1, largest + inputs[1][0])
    if isinstance(op, Affine):
        scale, shift = op.constants(error)
        return error * abs(scale) + _lost(1, largest * abs(scale) + abs(shift))
    if isinstance(op, nn.AvgPool2d | SpatialMean):
        return op(error) + _lost(largest[0, 0].numel(), op(largest))
    passed: Tensor = error if isinstance(op, nn.ReLU) else op(error)  # Flatten and Identity
    return passed


def _lost(num_terms: int, largest: Tensor) -> Tensor:
    """The error of a sum, from the sum of the sizes of its terms."""
    lost = largest * ((num_terms + _OTHERS) * UNIT * _INFLATED) + _TINY
    return lost.masked_fill(largest > _OVERFLOW, math.inf)
