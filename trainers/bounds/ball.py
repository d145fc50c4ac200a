"""The l-infinity ball around an example, clipped to the data range."""

from __future__ import annotations

from torch import Tensor


def ball(
    x: Tensor, radius: float | Tensor, low: float = 0.0, high: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each input within `radius` of `x` and [low, high].

    Both have the shape of `x`; `radius` is in the units of the data, and may be a tensor that
    broadcasts to x.
    """
    return (x - radius).clamp(low, high), (x + radius).clamp(low, high)
