"""Which parameters a ticket may prune."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from trainers.errors import ModelError


def prunable_layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Linear and Conv2d layers by the name of their weight, in the model's order.

    Two layers that share one weight appear once, under its first name. Raises ModelError when a
    weight is computed from other parameters (torch's parametrizations): zeros could not be held.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    found: dict[str, nn.Linear | nn.Conv2d] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if module.weight not in names:
                raise ModelError(
                    f"the weight of layer {path!r} is not a plain parameter: remove its "
                    "parametrization (torch.nn.utils.parametrize.remove_parametrizations)"
                )
            found.setdefault(names[module.weight], module)
    return found


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of Linear and Conv2d layers by parameter name, in the model's order."""
    layers = prunable_layers(model).items()
    return {name: cast(nn.Parameter, layer.weight) for name, layer in layers}
