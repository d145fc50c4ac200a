"""ReLUs of which some units are lines: values, bounds, cost, and places in a network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spaces.grafting import GraftingConfig
from spaces.model import CnnConfig, MlpConfig, PythonModelConfig, ResNetConfig
from spaces.training import OptimizerConfig
from trainers import cost
from trainers.bounds import IntervalPass, ball
from trainers.bounds.lirpa import LirpaBounds
from trainers.bounds.trace import trace
from trainers.compaction import compact, effective_counts
from trainers.errors import ModelError, UnsupportedLayer
from trainers.evaluate import model_cost
from trainers.models import build_model
from trainers.models.grafted import GraftedReLU, grafted_relus
from trainers.optimizer import build_optimizer
from trainers.signals import cosines, synaptic_flow
from trainers.topology import Masks
from trainers.wiring import Wiring

HALF = GraftingConfig(fraction=0.5)
FAMILIES = {
    "mlp": (MlpConfig(widths=(9, 7)), (6,)),
    "cnn": (CnnConfig(channels=(3, 4), hidden=(5,)), (2, 8, 8)),
    "norm": (CnnConfig(channels=(3,), hidden=(5,), batch_norm=True), (2, 8, 8)),
    "resnet": (ResNetConfig(width=2, blocks=(1,)), (2, 4, 4)),
}


def set_lines(relu: GraftedReLU, grafted: object, slope: object = 0.4, bias: object = 0.0) -> None:
    with torch.no_grad():
        relu.grafted.copy_(torch.as_tensor(grafted))
        relu.slope.copy_(torch.as_tensor(slope))
        relu.bias.copy_(torch.as_tensor(bias))


def built(
    name: str, config: GraftingConfig = HALF, seed: int = 0
) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode, in float64, half of its units lines of any slope; examples."""
    family, shape = FAMILIES[name]
    model = build_model(family, shape, 3, [0.4] * shape[0], [0.3] * shape[0], seed, config).double()
    torch.manual_seed(seed)
    model(torch.rand(16, *shape, dtype=torch.float64))
    for relu in grafted_relus(model).values():
        size = relu.slope.shape
        set_lines(relu, torch.rand(size) < 0.5, torch.randn(size), torch.randn(size))
    return model.eval(), torch.rand(5, *shape, dtype=torch.float64)


Y = torch.tensor([0, 1, 2, 0, 1])


# What it computes ---------------------------------------------------------------------------------


def test_it_is_a_relu_until_units_are_grafted() -> None:
    relu = GraftedReLU((3,))
    x = torch.tensor([[-2.0, 0.5, 3.0]])
    assert relu(x).tolist() == [[0.0, 0.5, 3.0]]
    set_lines(relu, [[True, False, True]], [[0.5, 9.0, -1.0]], [[0.25, 9.0, 1.0]])
    assert relu(x).tolist() == [[-0.75, 0.5, -2.0]]
    assert relu.num_grafted == 2


def test_its_gradients_are_those_of_the_paper() -> None:
    # dX = g [(x > 0)(1 - m) + m a], da = g x m, db = g m.
    relu = GraftedReLU((4,))
    set_lines(relu, [[True, True, False, False]], 0.4)
    x = torch.tensor([[-2.0, 3.0, -1.0, 5.0]], requires_grad=True)
    relu(x).backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    assert x.grad is not None and relu.slope.grad is not None and relu.bias.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[0.4, 4.0, 0.0, 1000.0]]))
    assert relu.slope.grad.tolist() == [[-2.0, 30.0, 0.0, 0.0]]
    assert relu.bias.grad.tolist() == [[1.0, 10.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", FAMILIES)
def test_its_steps_compute_what_it_computes(name: str) -> None:
    model, x = built(name)
    torch.testing.assert_close(trace(model)(x), model(x))


# Bounds -------------------------------------------------------------------------------------------


def one_unit(grafted: bool, slope: float = 0.4, bias: float = 0.0) -> nn.Sequential:
    """Logits (h, 0), where h is the activation of x itself."""
    model = nn.Sequential(nn.Linear(1, 1), GraftedReLU((1,)), nn.Linear(1, 2)).double()
    for layer, weight in ((model[0], [[1.0]]), (model[2], [[1.0], [0.0]])):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.zero_()
    set_lines(model[1], grafted, slope, bias)
    return model


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("slope", [0.5, -2.0])
def test_bounds_of_a_line_are_its_closed_form(slope: float, method: str) -> None:
    # x in [-1, 3]: a x + b is in b + a + |a| [-2, 2]; so is the margin h - 0 of class 0.
    model = one_unit(True, slope, bias=0.25)
    x, y_B = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([0])
    if method == "ibp":
        result = IntervalPass(model).margins(x, y_B, x - 2.0, x + 2.0)
        assert result.num_unstable_B.tolist() == [0]
        margins_BK = result.margins_BK
    else:
        margins_BK = LirpaBounds(model, x).margins(x, y_B, 2.0, method, -9.0, 9.0)
    expected = 0.25 + slope - 2.0 * abs(slope)
    torch.testing.assert_close(margins_BK, torch.tensor([[0.0, expected]], dtype=torch.float64))


def test_bounds_of_a_unit_that_is_not_grafted_are_a_relus() -> None:
    x, y_B = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([0])
    model = one_unit(False)
    result = IntervalPass(model).margins(x, y_B, x - 2.0, x + 2.0)
    assert result.margins_BK.tolist() == [[0.0, 0.0]]
    assert [b.tolist() for b in result.pre_activations[0]] == [[[-1.0]], [[3.0]]]
    assert result.num_unstable_B.tolist() == [1]


def test_interval_bounds_follow_the_lines_and_can_be_differentiated_by_them() -> None:
    model = one_unit(True, slope=0.5)
    interval = IntervalPass(model)
    x = torch.tensor([[1.0]], dtype=torch.float64)

    def margin() -> torch.Tensor:
        return interval.margins(x, torch.tensor([0]), x - 2.0, x + 2.0).margins_BK[0, 1]

    for slope, by_slope in ((0.5, -1.0), (-0.5, 3.0)):  # d (b + a - 2 |a|)
        set_lines(model[1], True, slope)
        model.zero_grad()
        margin().backward()
        assert margin().item() == slope - 2.0 * abs(slope)
        assert model[1].slope.grad.item() == by_slope and model[1].bias.grad.item() == 1.0


@pytest.mark.parametrize("config", [HALF, GraftingConfig(fraction=0.5, granularity="channel")])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_sample_of_the_ball_is_below_any_bound(name: str, config: GraftingConfig) -> None:
    model, x = built(name, config)
    lower, upper = ball(x, 0.1)
    lirpa = LirpaBounds(model, x)
    bounds = {m: lirpa.margins(x, Y, 0.1, m) for m in ("crown-ibp", "crown")}
    bounds["ibp"] = IntervalPass(model).margins(x, Y, lower, upper).margins_BK
    with torch.no_grad():
        for share in [torch.zeros(()), torch.ones(()), *torch.rand(40, *x.shape).round(decimals=1)]:
            logits_BK = model(lower + share * (upper - lower))
            margins_BK = logits_BK.gather(1, Y[:, None]) - logits_BK
            for method, found_BK in bounds.items():
                assert (found_BK <= margins_BK + 1e-9).all(), method
    assert (bounds["crown"] >= bounds["ibp"] - 1e-9).float().mean() > 0.5


def test_crown_bounds_follow_lines_that_are_trained() -> None:
    model, x = built("mlp")
    lirpa = LirpaBounds(model, x)
    relu = next(iter(grafted_relus(model).values()))
    place = tuple(relu.grafted.nonzero()[0])
    lirpa.margins(x, Y, 0.1, "crown-ibp").sum().backward()
    assert relu.slope.grad is not None and bool((relu.slope.grad[~relu.grafted] == 0).all())
    change, found = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            relu.slope[place] += sign * change * (1 if sign > 0 else 2)
            found.append(lirpa.margins(x, Y, 0.1, "crown-ibp").sum())
            fresh = LirpaBounds(model, x).margins(x, Y, 0.1, "crown-ibp").sum()
        torch.testing.assert_close(found[-1], fresh)
    difference = (found[0] - found[1]) / (2 * change)
    torch.testing.assert_close(difference, relu.slope.grad[place], rtol=1e-5, atol=1e-5)


def test_lines_with_a_forward_of_their_own_have_no_bound() -> None:
    class Odd(GraftedReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).sin()

    with pytest.raises(UnsupportedLayer):
        IntervalPass(nn.Sequential(nn.Linear(2, 3), Odd((3,)), nn.Linear(3, 2)))


# Wiring, compaction, signals ----------------------------------------------------------------------


def test_weights_know_their_relu_as_before() -> None:
    for name, (family, shape) in FAMILIES.items():
        mean = [0.0] * shape[0]
        plain = Wiring.of(build_model(family, shape, 3, mean, mean))
        grafted = Wiring.of(build_model(family, shape, 3, mean, mean, grafting=HALF))
        assert (grafted.relus, grafted.gains) == (plain.relus, plain.gains), name


@pytest.mark.parametrize("name", [*FAMILIES, "one"])
def test_compaction_leaves_what_the_network_computes(name: str) -> None:
    if name == "one":  # its constants are single numbers, so that its unit can be followed
        model, x = one_unit(True, -2.0, 0.25), torch.rand(5, 1).double()
        with torch.no_grad():
            model[0].weight.zero_()
    else:
        model, x = built(name)
    for weight in (p for p in model.parameters() if p.ndim > 1 and len(p) > 1):
        weight.data[0] = 0.0
    torch.testing.assert_close(compact(model, x.shape[1:])(x), model(x))
    assert all(effective_counts(model)[n] <= c for n, c in cost.nonzero_counts(model).items())


def test_signals_see_a_grafted_relu_as_one_unit() -> None:
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model = copy.deepcopy(plain)
    model[1] = GraftedReLU((3,))
    x = torch.rand(6, 4)

    def of(network: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        weights = {f"{i}.weight": network[i].weight for i in (0, 2)}  # type: ignore[index]
        masks: Masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
        program = trace(network)
        return synaptic_flow(program, weights, (4,))(masks), cosines(program, weights, x)

    for found, expected in zip(of(model), of(plain), strict=True):
        torch.testing.assert_close(found, expected)
    set_lines(model[1], True, 1.0)  # a line through everything: the unit is its pre-activation
    with torch.no_grad():
        alike = F.cosine_similarity(x[:, 0], model[0](x)[:, 1], dim=0).abs()
    torch.testing.assert_close(of(model)[1]["0.weight"][1, 0], alike)


# Cost and optimizer -------------------------------------------------------------------------------


def test_only_lines_in_use_count_as_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), GraftedReLU((3,)), nn.Linear(3, 2))
    plain = 2 * 3 + 3 + 3 * 2 + 2
    flops = 2 * (2 * 3 + 3 * 2)
    for grafted, lines in ((False, 0), ([[True, False, True]], 2)):
        set_lines(model[1], grafted)
        found = model_cost(model, (2,))
        assert found["num_active_parameters"] == plain + 2 * lines
        assert found["num_grafted_units"] == lines
        assert found["inference_flops"] == found["dense_inference_flops"] == flops


def test_lines_have_a_learning_rate_of_their_own_and_no_weight_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), GraftedReLU((3,)), nn.Linear(3, 2))
    config = OptimizerConfig(name="adamw", weight_decay=0.1)
    groups = build_optimizer(config, model, 10.0).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]
    assert [group.get("lr_scale") for group in groups] == [None, None, 10.0]
    assert groups[2]["params"] == [model[1].slope, model[1].bias]
    plain = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    assert len(build_optimizer(config, plain).param_groups) == 2


# Places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_to_be_grafted_starts_as_the_plain_one(name: str) -> None:
    family, shape = FAMILIES[name]
    arguments = (family, shape, 3, [0.4] * shape[0], [0.3] * shape[0])
    plain, model = build_model(*arguments), build_model(*arguments, grafting=HALF)
    x = torch.rand(4, *shape)
    assert torch.equal(plain.eval()(x), model.eval()(x))
    assert not any(type(module) is nn.ReLU for module in model.modules())
    off = build_model(*arguments, grafting=GraftingConfig())
    assert off.state_dict().keys() == plain.state_dict().keys()


def test_lines_are_by_position_or_by_channel() -> None:
    family, shape = FAMILIES["cnn"]
    for granularity, sizes in (
        ("neuron", [(1, 3, 4, 4), (1, 4, 2, 2), (1, 5)]),
        ("channel", [(1, 3, 1, 1), (1, 4, 1, 1), (1, 5)]),
    ):
        config = GraftingConfig.model_validate({"fraction": 0.5, "granularity": granularity})
        model = build_model(family, shape, 3, [0.4] * 2, [0.3] * 2, 0, config)
        assert [relu.slope.shape for relu in grafted_relus(model).values()] == sizes


def test_weights_of_a_plain_network_leave_nothing_grafted() -> None:
    family, shape = FAMILIES["mlp"]
    arguments = (family, shape, 3, [0.4] * 6, [0.3] * 6)
    plain = build_model(*arguments, seed=1).double().eval()
    model, x = built("mlp")
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(x), plain(x))
    assert cost.num_grafted_units(model) == 0
    for relu in grafted_relus(model).values():
        assert bool((relu.slope.float() == 0.4).all()) and not relu.bias.any()


def test_weights_with_a_part_of_the_lines_are_refused() -> None:
    model, _ = built("mlp")
    state = model.state_dict()
    del state["fc1_relu.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*fc1_relu\.bias"):
        model.load_state_dict(state)


def linear(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Linear(input_shape[0], num_classes)


def shared(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, num_classes))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.relu, self.out = nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        return self.out(self.relu(h) + h)


def in_place(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return InPlace()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("linear", "has no nn.ReLU module.*leave grafting.fraction at 0"),
        ("shared", "network.1 is used several times.*of its own"),
        ("in_place", "do not work in place.*without inplace=True"),
    ],
)
def test_networks_that_cannot_be_grafted_are_refused(function: str, message: str) -> None:
    config = PythonModelConfig(python=f"{__name__}:{function}")
    assert build_model(config, (4,), 3, [0.0] * 4, [1.0] * 4) is not None
    with pytest.raises(ModelError, match=message):
        build_model(config, (4,), 3, [0.0] * 4, [1.0] * 4, 0, HALF)
