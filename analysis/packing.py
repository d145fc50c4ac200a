"""The tensors of a ticket as its file holds them: kept values only, masks as eight to the byte."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from analysis.errors import TicketError
from analysis.manifest import LayerCount

Tensors = Mapping[str, Tensor]


def pack(
    weights: Tensors, masks: Tensors, initial_weights: Tensors, dense_twin: Tensors
) -> dict[str, Tensor]:
    """The tensors of a file, sorted by name: `<group>/<name>` for groups called as the arguments.

    Masked weights are the values that are kept, in order. TicketError when a weight is not zero
    where its mask is.
    """
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        mask = masks.get(name)
        if mask is None:
            packed[f"weights/{name}"] = weight.contiguous()
            continue
        if torch.count_nonzero(weight[~mask]):
            raise TicketError(
                f"{name} has {int(torch.count_nonzero(weight[~mask]))} weights that are not zero "
                "where its mask is: set them to zero before saving the ticket"
            )
        packed[f"weights/{name}"] = weight[mask]
        packed[f"masks/{name}"] = torch.from_numpy(np.packbits(mask.numpy()))
    for group, tensors in (("initial_weights", initial_weights), ("dense_twin", dense_twin)):
        for name, weight in tensors.items():
            packed[f"{group}/{name}"] = weight.contiguous()
    # A copy of each: safetensors refuses tensors that share memory.
    return {name: packed[name].clone() for name in sorted(packed)}


def unpack(tensors: Tensors, layers: Mapping[str, LayerCount]) -> tuple[dict[str, Tensor], ...]:
    """Weights, masks, initial weights, and the dense twin's weights.

    KeyError or ValueError when the tensors are not those of a ticket with these layers.
    """
    groups: dict[str, dict[str, Tensor]] = {
        name: {} for name in ("weights", "masks", "initial_weights", "dense_twin")
    }
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        if group not in groups:
            raise ValueError(f"tensor {key} is unknown")
        groups[group][name] = tensor
    weights, initial = groups["weights"], groups["initial_weights"]
    if set(groups["masks"]) != set(layers):
        raise ValueError(f"masks are of {sorted(groups['masks'])}, layers are {sorted(layers)}")
    masks = {name: _unpack_mask(name, groups["masks"][name], layers[name]) for name in layers}
    for name, mask in masks.items():
        values = weights[name]
        if values.ndim != 1 or len(values) != int(mask.sum()):
            raise ValueError(f"{name} has {values.numel()} values for {int(mask.sum())} places")
        dense = torch.zeros(mask.shape, dtype=values.dtype)
        dense[mask] = values
        weights[name] = dense
    return weights, masks, initial, groups["dense_twin"]


def _unpack_mask(name: str, packed: Tensor, layer: LayerCount) -> Tensor:
    size = math.prod(layer.shape)
    if min(layer.shape, default=0) < 0:
        raise ValueError(f"the shape of {name} is {layer.shape}")
    if packed.dtype != torch.uint8 or packed.shape != (-(-size // 8),):
        raise ValueError(
            f"the mask of {name} has {packed.numel()} bytes, but shape {layer.shape} needs "
            f"{-(-size // 8)}"
        )
    bits = np.unpackbits(packed.numpy(), count=size).astype(bool)
    return torch.from_numpy(bits).reshape(layer.shape)
