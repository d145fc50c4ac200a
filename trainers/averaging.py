"""Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.models.modes import evaluating


class WeightAverage:
    """The mean of a network's parameters over epochs.

    Epochs count once more than `after` have been run. A weight that is 0, pruned, in some of them
    has the mean of the others: what a topology method drops and grows again does not shrink.
    """

    def __init__(self, model: nn.Module, after: float) -> None:
        self.model, self.after = model, after
        self.means: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    @property
    def started(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.means)

    @torch.no_grad()
    def observe(self, epoch: int) -> None:
        """Take in the parameters as they are after `epoch` epochs."""
        if epoch <= self.after:
            return
        for name, parameter in self.model.named_parameters():
            mean = self.means.setdefault(name, torch.zeros_like(parameter))
            count = self.counts.setdefault(name, torch.zeros_like(parameter))
            kept = parameter != 0.0
            count += kept
            mean += torch.where(kept, (parameter - mean) / count, 0.0)

    @torch.no_grad()
    def write(self) -> None:
        """Make the means the network's parameters."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.means[name])

    def state_dict(self) -> dict[str, Any]:
        """Means, and of how many epochs."""
        return {"means": dict(self.means), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.means, self.counts = (
            {
                name: value.to(self.model.get_parameter(name).device, copy=True)
                for name, value in state[kind].items()
            }
            for kind in ("means", "counts")
        )


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give batch normalisation the mean statistics of `batches`, each of which counts alike.

    They are those of the network as it is: other layers are in evaluation mode. Returns how many
    examples took a forward pass: none without batch normalisation.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.track_running_stats
    ]
    if not norms:
        return 0
    momenta, num_examples = [norm.momentum for norm in norms], 0
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the mean over all batches
        for x_BCHW in batches:
            model(x_BCHW)
            num_examples += len(x_BCHW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return num_examples
