"""Batch normalisation in training mode: the statistics of natural values, for all that passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Norm = tuple[Tensor, Tensor]
"""Scale and shift, one per channel: what a layer of batch normalisation is in one pass."""


def normalize(op: Any, value: Tensor) -> tuple[Tensor, Norm]:
    """What `op` makes of `value`, and as which affine map; both differentiable.

    In training mode the statistics are those of `value`, and running ones are updated.
    """
    if not op.training:
        return op(value), running_norm(op)
    out, mean, inverse_std = _normalize_batch(op, value)
    return out, _norm(op, mean, inverse_std)


def running_norm(op: Any) -> Norm:
    """Scale and shift of a layer of batch normalisation in evaluation mode."""
    return _norm(op, op.running_mean, torch.rsqrt(op.running_var + op.eps))


def _norm(op: Any, mean: Tensor, inverse_std: Tensor) -> Norm:
    scale = inverse_std if op.weight is None else inverse_std * op.weight
    shift = -mean * scale if op.bias is None else op.bias - mean * scale
    return scale, shift


def apply_norm(norm: Norm, value: Tensor) -> Tensor:
    """The same affine map of another value, (B, channels, ...)."""
    scale, shift = (t.view(-1, *[1] * (value.ndim - 2)) for t in norm)
    return torch.addcmul(shift, value, scale)


def norm_radius(norm: Norm, radius: Tensor) -> Tensor:
    """What the map makes of a radius."""
    return radius * norm[0].abs().view(-1, *[1] * (radius.ndim - 2))


def _normalize_batch(op: Any, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `op` does in training mode, with the statistics that it used (none computed twice)."""
    momentum = op.momentum
    if op.num_batches_tracked is not None:
        op.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(op.num_batches_tracked)
    normalized, mean, inverse_std = torch.native_batch_norm(
        value, op.weight, op.bias, op.running_mean, op.running_var, True, momentum, op.eps
    )
    return normalized, *_BatchStatistics.apply(value, mean, inverse_std)


class _BatchStatistics(torch.autograd.Function):
    """Mean and 1 / standard deviation of each channel, as differentiable functions of `value`."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, mean: Tensor, inverse_std: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(value, mean, inverse_std)
        return mean.clone(), inverse_std.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean_grad: Tensor, inverse_std_grad: Tensor) -> tuple[Any, ...]:
        value, mean, inverse_std = ctx.saved_tensors
        # d mean / d v = 1 / n, and d (var + eps)^(-1/2) / d v = -(var + eps)^(-3/2) (v - mean) / n.
        n = value.numel() / len(mean)
        slope = -inverse_std_grad * inverse_std**3 / n
        offset = mean_grad / n - slope * mean
        shape = (-1, *[1] * (value.ndim - 2))
        return torch.addcmul(offset.view(shape), value, slope.view(shape)), None, None
