"""Strided convolutions, then fully connected layers."""

from __future__ import annotations

from torch import nn

from spaces.model import CnnConfig
from trainers.errors import ModelError
from trainers.models.layers import Named, convolution, linear, scaled


def cnn_layers(config: CnnConfig, input_shape: tuple[int, ...], num_classes: int) -> list[Named]:
    """conv1, ... (4x4, stride 2, padding 1: each halves the size), fc1, ..., out.

    Raises ModelError naming the convolution that would have no pixel left to write to.
    """
    channels, height, width = input_shape
    layers: list[Named] = []
    for i, hidden in enumerate(config.channels, start=1):
        if min(height, width) < 2:
            raise ModelError(
                f"model.channels: conv{i} would turn {height} x {width} pixels into none: an input "
                f"of {input_shape[1]} x {input_shape[2]} has room for {i - 1} of the "
                f"{len(config.channels)} convolutions, each of which halves it"
            )
        outputs = scaled(hidden, config.width_factor)
        layers += convolution(f"conv{i}", (channels, outputs), 4, 2, config.batch_norm)
        channels, height, width = outputs, height // 2, width // 2
    layers.append(("flatten", nn.Flatten()))
    inputs = channels * height * width
    for i, hidden in enumerate(config.hidden, start=1):
        outputs = scaled(hidden, config.width_factor)
        layers += linear(f"fc{i}", inputs, outputs, config.batch_norm)
        inputs = outputs
    return [*layers, ("out", nn.Linear(inputs, num_classes))]
