"""Fully connected networks."""

from __future__ import annotations

import math

from torch import nn

from spaces.model import MlpConfig
from trainers.models.layers import Named, linear, scaled


def mlp_layers(config: MlpConfig, input_shape: tuple[int, ...], num_classes: int) -> list[Named]:
    """Hidden layers fc1, fc2, ... and the last one, out."""
    layers: list[Named] = [("flatten", nn.Flatten())]
    inputs = math.prod(input_shape)
    for i, width in enumerate(config.widths, start=1):
        outputs = scaled(width, config.width_factor)
        layers += linear(f"fc{i}", inputs, outputs, config.batch_norm)
        inputs = outputs
    return [*layers, ("out", nn.Linear(inputs, num_classes))]
