"""Operations and parameters, against counts made by hand."""

import pytest
import torch
from torch import nn

from spaces.model import CnnConfig, MlpConfig, ResNetConfig
from trainers import cost
from trainers.cost import TrainingCost
from trainers.errors import ModelError
from trainers.models import build_model, prunable_weights


def small_cnn() -> nn.Sequential:
    """A 6x6 input: conv to 4 channels of 3x3, then 36 -> 5."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 5),
    )


def test_a_linear_layer_by_hand():
    model = nn.Linear(3, 2)
    assert cost.count_flops(model, (3,)) == 2 * 6
    with torch.no_grad():
        model.weight[0, 1] = 0.0
    assert cost.count_flops(model, (3,)) == 2 * 5
    assert cost.dense_flops(model, (3,)) == 2 * 6
    assert cost.num_active_parameters(model) == 5 + 2
    assert cost.density(model) == 5 / 6


def test_a_convolution_counts_each_weight_once_per_output_position():
    model = small_cnn()
    assert cost.layer_positions(model, (2, 6, 6)) == {"0.weight": 9, "4.weight": 1}
    assert cost.dense_flops(model, (2, 6, 6)) == 2 * (72 * 9 + 180)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[1, 0, 2, 2] = 1.0
    assert cost.count_flops(model, (2, 6, 6)) == 2 * (1 * 9 + 180)
    # One weight, 4 + 5 biases, 8 of batch normalisation, 180 of the last layer.
    assert cost.num_active_parameters(model) == 1 + 9 + 8 + 180


def test_given_counts_replace_the_real_ones():
    model = small_cnn()
    assert cost.count_flops(model, (2, 6, 6), {"0.weight": 10}) == 2 * (10 * 9 + 180)
    with pytest.raises(ModelError, match="'0.bias', which is no weight"):
        cost.count_flops(model, (2, 6, 6), {"0.bias": 10})


def test_a_layer_used_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x))

    assert cost.count_flops(Twice(), (4,)) == 2 * 2 * 16


def test_groups_and_sequences():
    grouped = nn.Conv2d(4, 8, 3, groups=2)
    assert cost.count_flops(grouped, (4, 5, 5)) == 2 * (8 * 2 * 9) * 9
    assert cost.layer_positions(nn.Linear(3, 2), (7, 3)) == {"weight": 7}


@pytest.mark.parametrize("config", [MlpConfig(), CnnConfig(), ResNetConfig()])
def test_counting_leaves_the_network_as_it_was(config):
    model = build_model(config, (1, 8, 8), 10, [0.0], [1.0]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert cost.count_flops(model, (1, 8, 8)) == cost.dense_flops(model, (1, 8, 8)) > 0
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_modules_in_evaluation_mode_stay_so():
    model = small_cnn().train()
    model[1].eval()
    cost.layer_positions(model, (2, 6, 6))
    assert [m.training for m in model] == [True, False, True, True, True]


def test_training_steps_by_hand():
    """RigL, appendix H: 3 f_S, and 2 f_S + f_D on steps that need the dense gradient."""
    steps = TrainingCost(small_cnn(), (2, 6, 6))
    counts = {"0.weight": 7, "4.weight": 18}
    sparse, dense = 2 * (7 * 9 + 18), 2 * (72 * 9 + 180)
    assert steps.dense_flops == dense
    assert steps.step(counts, 1) == 3 * sparse
    assert steps.step(counts, 1, dense_gradient=True) == 2 * sparse + dense
    assert steps.step(counts, 32, passes=3) == 32 * 3 * 3 * sparse
    assert steps.step(counts, 32, 3, dense_gradient=True) == 32 * 3 * (2 * sparse + dense)
    full = {"0.weight": 72, "4.weight": 180}
    assert steps.step(full, 1) == steps.step(full, 1, dense_gradient=True) == 3 * dense


def test_density_needs_a_layer():
    with pytest.raises(ModelError, match="no Linear or Conv2d"):
        cost.density(nn.ReLU())


def test_counts_name_prunable_weights():
    model = small_cnn()
    assert list(cost.nonzero_counts(model)) == list(prunable_weights(model))
    assert cost.dense_counts(model) == {"0.weight": 72, "4.weight": 180}
