"""Refuses a question that verification cannot answer soundly."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from trainers.errors import VerificationError


def check_radius(radius: float | Tensor, num_examples: int) -> Tensor:
    """The radius of each example, (B,) in float64; raises VerificationError."""
    if isinstance(radius, Tensor) and radius.ndim == 0:
        radius = float(radius)
    if isinstance(radius, Tensor):
        if radius.shape != (num_examples,) or not (radius.isfinite() & (radius >= 0)).all():
            raise VerificationError(
                f"radius is a tensor of shape {tuple(radius.shape)}, least "
                f"{radius.min().item() if radius.numel() else 'none'}: give one finite number >= 0 "
                f"for each of the {num_examples} examples"
            )
        return radius.detach().double()
    if not (_is_number(radius) and math.isfinite(radius) and radius >= 0):
        raise VerificationError(f"radius is {radius!r}: it must be a finite number >= 0")
    return torch.full((num_examples,), float(radius), dtype=torch.float64)


def check_margin(margin: float | Tensor, x: Tensor) -> Tensor:
    """What margins of each example must exceed besides, (B,); raises VerificationError."""
    found = torch.as_tensor(margin, dtype=torch.float64, device=x.device)
    if found.shape not in ((), x.shape[:1]) or not (found >= 0).all():
        raise VerificationError(
            f"margin is {margin!r}: give a number >= 0, or one for each of the {len(x)} examples"
        )
    return found.expand(len(x))


def check_settings(
    methods: Collection[str], available: Collection[str], low: float, high: float
) -> None:
    """Methods and data range; raises VerificationError."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise VerificationError(
            f"the data range is [{low}, {high}]: both must be finite, and low less than high"
        )
    if isinstance(methods, str):
        raise VerificationError(f"methods is the text {methods!r}: give a tuple, ({methods!r},)")
    unavailable = [name for name in methods if name not in available]
    if unavailable or not methods:
        raise VerificationError(
            f"methods {tuple(methods)} asks for {unavailable or 'nothing'}: available are "
            f"{', '.join(available)}"
        )


def check_limits(
    seconds: Mapping[str, float | None], *counts: Mapping[str, tuple[int, int]]
) -> None:
    """Times are >= 0 or None, counts at least their least value; raises VerificationError."""
    for name, value in seconds.items():
        if value is not None and not (_is_number(value) and value >= 0):
            raise VerificationError(f"{name} is {value!r}: give seconds >= 0, or None")
    for name, (count, least) in itertools.chain(*(given.items() for given in counts)):
        if not isinstance(count, int) or isinstance(count, bool):
            raise VerificationError(f"{name} is {count!r}: it must be a whole number")
        if count < least:
            raise VerificationError(f"{name} is {count}: it must be at least {least}")


def check_examples(model: nn.Module, x: Tensor, y_B: Tensor, low: float, high: float) -> None:
    """Shapes, types, devices and range of the examples; raises VerificationError."""
    if not (isinstance(model, nn.Module) and isinstance(x, Tensor) and isinstance(y_B, Tensor)):
        given = ", ".join(type(value).__name__ for value in (model, x, y_B))
        raise VerificationError(f"model, x and y are {given}: give an nn.Module and two tensors")
    if x.ndim < 2 or len(x) == 0:
        raise VerificationError(
            f"x has shape {tuple(x.shape)}: give at least one example, as (batch, ...)"
        )
    if y_B.shape != x.shape[:1]:
        raise VerificationError(
            f"x has {len(x)} examples but y has shape {tuple(y_B.shape)}: give one label each"
        )
    if y_B.is_floating_point() or y_B.is_complex() or y_B.dtype == torch.bool:
        raise VerificationError(f"y is {y_B.dtype}: labels are integers, from 0")
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point() and (tensor.dtype, tensor.device) != (x.dtype, x.device):
            raise VerificationError(
                f"x is {x.dtype} on {x.device} but the network is {tensor.dtype} on "
                f"{tensor.device}: move x to the network's type and device"
            )
    outside = ~((x >= low) & (x <= high))
    if outside.any():
        raise VerificationError(
            f"x has {int(outside.sum())} values outside [{low}, {high}], such as "
            f"{x[outside][0].item()}: scale x, or state the data range by low and high"
        )


def check_logits(logits_BK: Tensor, y_B: Tensor) -> None:
    """The network's outputs are finite logits that the labels index; raises VerificationError."""
    if logits_BK.ndim != 2 or len(logits_BK) != len(y_B) or logits_BK.shape[1] < 2:
        raise VerificationError(
            f"the network returns shape {tuple(logits_BK.shape)} for {len(y_B)} examples: it must "
            "return one logit for each of at least two classes"
        )
    if not logits_BK.isfinite().all():
        raise VerificationError(
            "the network returns logits that are not finite: its weights have diverged"
        )
    num_classes = logits_BK.shape[1]
    wrong = (y_B < 0) | (y_B >= num_classes)
    if wrong.any():
        raise VerificationError(
            f"label {int(y_B[wrong][0])} is out of range: the network has {num_classes} classes, "
            f"0 to {num_classes - 1}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
