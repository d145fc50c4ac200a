"""The number of layers that a model config announces is that of the network it stands for."""

import pytest
import torch

from spaces import TrialConfig
from trainers.models import build_model, prunable_weights

FAMILIES = [
    {"family": "mlp", "widths": [6]},
    {"family": "mlp", "widths": [6, 5, 4], "batch_norm": True},
    {"family": "cnn", "channels": [3, 4], "hidden": [5, 4]},
    {"family": "cnn", "channels": [3], "hidden": [], "width_factor": 0.5},
    {"family": "cnn7", "width": 2, "hidden": 4},
    {"family": "resnet", "width": 2, "blocks": [1, 1]},
    {"family": "resnet", "width": 2, "blocks": [3, 1, 2], "batch_norm": False},
    # Rounding makes all stages equally wide: shortcuts remain, because stages halve the size.
    {"family": "resnet", "width": 1, "blocks": [1, 2], "width_factor": 0.25},
]


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model["family"])
def test_the_network_has_as_many_layers_with_weights(model):
    config = TrialConfig.model_validate(
        {"data": {"name": "digits"}, "evaluation": {"radius": 0.1}, "model": model}
    ).model
    network = build_model(config, (1, 8, 8), 10, torch.zeros(1), torch.ones(1), 0)
    assert len(prunable_weights(network)) == config.num_weight_layers
