"""A network as it ships: by hand, then on every family, to ONNX and back."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from spaces.model import Cnn7Config, CnnConfig, MlpConfig, ResNetConfig
from trainers.bounds.program import Program
from trainers.errors import UnsupportedLayer
from trainers.lowering import simplify
from trainers.lowering.onnx_writer import onnx_model
from trainers.lowering.simplify import STEPS, StoredAffine
from trainers.models import Residual, build_model, prunable_weights
from trainers.models.layers import Normalize
from trainers.verify import verify


def linear(rows, bias=None) -> nn.Linear:
    weight = torch.tensor(rows, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = torch.tensor(bias, dtype=torch.float32)
    return layer


def kinds(program: Program) -> list[str]:
    return [type(step.op).__name__ for step in program.steps]


def norm(layer, mean, var, weight, bias):
    """Batch normalisation without eps, so that results are round."""
    layer.eps = 0.0
    for name, values in (("running_mean", mean), ("running_var", var)):
        setattr(layer, name, torch.tensor(values, dtype=torch.float32))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def outputs(program: Program, input_shape) -> torch.Tensor:
    x = torch.rand(5, *input_shape, generator=torch.Generator().manual_seed(1))
    return program(x)


class TestByHand:
    def test_normalisation_becomes_part_of_the_first_layer(self):
        model = nn.Sequential(Normalize([0.5], [2.0], (2,)), linear([[3, 1]], [1]))
        program = simplify(model, (2,))
        assert kinds(program) == ["Linear"]
        layer = program.steps[0].op
        assert layer.weight.tolist() == [[1.5, 0.5]]  # 3 (x - 0.5) / 2 + (y - 0.5) / 2 + 1
        assert layer.bias.tolist() == [0.0]

    def test_through_a_flatten_too(self):
        model = nn.Sequential(
            Normalize([0.0, 1.0], [1.0, 4.0], (2, 1, 2)), nn.Flatten(), linear([[1, 2, 4, 8]], [0])
        )
        program = simplify(model, (2, 1, 2))
        assert kinds(program) == ["Flatten", "Linear"]
        assert program.steps[1].op.weight.tolist() == [[1, 2, 1, 2]]
        assert program.steps[1].op.bias.tolist() == [-3.0]

    def test_never_through_zero_padding_which_is_not_shifted(self):
        normalize = Normalize([0.5], [0.5], (1, 4, 4))
        padded = nn.Sequential(normalize, nn.Conv2d(1, 2, 3, padding=1), nn.Flatten())
        inside = nn.Sequential(normalize, nn.Conv2d(1, 2, 3), nn.Flatten())
        assert kinds(simplify(padded, (1, 4, 4))) == ["StoredAffine", "Conv2d", "Flatten"]
        assert kinds(simplify(inside, (1, 4, 4))) == ["Conv2d", "Flatten"]

    def test_a_scale_without_shift_may_pass_padding(self):
        model = nn.Sequential(Normalize([0.0], [0.5], (1, 4, 4)), nn.Conv2d(1, 2, 3, padding=1))
        assert kinds(simplify(nn.Sequential(model, nn.Flatten()), (1, 4, 4)))[0] == "Conv2d"

    def test_batch_normalisation_becomes_part_of_the_layer_before_it(self):
        model = nn.Sequential(
            linear([[1, 0], [0, 1]]),
            norm(nn.BatchNorm1d(2), [1, 0], [4, 1], [6.0, 1.0], [5.0, -1.0]),
            nn.ReLU(),
            linear([[1, 1], [1, -1]], [0, 0]),
        )
        program = simplify(model, (2,))
        assert kinds(program) == ["Linear", "ReLU", "Linear"]
        assert program.steps[0].op.weight.tolist() == [[3, 0], [0, 1]]  # 6 (x - 1) / 2 + 5
        assert program.steps[0].op.bias.tolist() == [2, -1]

    def test_batch_normalisation_of_a_sum_stays_a_step(self):
        body = Residual(linear([[1, 2], [3, 4]], [0, 0]), nn.Identity())
        model = nn.Sequential(body, norm(nn.BatchNorm1d(2), [1, 0], [1, 1], [2.0, 1.0], [0.0, 0.0]))
        program = simplify(nn.Sequential(model, nn.ReLU(), linear([[1, 1]], [0])), (2,))
        assert kinds(program) == ["Linear", "Add", "StoredAffine", "ReLU", "Linear"]

    def test_what_two_steps_read_stays_as_it_is(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = linear([[1, 2]], [0]), linear([[3, 4]], [0])

            def forward(self, x):
                x = (x - 0.5) / 0.5
                return self.first(x) + self.second(x)

        program = simplify(Twice(), (2,))
        assert kinds(program) == ["StoredAffine", "Linear", "Linear", "Add"]

    def test_a_layer_that_is_used_twice_keeps_its_weights(self):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = linear([[1, 2], [3, 4]], [1, 1])

            def forward(self, x):
                return self.layer(self.layer(x - 1.0).relu())

        program = simplify(Shared(), (2,))
        assert kinds(program) == ["StoredAffine", "Linear", "ReLU", "Linear"]
        assert program.steps[1].op is program.steps[3].op

    def test_dropout_and_identities_go(self):
        model = nn.Sequential(nn.Identity(), linear([[1, 2]], [0]), nn.Dropout(0.5), nn.Identity())
        assert kinds(simplify(model, (2,))) == ["Linear"]

    def test_dead_units_go_unless_all_are_to_stay(self):
        model = nn.Sequential(linear([[1], [2]], [0, 0]), nn.ReLU(), linear([[1, 0]], [0]))
        assert simplify(model, (1,)).steps[0].op.out_features == 1
        assert simplify(model, (1,), compacted=False).steps[0].op.out_features == 2

    def test_the_network_itself_is_left_alone(self):
        model = nn.Sequential(Normalize([0.5], [2.0], (2,)), linear([[3, 1]], [1])).train()
        before = copy.deepcopy(model.state_dict())
        simplify(model, (2,))
        assert model.training
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


FAMILIES = [
    (MlpConfig(widths=(12, 8), batch_norm=True), (1, 6, 6)),
    (CnnConfig(channels=(4, 6), hidden=(12,), batch_norm=True), (2, 9, 9)),
    (CnnConfig(channels=(4, 6), hidden=(12,)), (2, 9, 9)),
    (Cnn7Config(width=3, hidden=10), (1, 8, 8)),
    (ResNetConfig(width=3, blocks=(1, 1)), (3, 8, 8)),
]
ON_EVERY_FAMILY = pytest.mark.parametrize(
    ("config", "input_shape"), FAMILIES, ids=lambda value: getattr(value, "family", "")
)


def pruned(config, input_shape, density: float, seed: int) -> nn.Module:
    """A network of a family with random masks, biases and statistics."""
    draw = torch.Generator().manual_seed(seed)
    channels = input_shape[0]
    mean, std = (0.2 + 0.5 * torch.rand(channels, generator=draw) for _ in range(2))
    model = build_model(config, input_shape, 5, mean, std, seed).eval()
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight.mul_(torch.rand(weight.shape, generator=draw) < density)
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
                layer.bias.uniform_(-0.1, 0.3, generator=draw)
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (layer.weight, layer.bias, layer.running_mean):
                    tensor.data.uniform_(-1.0, 1.0, generator=draw)
                layer.running_var.uniform_(0.5, 2.0, generator=draw)
    return model


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
@ON_EVERY_FAMILY
def test_outputs_stay_on_random_masks_of_every_family(config, input_shape, density: float):
    for seed in range(3):
        model = pruned(config, input_shape, density, seed)
        program = simplify(model, input_shape)
        assert all(isinstance(step.op, STEPS) for step in program.steps)
        assert not any(isinstance(step.op, StoredAffine) for step in program.steps[1:]) or (
            config.family == "resnet"
        )
        x = torch.rand(6, *input_shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected, found = model(x), program(x)
        scale = max(1.0, float(expected.abs().max()))
        assert torch.allclose(found, expected, rtol=0.0, atol=1e-5 * scale)


@ON_EVERY_FAMILY
def test_verdicts_stay_on_every_family(config, input_shape):
    model = pruned(config, input_shape, 0.3, seed=0)
    program = simplify(model, input_shape)
    x = torch.rand(12, *input_shape, generator=torch.Generator().manual_seed(2))
    y = model(x).argmax(1)
    for radius in (0.001, 0.03):
        before, after = (
            verify(m, x, y, radius, methods=("ibp", "crown-ibp", "crown"), attack_steps=5)
            for m in (model, program)
        )
        assert before.verdicts == after.verdicts
        assert before.method == after.method


@ON_EVERY_FAMILY
def test_onnx_gives_the_same_outputs_for_any_batch_and_the_same_bytes(config, input_shape):
    model = pruned(config, input_shape, 0.1, seed=1)
    content = onnx_model(simplify(model, input_shape), input_shape).SerializeToString()
    assert content == onnx_model(simplify(model, input_shape), input_shape).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = torch.rand(batch, *input_shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = model(x).numpy()
        (found,) = session.run(["logits"], {"x": x.numpy()})
        assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_onnx_keeps_strides_padding_dilation_groups_and_pooling():
    model = nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.AvgPool2d((2, 3), stride=2, padding=1, count_include_pad=False),
        nn.Conv2d(4, 3, 3, padding="same"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    x = torch.rand(3, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    content = onnx_model(simplify(model, (2, 9, 11)), (2, 9, 11)).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"x": x.numpy()})
    assert np.abs(found - model(x).detach().numpy()).max() <= 1e-5


def test_a_pooling_that_onnx_does_not_have_is_named():
    model = nn.Sequential(nn.AvgPool2d(2, divisor_override=3), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UnsupportedLayer, match="divisor_override=3 has no ONNX node"):
        onnx_model(simplify(model, (1, 4, 4)), (1, 4, 4))


def test_a_pool_that_onnx_gives_another_shape_is_refused() -> None:
    pool = nn.AvgPool2d(2, 2, 1, ceil_mode=True)  # the fourth window would begin behind the end
    network = nn.Sequential(nn.Conv2d(1, 2, 1), pool, nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(UnsupportedLayer, match="in a pool with ceil_mode the last window"):
        onnx_model(simplify(network, (1, 5, 5)), (1, 5, 5))
