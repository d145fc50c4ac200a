"""Networks: shapes and layers as configured, initial weights as published, traceable throughout."""

import math
import sys

import pytest
import torch
from torch import fx, nn

from spaces.model import Cnn7Config, CnnConfig, MlpConfig, PythonModelConfig, ResNetConfig
from trainers.device import generator
from trainers.errors import ModelError
from trainers.models import Normalize, Residual, build_model, initialize, prunable_weights
from trainers.models.cnn7 import cnn7_layers
from trainers.models.layers import stack

CONFIGS = [
    MlpConfig(),
    MlpConfig(batch_norm=True),
    CnnConfig(),
    CnnConfig(batch_norm=True, hidden=()),
    Cnn7Config(width=4, hidden=16),
    Cnn7Config(width=4, hidden=16, batch_norm=False),
    ResNetConfig(width=4, blocks=(1, 2)),
    ResNetConfig(width=4, batch_norm=False),
]


def build(config, input_shape=(3, 8, 8), num_classes=5, **changes):
    channels = input_shape[0]
    return build_model(
        config,
        input_shape,
        num_classes,
        torch.full((channels,), 0.5),
        torch.ones(channels),
        **changes,
    )


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in prunable_weights(model).items()}


class Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, Normalize) or super().is_leaf_module(module, name)


@pytest.mark.parametrize("config", CONFIGS)
class TestEveryFamily:
    @pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28)])
    def test_gives_logits(self, config, input_shape):
        model = build(config, input_shape)
        assert model(torch.rand(4, *input_shape)).shape == (4, 5)

    def test_starts_with_normalisation(self, config):
        assert isinstance(next(build(config).children()), Normalize)

    def test_can_be_traced_and_uses_every_relu_once(self, config):
        model = build(config).eval()
        graph = Tracer().trace(model)
        called = [node.target for node in graph.nodes if node.op == "call_module"]
        relus = [name for name, m in model.named_modules() if isinstance(m, nn.ReLU)]
        assert sorted(t for t in called if t in relus) == sorted(relus)
        assert not any(model.get_submodule(name).inplace for name in relus)
        functions = [n.target.__name__ for n in graph.nodes if n.op == "call_function"]
        assert set(functions) <= {"add"}
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(fx.GraphModule(model, graph)(x), model(x))

    def test_the_seed_fixes_it_and_the_global_generator_is_left_alone(self, config):
        before = torch.get_rng_state()
        one, two = (build(config).state_dict() for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(one[name], two[name]) for name in one)
        other = prunable_weights(build(config, seed=1))
        assert not any(torch.equal(one[name], other[name]) for name in other)

    def test_has_no_idle_bias_before_batch_normalisation(self, config):
        modules = list(build(config).modules())
        for module, following in zip(modules, modules[1:], strict=False):
            if isinstance(following, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.bias is None


class TestNormalize:
    def test_images_by_channel(self):
        layer = Normalize([0.5, 0.0], [0.5, 2.0], (2, 3, 3))
        x = torch.ones(4, 2, 3, 3)
        assert layer(x)[0, :, 1, 2].tolist() == [1.0, 0.5]

    def test_features_one_by_one(self):
        layer = Normalize(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 2.0]), (2,))
        assert layer(torch.ones(3, 2)).tolist() == [[1.0, 0.5]] * 3

    def test_is_saved_with_the_network_and_not_trained(self):
        model = build(MlpConfig(), (2,))
        assert "normalize.mean" in model.state_dict()
        assert not any(name.startswith("normalize") for name, _ in model.named_parameters())


def test_residual_adds_its_branches():
    layer = Residual(nn.Linear(2, 2), nn.Identity())
    x = torch.rand(3, 2)
    assert torch.equal(layer(x), layer.body(x) + x)


class TestShapes:
    def test_mlp(self):
        model = build(MlpConfig(widths=(6, 4)), (30,))
        assert shapes(model) == {"fc1.weight": (6, 30), "fc2.weight": (4, 6), "out.weight": (5, 4)}

    def test_cnn(self):
        assert shapes(build(CnnConfig(channels=(2, 6), hidden=(7,)), (1, 28, 28))) == {
            "conv1.weight": (2, 1, 4, 4),
            "conv2.weight": (6, 2, 4, 4),
            "fc1.weight": (7, 6 * 7 * 7),
            "out.weight": (5, 7),
        }

    def test_cnn_stops_at_one_pixel(self):
        assert build(CnnConfig(channels=(2, 2, 2)), (1, 8, 8))(torch.rand(2, 1, 8, 8)).shape
        with pytest.raises(
            ModelError, match="conv4 would turn 1 x 1.*8 x 8 has room for 3 of the 4"
        ):
            build(CnnConfig(channels=(2, 2, 2, 2)), (1, 8, 8))

    def test_cnn7(self):
        assert shapes(build(Cnn7Config(width=4, hidden=9), (3, 32, 32))) == {
            "conv1.weight": (4, 3, 3, 3),
            "conv2.weight": (4, 4, 3, 3),
            "conv3.weight": (8, 4, 3, 3),
            "conv4.weight": (8, 8, 3, 3),
            "conv5.weight": (8, 8, 3, 3),
            "fc1.weight": (9, 8 * 16 * 16),
            "out.weight": (5, 9),
        }

    def test_cnn7_as_published_by_hand(self):
        """Shi et al. 2021 on 3 x 32 x 32: about 17.2 million parameters."""
        with torch.device("meta"):
            layers = stack(cnn7_layers(Cnn7Config(), (3, 32, 32), 10))
        convolutions = 9 * (3 * 64 + 64 * 64 + 64 * 128 + 2 * 128 * 128)
        linear = 128 * 16 * 16 * 512 + (512 * 10 + 10)
        batch_norm = 2 * (2 * 64 + 3 * 128 + 512)
        found = sum(p.numel() for p in layers.parameters())
        assert found == convolutions + linear + batch_norm == 17_191_626

    def test_resnet(self):
        assert shapes(build(ResNetConfig(width=4, blocks=(1, 2)), (3, 32, 32))) == {
            "stem.weight": (4, 3, 3, 3),
            "stage1_block1.body.conv1.weight": (4, 4, 3, 3),
            "stage1_block1.body.conv2.weight": (4, 4, 3, 3),
            "stage1_block1.shortcut.conv.weight": (4, 4, 1, 1),
            "stage2_block1.body.conv1.weight": (8, 4, 3, 3),
            "stage2_block1.body.conv2.weight": (8, 8, 3, 3),
            "stage2_block1.shortcut.conv.weight": (8, 4, 1, 1),
            "stage2_block2.body.conv1.weight": (8, 8, 3, 3),
            "stage2_block2.body.conv2.weight": (8, 8, 3, 3),
            "out.weight": (5, 8),
        }

    @pytest.mark.parametrize(
        ("config", "name", "units"),
        [
            (MlpConfig(widths=(6, 5), width_factor=0.5), "fc2.weight", 2),
            (MlpConfig(widths=(6, 5), width_factor=0.01), "fc2.weight", 1),
            (CnnConfig(hidden=(10,), width_factor=1.5), "conv1.weight", 24),
            (CnnConfig(hidden=(10,), width_factor=1.5), "fc1.weight", 15),
            (Cnn7Config(width=4, hidden=8, width_factor=2), "conv3.weight", 16),
            (Cnn7Config(width=4, hidden=8, width_factor=2), "fc1.weight", 16),
            (ResNetConfig(width=4, width_factor=0.5), "stage2_block1.body.conv1.weight", 4),
        ],
    )
    def test_width_factor_scales_hidden_widths_and_not_the_output(self, config, name, units):
        found = shapes(build(config))
        assert found[name][0] == units
        assert found["out.weight"][0] == 5

    @pytest.mark.parametrize("config", [CnnConfig(), Cnn7Config(), ResNetConfig()])
    def test_features_are_no_images(self, config):
        with pytest.raises(ModelError, match=rf"{config.family} needs images.*\(30,\).*use mlp"):
            build(config, (30,))


class TestInitialization:
    def test_ibp_spread_is_sqrt_two_pi_over_fan_in(self):
        model = build(CnnConfig(channels=(32,), hidden=(300,)), (3, 8, 8))
        initialize(model, CnnConfig(), generator(0, "weights"))
        for weight in prunable_weights(model).values():
            fan_in = weight[0].numel()
            assert float(weight.detach().std()) * fan_in == pytest.approx(
                math.sqrt(2 * math.pi), rel=0.1
            )
            assert abs(float(weight.detach().mean())) < float(weight.detach().std()) / 5
        assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))

    def test_kaiming_spread_is_sqrt_two_over_fan_in(self):
        config = MlpConfig(widths=(400,), initialization="kaiming")
        model = build(config, (200,))
        initialize(model, config, generator(0, "weights"))
        assert float(model.fc1.weight.detach().std()) == pytest.approx(math.sqrt(2 / 200), rel=0.02)

    def test_masks_set_the_fan_in_of_each_unit_and_nothing_else(self):
        config = MlpConfig(widths=(3,))
        mask = torch.zeros(3, 8, dtype=torch.bool)
        mask[0], mask[1, :2] = True, True  # 8, 2 and none of the inputs are kept
        dense, masked = build(config, (8,)), build(config, (8,))
        initialize(dense, config, generator(0, "weights"))
        initialize(masked, config, generator(0, "weights"), {"fc1.weight": mask})
        torch.testing.assert_close(masked.fc1.weight[0], dense.fc1.weight[0])
        torch.testing.assert_close(masked.fc1.weight[1], dense.fc1.weight[1] * 4)
        torch.testing.assert_close(masked.fc1.weight[2], dense.fc1.weight[2] * 8)
        assert torch.equal(masked.out.weight, dense.out.weight)

    def test_kaiming_with_masks(self):
        config = MlpConfig(widths=(1,), initialization="kaiming")
        mask = torch.tensor([[True, True, False, False, False, False, False, False]])
        dense, masked = build(config, (8,)), build(config, (8,))
        initialize(dense, config, generator(0, "weights"))
        initialize(masked, config, generator(0, "weights"), {"fc1.weight": mask})
        torch.testing.assert_close(masked.fc1.weight, dense.fc1.weight * 2)

    @pytest.mark.parametrize("config", CONFIGS)
    def test_only_the_generator_decides(self, config):
        one, two = build(config, seed=1), build(config, seed=2)
        before = torch.get_rng_state()
        for model in (one, two):
            model.train()(
                torch.rand(4, 3, 8, 8, generator=generator(0, "x"))
            )  # moves BN statistics
            initialize(model, config, generator(3, "weights"))
        assert torch.equal(torch.get_rng_state(), before)
        values = zip(one.state_dict().items(), two.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for (_, a), b in values)
        for name, value in one.state_dict().items():
            if name.endswith("running_mean"):
                assert not value.any()

    def test_interval_widths_neither_vanish_nor_explode(self):
        """What the ibp rule is for: ten layers keep the mean width of the bounds within 3x."""
        config = MlpConfig(widths=(200,) * 10)
        model = build(config, (200,))
        initialize(model, config, generator(0, "weights"))
        centre, radius = torch.zeros(1, 200), torch.full((1, 200), 0.1)
        for name, layer in model.named_children():
            if name.startswith("fc") and isinstance(layer, nn.Linear):
                centre, radius = centre @ layer.weight.T, radius @ layer.weight.T.abs()
                lower, upper = (centre - radius).relu(), (centre + radius).relu()
                centre, radius = (lower + upper) / 2, (upper - lower) / 2
        assert 0.1 / 3 < float(radius.mean().detach()) < 0.1 * 3


class TestPrunableWeights:
    def test_linear_and_convolution_weights_in_order(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
        found = prunable_weights(model)
        assert list(found) == ["0.weight", "3.weight"]
        assert found["3.weight"] is model[3].weight

    def test_a_shared_weight_is_one(self):
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.weight = first.weight
        assert list(prunable_weights(nn.Sequential(first, second))) == ["0.weight"]

    def test_a_computed_weight_is_refused(self):
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
        with pytest.raises(ModelError, match="layer '0' is not a plain parameter"):
            prunable_weights(model)


MODULE = """
import torch
from torch import nn
def good(input_shape, num_classes, hidden=4):
    first, last = nn.Linear(192, hidden), nn.Linear(hidden, num_classes)
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(hidden), last)
def no_module(input_shape, num_classes): return "network"
def broken(input_shape, num_classes): raise RuntimeError("no luck")
def unfit(input_shape, num_classes): return nn.Linear(7, num_classes)
def wrong(input_shape, num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(192, 9))
class Pair(nn.Module):
    def forward(self, x): return x, x
def pair(input_shape, num_classes): return Pair()
"""


class TestPython:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "persons_model.py").write_text(MODULE)
        monkeypatch.syspath_prepend(tmp_path)
        yield
        sys.modules.pop("persons_model", None)

    def test_is_wrapped_and_its_own_weights_are_kept(self):
        config = PythonModelConfig(python="persons_model:good", arguments={"hidden": 6})
        model = build(config)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        initialize(model, config, generator(0, "weights"))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert shapes(model) == {"network.1.weight": (6, 192), "network.3.weight": (5, 6)}
        assert model.training and int(model.state_dict()["network.2.num_batches_tracked"]) == 0

    def test_can_be_initialised_like_the_others(self):
        config = PythonModelConfig(python="persons_model:good", initialization="ibp")
        model = build(config)
        initialize(model, config, generator(0, "weights"))
        assert not model.network[1].bias.any()

    @pytest.mark.parametrize(
        ("function", "arguments", "message"),
        [
            ("absent", {}, "no 'absent'"),
            ("no_module", {}, "returned a str: it must return a torch.nn.Module"),
            ("broken", {}, "failed with RuntimeError: no luck"),
            ("good", {"depth": 3}, "failed with TypeError: .*depth"),
            ("unfit", {}, r"failed on inputs of shape \(2, 3, 8, 8\) with RuntimeError"),
            ("wrong", {}, r"into \(2, 9\): it must give logits of shape \(2, 5\)"),
            ("pair", {}, "into tuple: it must give logits"),
        ],
    )
    def test_errors_name_what_failed(self, function, arguments, message):
        config = PythonModelConfig(python=f"persons_model:{function}", arguments=arguments)
        with pytest.raises(ModelError, match=message):
            build(config)
