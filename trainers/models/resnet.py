"""Small residual networks."""

from __future__ import annotations

from torch import nn

from spaces.model import ResNetConfig
from trainers.models.layers import Named, Residual, convolution, scaled, stack


def resnet_layers(
    config: ResNetConfig, input_shape: tuple[int, ...], num_classes: int
) -> list[Named]:
    """A 3x3 stem, stages of basic blocks (each stage halves the size), average pooling, out."""
    channels, height, width = input_shape
    stem = scaled(config.width, config.width_factor)
    layers = convolution("stem", (channels, stem), 3, 1, config.batch_norm)
    channels = stem
    for stage, blocks in enumerate(config.blocks, start=1):
        outputs = scaled(config.width * 2 ** (stage - 1), config.width_factor)
        for block in range(1, blocks + 1):
            stride = 2 if block == 1 else 1
            name = f"stage{stage}_block{block}"
            layers.append((name, basic_block((channels, outputs), stride, config.batch_norm)))
            layers.append((f"{name}_relu", nn.ReLU()))
            channels = outputs
        height, width = (height + 1) // 2, (width + 1) // 2
    layers += [("pool", nn.AvgPool2d((height, width))), ("flatten", nn.Flatten())]
    return [*layers, ("out", nn.Linear(channels, num_classes))]


def basic_block(channels: tuple[int, int], stride: int, batch_norm: bool) -> Residual:
    """Two 3x3 convolutions beside the input, which a 1x1 convolution fits where shapes differ."""
    inputs, outputs = channels
    body = convolution("conv1", channels, 3, stride, batch_norm)
    body += convolution("conv2", (outputs, outputs), 3, 1, batch_norm)[:-1]
    if stride == 1 and inputs == outputs:
        return Residual(stack(body), nn.Identity())
    shortcut: list[Named] = [("conv", nn.Conv2d(inputs, outputs, 1, stride, bias=not batch_norm))]
    if batch_norm:
        shortcut.append(("conv_norm", nn.BatchNorm2d(outputs)))
    return Residual(stack(body), stack(shortcut))
