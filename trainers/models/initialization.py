"""Initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spaces.model import ModelConfig
from trainers.models.weights import prunable_layers


def initialize(
    model: nn.Module,
    config: ModelConfig,
    generator: torch.Generator,
    masks: Mapping[str, Tensor] | None = None,
) -> None:
    """Draw the weights of Linear and Conv2d layers anew; biases 0, batch normalisation reset.

    ibp: N(0, s^2) with s = sqrt(2 pi) / fan_in, which keeps the expected width of interval bounds
    about constant from layer to layer (Shi et al. 2021, section 3.2). kaiming: s = sqrt(2 / fan_in)
    (He et al. 2015). own: nothing is changed. With `masks` (by parameter name) fan_in is, for each
    output unit, the number of weights that it keeps, at least 1; the masks themselves are not
    applied. The generator's device does not matter: the same seed on the CPU gives the same
    weights on every device.
    """
    if config.initialization == "own":
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
    with torch.no_grad():
        for name, layer in prunable_layers(model).items():
            weight = layer.weight
            kept = masks[name] if masks and name in masks else torch.ones_like(weight)
            fan_in = kept.flatten(1).count_nonzero(dim=1).clamp(min=1).to(weight)
            if config.initialization == "ibp":
                scale = math.sqrt(2 * math.pi) / fan_in
            else:
                scale = torch.sqrt(2 / fan_in)
            noise = torch.randn(weight.shape, generator=generator, device=generator.device)
            per_unit = scale.reshape(-1, *(1 for _ in weight.shape[1:]))
            weight.copy_(noise.to(weight) * per_unit)
            if layer.bias is not None:
                layer.bias.zero_()
