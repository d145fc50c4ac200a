"""What a network costs: operations and parameters.

A multiply-add counts as two operations; only non-zero weights of Linear and Conv2d layers count
(biases, normalisation, activations and pooling are left out, as the field does). A weight of a
convolution is used once per output position, padding included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.errors import ModelError
from trainers.models.grafted import grafted_relus
from trainers.models.modes import evaluating
from trainers.models.weights import prunable_weights


def layer_positions(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """How often one example uses each weight of a layer, by the weight's parameter name.

    One forward pass of a zero example; the answer depends on shapes only, so callers keep it.
    """
    weights = prunable_weights(model)
    names: dict[Tensor, str] = {weight: name for name, weight in weights.items()}
    positions = dict.fromkeys(weights, 0)

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Linear | nn.Conv2d)
        positions[names[module.weight]] += output.numel() // module.weight.shape[0]

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(_zeros(model, 1, input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return positions


def nonzero_counts(model: nn.Module) -> dict[str, int]:
    """Non-zero weights of each Linear and Conv2d layer, by parameter name."""
    return {name: int(weight.count_nonzero()) for name, weight in prunable_weights(model).items()}


def dense_counts(model: nn.Module) -> dict[str, int]:
    """All weights of each Linear and Conv2d layer, by parameter name."""
    return {name: weight.numel() for name, weight in prunable_weights(model).items()}


def flops(counts: Mapping[str, int], positions: Mapping[str, int]) -> int:
    """Operations of one forward pass of one example: 2 * sum of counts * positions."""
    return sum(2 * count * positions[name] for name, count in counts.items())


def count_flops(
    model: nn.Module, input_shape: Sequence[int], counts: Mapping[str, int] | None = None
) -> int:
    """Inference operations for one example; `counts` replaces non-zero counts of named weights."""
    actual = nonzero_counts(model)
    unknown = sorted(set(counts or ()) - set(actual))
    if unknown:
        raise ModelError(
            f"counts names {unknown[0]!r}, which is no weight of a Linear or Conv2d layer of this "
            f"network: it has {sorted(actual)}"
        )
    return flops({**actual, **(counts or {})}, layer_positions(model, input_shape))


def dense_flops(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Inference operations for one example if no weight were zero."""
    return count_flops(model, input_shape, dense_counts(model))


class TrainingCost:
    """Operations of training steps of one network; after construction, arithmetic only."""

    def __init__(self, model: nn.Module, input_shape: Sequence[int]) -> None:
        self.positions = layer_positions(model, input_shape)
        self.dense_layers = self.layers(dense_counts(model))
        self.dense_flops = sum(self.dense_layers.values())

    def layers(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Operations of one forward pass of one example, by the name of the layer's weight."""
        return {name: flops({name: count}, self.positions) for name, count in counts.items()}

    def forward(self, counts: Mapping[str, int]) -> int:
        """Operations of one forward pass of one example."""
        return flops(counts, self.positions)

    def step(
        self,
        counts: Mapping[str, int],
        batch_size: int,
        passes: int = 1,
        *,
        dense_gradient: bool = False,
    ) -> int:
        """Operations of one step on a batch, with `counts` kept weights per parameter name.

        Each pass costs f_S forward, f_S for the gradient of its inputs, and for that of its
        weights f_S, or f_D on steps that need the gradient of the weights that are not kept (Evci
        et al. 2020, appendix H: 2 f_S + f_D). `passes` is 1 for a natural loss, 3 with interval
        bounds, which carry a centre and a radius. Raises KeyError for a weight it does not know.
        """
        sparse = self.forward(counts)
        weight_gradient = self.dense_flops if dense_gradient else sparse
        return batch_size * passes * (2 * sparse + weight_gradient)


def num_active_parameters(model: nn.Module) -> int:
    """Non-zero weights of Linear and Conv2d layers, and every other parameter.

    Of GraftedReLUs, the slopes and biases of units that are lines.
    """
    weights = prunable_weights(model)
    others = sum(p.numel() for name, p in model.named_parameters() if name not in weights)
    idle = sum(2 * int(relu.keep().sum()) for relu in grafted_relus(model).values())
    return sum(nonzero_counts(model).values()) + others - idle


def num_grafted_units(model: nn.Module) -> int:
    """ReLUs that are replaced by learned lines."""
    return sum(relu.num_grafted for relu in grafted_relus(model).values())


def density(model: nn.Module) -> float:
    """Share of the weights of Linear and Conv2d layers that are not zero."""
    total = sum(dense_counts(model).values())
    if total == 0:
        raise ModelError("the network has no Linear or Conv2d layer, so density has no meaning")
    return sum(nonzero_counts(model).values()) / total


def _zeros(model: nn.Module, batch_size: int, input_shape: Sequence[int]) -> Tensor:
    first = next(model.parameters(), torch.zeros(()))
    return torch.zeros(batch_size, *input_shape, dtype=first.dtype, device=first.device)
