"""Where the numbers of an activation lie in memory, so that convolutions read them in long runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

Shape = tuple[int, int, int]
"""Channels, height, width; (features, 1, 1) after flattening."""


@dataclass(frozen=True)
class Layout:
    """A border of zeros around each channel, rows and columns split by a convolution's strides.

    Each channel is strides[0] * strides[1] planes; the one for phase (a, b) holds the rows a,
    a + strides[0], ... and columns b, b + strides[1], ... of the channel with its border. What a
    weight of a convolution reads for neighbouring outputs are then neighbours in one plane.
    `border` is what stands above and to the left; `extent` is height and width with the border.
    """

    shape: Shape
    strides: tuple[int, int]
    border: tuple[int, int]
    extent: tuple[int, int]

    @classmethod
    def plain(cls, shape: Shape) -> Layout:
        """Row-major, nothing between."""
        return cls(shape, (1, 1), (0, 0), shape[1:])

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of each plane."""
        rows, columns = (-(-e // s) for e, s in zip(self.extent, self.strides, strict=True))
        return rows, columns

    @property
    def channel(self) -> int:
        """Numbers per channel."""
        return math.prod(self.strides) * math.prod(self.plane)

    @property
    def size(self) -> int:
        """Numbers in all."""
        return self.shape[0] * self.channel

    @property
    def has_gaps(self) -> bool:
        """Whether there are places that no element of the activation fills."""
        return self.size > math.prod(self.shape)

    def offset(self, channel: Any, row: Any, column: Any) -> Any:
        """The place of an element; rows and columns count from the border's corner."""
        (down, across), (rows, pitch) = self.strides, self.plane
        plane = (channel * down + row % down) * across + column % across
        return (plane * rows + row // down) * pitch + column // across

    def joined(self, other: Layout) -> Layout:
        """A layout of the same shape and strides that has room for both borders."""
        assert (self.shape, self.strides) == (other.shape, other.strides)
        border = max(self.border[0], other.border[0]), max(self.border[1], other.border[1])
        rows, columns = (
            max(one.extent[i] + border[i] - one.border[i] for one in (self, other)) for i in (0, 1)
        )
        return Layout(self.shape, self.strides, border, (rows, columns))


def layout_for(conv: nn.Conv2d, shape: Shape) -> Layout:
    """The layout in which a convolution reads activations of this shape."""
    down, across = conv.stride
    border = _padding(conv)
    outputs = output_size(conv, shape)
    sizes = zip(outputs, conv.stride, conv.kernel_size, conv.dilation, strict=True)
    reached = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in sizes]
    rows, columns = (max(shape[i + 1] + border[i], reached[i]) for i in (0, 1))
    return Layout(shape, (down, across), border, (rows, columns))


def output_size(conv: nn.Conv2d, shape: Shape) -> tuple[int, int]:
    """Height and width of what a convolution makes."""
    if conv.padding == "same":
        return shape[1:]
    padding = _padding(conv)
    height, width = (
        (shape[i + 1] + 2 * padding[i] - conv.dilation[i] * (conv.kernel_size[i] - 1) - 1)
        // conv.stride[i]
        + 1
        for i in (0, 1)
    )
    return height, width


def tap_offsets(conv: nn.Conv2d, layout: Layout) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Offset of what each weight of an output reads for the first output position.

    One number per input channel of a group, row and column of the kernel, in the order of the
    weights; for the first group. `layout` must have the convolution's strides and room for its
    padding.
    """
    assert layout.strides == tuple(conv.stride)
    (top, left), (height, width) = _padding(conv), conv.kernel_size
    channels = np.arange(conv.in_channels // conv.groups)[:, None, None]
    rows = np.arange(height)[:, None] * conv.dilation[0] + layout.border[0] - top
    columns = np.arange(width) * conv.dilation[1] + layout.border[1] - left
    offsets: np.ndarray[Any, np.dtype[np.int64]] = layout.offset(channels, rows, columns)
    return offsets.reshape(-1)


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Rows of zeros above, columns of zeros to the left."""
    if isinstance(conv.padding, str):
        if conv.padding == "valid":
            return 0, 0
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return total[0] // 2, total[1] // 2
    top, left = conv.padding
    return top, left
