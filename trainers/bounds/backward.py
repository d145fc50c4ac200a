"""Linear bounds by backward substitution, in plain torch.

A row is a linear function of one value of a network, for one example: coefficients of that value's
shape. Going back through the steps, each ReLU is replaced by lines below and above it, until the
row is a linear function of the input, whose least value over the box is known (Zhang et al. 2018,
arXiv:1811.00866).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainers.bounds.interval import Activation, IntervalPass
from trainers.bounds.normalization import Norm
from trainers.bounds.program import Add, Affine, Flatten, SpatialMean, is_number
from trainers.bounds.rounded import Rounded

Slopes = Mapping[int, Tensor]
"""By the number of a ReLU's step: the slope of the line below it, (rows, *shape), in [0, 1]."""


class BackwardBounds:
    """Backward bounds of the network of `interval`, on one batch of boxes.

    `values` are the network's values with intervals, by number (`IntervalPass.values`), up to where
    rows start or the one before. All is differentiable with respect to parameters and slopes.
    """

    def __init__(self, interval: IntervalPass, values: list[Activation]) -> None:
        self.program, self.values = interval.program, values

    def lower(
        self,
        number: int,
        rows: Tensor,
        owner_R: Tensor | None = None,
        slopes: Slopes | None = None,
    ) -> Tensor:
        """Lower bounds (R,) of sum(rows[r] * value), over the box of example owner_R[r].

        rows: (R, *shape of value `number`). Without `owner_R` there is one row for each example.
        Without `slopes` the line below an open ReLU is x or 0, whichever leaves less room.
        """
        pending = {number: rows}
        constant_R = rows.new_zeros(len(rows))
        for made in range(number, 0, -1):
            if made not in pending:
                continue
            row = pending.pop(made)
            step = self.program.steps[made - 1]
            before = self.values[step.inputs[0]]
            added_R: Tensor | None
            if isinstance(step.op, nn.ReLU):
                given = None if slopes is None else slopes.get(made)
                row, added_R = _through_relu(row, before, owner_R, given)
            elif isinstance(step.op, Rounded):
                added_R = _least_of_rounding(step.op, row, before, owner_R)
            else:
                norm = self.values[made].norm if made < len(self.values) else None
                row, added_R = _through(step.op, row, before, norm)
            if added_R is not None:
                constant_R = constant_R + added_R
            for i in step.inputs:
                pending[i] = pending[i] + row if i in pending else row
        box, row = self.values[0], pending[0].flatten(1)
        center, radius = (_of(t, owner_R).flatten(1) for t in (box.center, box.radius))
        return constant_R + (row * center).sum(1) - (row.abs() * radius).sum(1)

    def largest(self, number: int) -> int:
        """The number of elements of the largest value on the way back from value `number`."""
        return max(value.center[0].numel() for value in self.values[: number + 1])


def _of(tensor: Tensor, owner_R: Tensor | None) -> Tensor:
    """What belongs to each row, from what belongs to each example."""
    return tensor if owner_R is None else tensor[owner_R]


def _through_relu(
    row: Tensor, before: Activation, owner_R: Tensor | None, slope: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A coefficient > 0 takes the line below, another one the line above."""
    center, radius = _of(before.center, owner_R), _of(before.radius, owner_R)
    below = (center > 0).to(row)  # x where more of the interval is above zero; right if stable
    if slope is not None:
        below = torch.where(center.abs() < radius, slope, below)
    row, added_R = _Relaxed.apply(row, center, radius, below)
    return row, added_R


def _least_of_rounding(
    op: Rounded, row: Tensor, before: Activation, owner_R: Tensor | None
) -> Tensor:
    """What rounding adds to a row's value at least: it may go either way in each place."""
    below, above = (_of(t, owner_R) for t in op.reach(*before.bounds))
    return _dot(row.clamp(max=0.0), above) - _dot(row.clamp(min=0.0), below)


class _Relaxed(torch.autograd.Function):
    """A row in front of a ReLU, and the constant it gains; by hand, for half the memory traffic.

    With p = max(u, 0) and q = max(-l, 0) the line above is s x + s q for s = p / (p + q), which is
    right for stable units too: x where q is 0, and 0 where p is.
    """

    @staticmethod
    def forward(
        ctx: Any, row: Tensor, center: Tensor, radius: Tensor, below: Tensor
    ) -> tuple[Tensor, Tensor]:
        p, q = (center + radius).relu_(), (radius - center).relu_()
        length = (p + q).clamp_(min=torch.finfo(row.dtype).tiny)
        slope = p.div_(length)
        is_positive = row > 0
        gate = torch.where(is_positive, below, slope)
        intercept = q.mul_(slope).masked_fill_(is_positive, 0.0)
        ctx.save_for_backward(row, gate, slope, intercept, length)
        return row * gate, (row * intercept).flatten(1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row_grad: Tensor, added_grad_R: Tensor) -> tuple[Any, ...]:
        row, gate, slope, intercept, length = ctx.saved_tensors
        added_grad = added_grad_R.view(-1, *[1] * (row.ndim - 1))
        through = torch.addcmul(row_grad * gate, intercept, added_grad)
        below_grad = row_grad * row.clamp(min=0.0) if ctx.needs_input_grad[3] else None
        if not ctx.needs_input_grad[1]:
            return through, None, None, below_grad
        # With t = 1 - s: ds/du = t / (p + q), d(sq)/du = t^2, and with s for -l. Written for the
        # middle and the half-width, by m = t - s; only open units (0 < s < 1) move the line.
        m = slope.mul(-2.0).add_(1.0)
        moves = row.clamp(max=0.0).mul_(m.abs() < 1.0)
        turn = row_grad / length
        center_grad = torch.addcmul(turn, m, added_grad).mul_(moves)
        radius_grad = turn.mul_(m).addcmul_(m.square().add_(1.0), added_grad, value=0.5)
        return through, center_grad, radius_grad.mul_(moves), below_grad


def _through(
    op: Any, row: Tensor, before: Activation, norm: Norm | None
) -> tuple[Tensor, Tensor | None]:
    """A row before an affine step, from one behind it, and what the step's constants add to it."""
    if isinstance(op, nn.Linear):
        return row @ op.weight, None if op.bias is None else _dot(row, op.bias)
    if isinstance(op, nn.Conv2d):
        bias = None if op.bias is None else _dot(row, op.bias.view(-1, 1, 1))
        return _transposed(op, row, before.center.shape[2:]), bias
    if isinstance(op, nn.BatchNorm1d | nn.BatchNorm2d):
        assert norm is not None, "batch normalisation leaves its scale and shift"
        scale, shift = (t.view(-1, *[1] * (row.ndim - 2)) for t in norm)
        return row * scale, _dot(row, shift)
    if isinstance(op, Affine):
        scale, shift = op.constants(before.value)
        added_R = None if is_number(shift, 0.0) else _dot(row, shift)
        return row if is_number(scale, 1.0) else row * scale, added_R
    if isinstance(op, nn.AvgPool2d | SpatialMean):
        return _pulled_back(op, row, before), None
    if isinstance(op, Flatten):
        return row.view(-1, *before.center.shape[1:]), None
    assert isinstance(op, Add | nn.Identity | nn.Dropout | nn.Dropout2d), op
    return row, None


def _dot(row: Tensor, constant: Any) -> Tensor:
    return (row * constant).flatten(1).sum(1)


def _transposed(op: nn.Conv2d, row: Tensor, size: torch.Size) -> Tensor:
    """The convolution's transpose; `size` is that of its input."""
    (top, bottom), (left, right) = convolution_padding(op)
    padded = size[0] + top + bottom, size[1] + left + right
    reach = [op.dilation[i] * (op.kernel_size[i] - 1) + 1 for i in (0, 1)]
    unread = [padded[i] - (row.shape[i + 2] - 1) * op.stride[i] - reach[i] for i in (0, 1)]
    symmetric = top == bottom and left == right
    padding = (top, left) if symmetric else (0, 0)
    options = (op.stride, padding, unread, op.groups, op.dilation)
    out = F.conv_transpose2d(row, op.weight, None, *options)
    return out if symmetric else out[:, :, top : top + size[0], left : left + size[1]]


def convolution_padding(op: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros above and below, left and right, whatever the layer calls them."""
    if op.padding == "valid":
        return (0, 0), (0, 0)
    if op.padding == "same":
        totals = [d * (k - 1) for d, k in zip(op.dilation, op.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((t // 2, t - t // 2) for t in totals)
        return (top, bottom), (left, right)
    assert not isinstance(op.padding, str)
    return (op.padding[0], op.padding[0]), (op.padding[1], op.padding[1])


def _pulled_back(op: nn.Module, row: Tensor, before: Activation) -> Tensor:
    """The transpose of a linear step, as its gradient."""
    create = torch.is_grad_enabled() and row.requires_grad
    with torch.enable_grad():
        x = torch.zeros(len(row), *before.center.shape[1:], dtype=row.dtype, device=row.device)
        x.requires_grad_(True)
        (out,) = torch.autograd.grad(op(x), x, row, create_graph=create)
    return out
