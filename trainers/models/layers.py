"""The two layers that torch does not have, and named stacks of those that it has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

Named = tuple[str, nn.Module]
"""A layer and the name that its weights go by."""


class Normalize(nn.Module):
    """(x - mean) / std per channel of (B, C, H, W) or per feature of (B, F).

    The first layer of every network, so that inputs and radii stay in [0, 1] units.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        input_shape: Sequence[int],
    ) -> None:
        super().__init__()
        shape = (-1, *(1 for _ in input_shape[1:]))
        for name, value in (("mean", mean), ("std", std)):
            tensor = torch.as_tensor(value, dtype=torch.float32).detach().cpu().clone()
            self.register_buffer(name, tensor.reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x, of the same shape."""
        return (x - self.mean) / self.std


class Residual(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both branches."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


def stack(layers: Iterable[Named]) -> nn.Sequential:
    """The layers one after another, under their names."""
    return nn.Sequential(OrderedDict(layers))


def linear(name: str, inputs: int, outputs: int, batch_norm: bool) -> list[Named]:
    """Linear, batch normalisation if asked for, ReLU. Batch normalisation makes a bias idle."""
    layers: list[Named] = [(name, nn.Linear(inputs, outputs, bias=not batch_norm))]
    if batch_norm:
        layers.append((f"{name}_norm", nn.BatchNorm1d(outputs)))
    return [*layers, (f"{name}_relu", nn.ReLU())]


def convolution(
    name: str, channels: tuple[int, int], kernel: int, stride: int, batch_norm: bool
) -> list[Named]:
    """Convolution with padding 1, batch normalisation if asked for, ReLU."""
    conv = nn.Conv2d(*channels, kernel, stride, padding=1, bias=not batch_norm)
    layers: list[Named] = [(name, conv)]
    if batch_norm:
        layers.append((f"{name}_norm", nn.BatchNorm2d(channels[1])))
    return [*layers, (f"{name}_relu", nn.ReLU())]


def scaled(width: int, factor: float) -> int:
    """The width times the factor, rounded, at least 1."""
    return max(1, round(width * factor))
