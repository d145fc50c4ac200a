"""`build_model`: from a configuration to a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.grafting import GraftingConfig
from spaces.model import (
    Cnn7Config,
    CnnConfig,
    MlpConfig,
    ModelConfig,
    PythonModelConfig,
    ResNetConfig,
)
from trainers.errors import ModelError
from trainers.models.cnn import cnn_layers
from trainers.models.cnn7 import cnn7_layers
from trainers.models.grafted import make_graftable
from trainers.models.layers import Named, Normalize, stack
from trainers.models.mlp import mlp_layers
from trainers.models.python import python_layers
from trainers.models.resnet import resnet_layers

_FAMILIES: dict[type, Callable[[Any, tuple[int, ...], int], list[Named]]] = {
    MlpConfig: mlp_layers,
    CnnConfig: cnn_layers,
    Cnn7Config: cnn7_layers,
    ResNetConfig: resnet_layers,
    PythonModelConfig: python_layers,
}
_IMAGE_FAMILIES = (CnnConfig, Cnn7Config, ResNetConfig)


def build_model(
    config: ModelConfig,
    input_shape: Sequence[int],
    num_classes: int,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    seed: int = 0,
    grafting: GraftingConfig | None = None,
) -> nn.Module:
    """The network on the CPU, logits (B, num_classes) from x in [0, 1]; Normalize comes first.

    Every ReLU is a module of its own, used once. `seed` fixes the weights that constructors draw
    (those of a user's network with `initialization: own` are kept; `initialize` draws the others
    again); torch's global generator is left as it was. With a fraction of `grafting` above 0 each
    ReLU is a GraftedReLU, in which nothing is grafted yet. Raises ModelError when the family does
    not fit the input, or the network cannot be grafted.
    """
    shape = tuple(input_shape)
    if isinstance(config, _IMAGE_FAMILIES) and len(shape) != 3:
        raise ModelError(
            f"model.family: {config.family} needs images, but an example has shape {shape}: use mlp"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = _FAMILIES[type(config)](config, shape, num_classes)
    model = stack([("normalize", Normalize(mean, std, shape)), *layers])
    if grafting is not None and grafting.fraction > 0.0:
        make_graftable(model, grafting, shape)
    return model
