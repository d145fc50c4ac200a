"""The dense network that a sparse one was cut from: an answer of its own, and a teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseTwin:
    """A copy of a network as it was before weights were cut; it is evaluated, never trained."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        if weights is not None:
            self.model.load_state_dict(dict(weights))

    @property
    def weights(self) -> dict[str, Tensor]:
        """Its state_dict."""
        return self.model.state_dict()

    def distance(self, logits_BK: Tensor, x_BCHW: Tensor) -> Tensor:
        """KL(twin || logits), mean over the batch (Hinton et al. 2015, at temperature 1)."""
        with torch.no_grad():
            target_BK = F.log_softmax(self.model(x_BCHW), 1)
        log_probabilities_BK = F.log_softmax(logits_BK, 1)
        return F.kl_div(log_probabilities_BK, target_BK, reduction="batchmean", log_target=True)
