"""From a trained network to one for other data: a new last layer when there are other classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spaces.trial import TrialConfig
from trainers.data import Data
from trainers.device import generator
from trainers.errors import ModelError
from trainers.models import Normalize, build_model, initialize
from trainers.models.weights import prunable_layers

Tensors = dict[str, Tensor]


def transferred(
    config: TrialConfig, data: Data, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[Tensors, Tensors]:
    """Weights (a state_dict) and masks for `data`, from those of the same network on other data.

    The normalisation is that of `data`. With as many classes as before everything else is kept;
    with another number the last layer is new: drawn from `config.seed` as a fresh network's is,
    under the mask of `head_mask`, and all that is before it is kept. Raises ModelError when the
    weights are not the network's, or more than its last layer depends on the number of classes.
    """
    model = build_model(
        config.model,
        data.input_shape,
        data.num_classes,
        data.mean,
        data.std,
        config.seed,
        config.grafting,
    )
    kept = {**weights, **_normalization(model)}
    changed = _changed(model.state_dict(), weights)
    if not changed:
        return kept, dict(masks)
    head = _head(model, changed)
    new_masks = {**masks, head: head_mask(masks[head], data.num_classes, config.seed)}
    initialize(model, config.model, generator(config.seed, "weights"), new_masks)
    fresh = model.state_dict()
    new_weights = {**kept, **{name: fresh[name] for name in changed}}
    new_weights[head] = new_weights[head] * new_masks[head]
    return new_weights, new_masks


def head_mask(mask: Tensor, num_classes: int, seed: int) -> Tensor:
    """A last layer's mask for `num_classes` classes, from that of another number of classes.

    It keeps the same share of weights, rounded, and at least one for each class: as many for one
    class as for another, or one more, at random places. It reads no unit that `mask` does not
    read, so that units that did not matter go on not mattering.
    """
    read = mask.any(dim=0).flatten().nonzero().flatten()
    size = num_classes * mask[0].numel()
    count = max(num_classes, round(int(mask.sum()) * size / mask.numel()))
    stream = generator(seed, "head")
    new = torch.zeros(num_classes, mask[0].numel(), dtype=torch.bool)
    for row in range(num_classes):
        num_kept = count // num_classes + (row < count % num_classes)
        new[row, read[torch.randperm(len(read), generator=stream)[:num_kept]]] = True
    return new.reshape(num_classes, *mask.shape[1:])


def _normalization(model: nn.Module) -> Tensors:
    """What the first layer of every network has from the data."""
    (name, first), *_ = model.named_children()
    assert isinstance(first, Normalize)
    return {f"{name}.{key}": value for key, value in first.state_dict().items()}


def _changed(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    if wanted.keys() != weights.keys():
        other = ", ".join(sorted(wanted.keys() ^ weights.keys())[:3])
        raise ModelError(
            f"the network as configured does not have the tensors of the given weights ({other}): "
            "give the state_dict of a model with the same settings"
        )
    return {name for name, tensor in wanted.items() if tensor.shape != weights[name].shape}


def _head(model: nn.Module, changed: set[str]) -> str:
    """The name of the weight of the one layer whose rows are the logits."""
    owners: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for name, layer in prunable_layers(model).items():
        own = {name} if layer.bias is None else {name, owners[layer.bias]}
        if changed == own:
            return name
    raise ModelError(
        f"{', '.join(sorted(changed))} depend on the number of classes, which is to change: that "
        "is done when they are the weight and bias of one Linear or Conv2d layer, the last one"
    )
