"""A network of the user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spaces.model import PythonModelConfig
from trainers.errors import ModelError
from trainers.imports import call_function
from trainers.models.layers import Named


def python_layers(
    config: PythonModelConfig, input_shape: tuple[int, ...], num_classes: int
) -> list[Named]:
    """The module that the function returns, tried on two examples.

    Raises ModelError when it is no nn.Module or does not give logits of shape (B, num_classes).
    """
    model = call_function(config.python, ModelError, input_shape, num_classes, **config.arguments)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"python: {config.python!r} returned a {type(model).__name__}: it must return a "
            "torch.nn.Module"
        )
    model = model.cpu()
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, *input_shape))
    except Exception as cause:  # a person's module may raise anything
        raise ModelError(
            f"python: the network of {config.python!r} failed on inputs of shape "
            f"{(2, *input_shape)} with {type(cause).__name__}: {cause}"
        ) from cause
    for module, mode in training.items():
        module.training = mode
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != (2, num_classes):
        raise ModelError(
            f"python: the network of {config.python!r} turned inputs of shape "
            f"{(2, *input_shape)} into {got}: it must give logits of shape {(2, num_classes)}"
        )
    return [("network", model)]
