"""The seven-layer network that certified training is usually compared on."""

from __future__ import annotations

from torch import nn

from spaces.model import Cnn7Config
from trainers.models.layers import Named, convolution, linear, scaled


def cnn7_layers(config: Cnn7Config, input_shape: tuple[int, ...], num_classes: int) -> list[Named]:
    """Five 3x3 convolutions (w, w, 2w with stride 2, 2w, 2w), fc1, out (Shi et al. 2021)."""
    channels, height, width = input_shape
    narrow = scaled(config.width, config.width_factor)
    wide = scaled(2 * config.width, config.width_factor)
    plan = [(narrow, 1), (narrow, 1), (wide, 2), (wide, 1), (wide, 1)]
    layers: list[Named] = []
    for i, (outputs, stride) in enumerate(plan, start=1):
        layers += convolution(f"conv{i}", (channels, outputs), 3, stride, config.batch_norm)
        channels = outputs
    inputs = wide * ((height + 1) // 2) * ((width + 1) // 2)
    hidden = scaled(config.hidden, config.width_factor)
    layers.append(("flatten", nn.Flatten()))
    layers += linear("fc1", inputs, hidden, config.batch_norm)
    return [*layers, ("out", nn.Linear(hidden, num_classes))]
