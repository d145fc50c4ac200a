"""Activations that are rounded to 8 bits, as a step that every bound method knows how to follow.

docs/verification.md has the mathematics, in "Networks in 8 bits".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS = 255
"""From the least to the largest of the numbers in 8 bits."""
_HALF = 0.5 + 2.0**-13
"""Half a step, and what float32 may add: x / scale is off by at most 256 * 4 * 2**-24 steps."""


class Rounded(nn.Module):
    """The nearest multiple of `scale` from `least` to `largest` times it.

    Without a `scale` each example has its own: 255 steps from its least to its largest number, with
    zero among them (ONNX DynamicQuantizeLinear, for a batch of one). `tolerance`, shaped like one
    example or broadcast to it, is how far what is rounded may be from what exact arithmetic makes
    of the values before; bounds cover every outcome of that. `is_positive` tells that nothing
    negative comes here. Gradients pass through, but for what lies beyond the range.
    """

    tolerance: Tensor

    def __init__(
        self, scale: float | None, least: int = 0, largest: int = STEPS, is_positive: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.least, self.largest = scale, least, largest
        self.is_positive = is_positive
        self.register_buffer("tolerance", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """What the runtime makes of it, were all its arithmetic exact; halves go to even."""
        if self.scale is None:
            kept, rounded = x, _dynamically(x.detach())
        else:
            kept = x.clamp(self.least * self.scale, self.largest * self.scale)
            rounded = (kept.detach() / self.scale).round() * self.scale
        return kept + (rounded - kept).detach()

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds on what becomes of values within bounds: rounding is monotone."""
        lower, upper = self._widened(lower, upper)
        if self.scale is None:
            half = self._half(lower, upper)
            # Zero stays zero, so that no sign changes.
            below, above = lower - half, upper + half
            below = torch.where(lower >= 0, below.clamp(min=0.0), below)
            return below, torch.where(upper <= 0, above.clamp(max=0.0), above)
        below = (lower / self.scale - _HALF).ceil().clamp(self.least, self.largest)
        above = (upper / self.scale + _HALF).floor().clamp(self.least, self.largest)
        return below * self.scale, above * self.scale

    def reach(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """(below, above): a value x within bounds becomes one in [x - below, x + above]."""
        wide_lower, wide_upper = self._widened(lower, upper)
        half = self._half(wide_lower, wide_upper) + self.tolerance
        least, largest = self.range(lower, upper)
        below, above = upper - least, largest - lower
        if self.scale is None:
            return torch.minimum(below, half), torch.minimum(above, half)
        beyond = wide_upper - self.largest * self.scale, self.least * self.scale - wide_lower
        below = torch.minimum(below, torch.maximum(half, beyond[0]))
        return below, torch.minimum(above, torch.maximum(half, beyond[1]))

    def _widened(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = lower - self.tolerance, upper + self.tolerance
        return (lower.clamp(min=0.0), upper.clamp(min=0.0)) if self.is_positive else (lower, upper)

    def _half(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Half a step, for each example."""
        if self.scale is not None:
            return torch.full_like(lower, self.scale * _HALF)
        axes = tuple(range(1, lower.ndim))
        span = upper.amax(axes, True).clamp(min=0.0) - lower.amin(axes, True).clamp(max=0.0)
        return (span / STEPS * _HALF).expand_as(lower)


def _dynamically(x: Tensor) -> Tensor:
    axes = tuple(range(1, x.ndim))
    least, largest = x.amin(axes, True).clamp(max=0.0), x.amax(axes, True).clamp(min=0.0)
    scale = (largest - least) / STEPS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-least / scale).round().clamp(0, STEPS)
    return ((x / scale).round() + zero).clamp(0, STEPS).sub(zero) * scale
