"""Which rows, columns and vectors belong to one unit, on networks that fit on a page."""

import pytest
import torch
from torch import nn

from spaces.model import CnnConfig, MlpConfig, ResNetConfig
from trainers.bounds import IntervalPass
from trainers.errors import ModelError, UnsupportedLayer
from trainers.models import Residual, build_model, prunable_weights
from trainers.wiring import UnitGroup, Wiring


class Net(nn.Module):
    """Layers by name and a forward given as a function of the network and x."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.compute = forward

    def forward(self, x):
        return self.compute(self, x)


def groups(model) -> dict[str, UnitGroup]:
    return {group.name: group for group in Wiring.of(model).groups}


def names(model) -> set[str]:
    return set(groups(model))


def test_an_mlp():
    model = build_model(MlpConfig(widths=(6, 5)), (1, 2, 2), 3, [0.5], [1.0])
    wiring = Wiring.of(model)
    assert wiring.groups == (
        UnitGroup("fc1.weight", 6, ("fc1.weight",), (("fc2.weight", 1),), ("fc1.bias",)),
        UnitGroup("fc2.weight", 5, ("fc2.weight",), (("out.weight", 1),), ("fc2.bias",)),
    )
    assert wiring.gains == {}
    assert wiring.relus == {"fc1.weight": 0, "fc2.weight": 1}


def test_a_cnn_reads_a_channel_as_a_block_of_columns_after_the_flatten():
    config = CnnConfig(channels=(3, 4), hidden=(7,), batch_norm=True)
    model = build_model(config, (1, 8, 12), 5, [0.5], [1.0])
    wiring = Wiring.of(model)
    first, second, third = wiring.groups
    assert first.consumers == (("conv2.weight", 1),)
    assert first.vectors == ("conv1_norm.weight", "conv1_norm.bias")
    assert (second.size, second.consumers) == (4, (("fc1.weight", 2 * 3),))
    assert third.consumers == (("out.weight", 1),)
    assert wiring.gains == {
        name: name.replace(".weight", "_norm.weight")
        for name in ("conv1.weight", "conv2.weight", "fc1.weight")
    }
    assert wiring.relus == {"conv1.weight": 0, "conv2.weight": 1, "fc1.weight": 2}


def test_a_residual_network_ties_what_it_adds():
    """An identity shortcut carries on the group; a projection joins the block's second layer."""
    config = ResNetConfig(width=2, blocks=(1, 2), batch_norm=False)
    wiring = Wiring.of(build_model(config, (1, 8, 8), 5, [0.5], [1.0]))
    tied = {group.name: group for group in wiring.groups if len(group.producers) > 1}
    assert tied["stage1_block1.body.conv2.weight"].producers == (
        "stage1_block1.body.conv2.weight",
        "stage1_block1.shortcut.conv.weight",
    )
    last = tied["stage2_block1.body.conv2.weight"]
    assert last.producers == (
        "stage2_block1.body.conv2.weight",
        "stage2_block1.shortcut.conv.weight",
        "stage2_block2.body.conv2.weight",
    )
    assert last.consumers == (("stage2_block2.body.conv1.weight", 1), ("out.weight", 1))
    assert last.vectors == tuple(name.replace("weight", "bias") for name in last.producers)
    assert len(wiring.groups) == 6 and len(tied) == 2
    # Both branches of a sum enter the ReLU behind it.
    assert wiring.relus["stage1_block1.body.conv2.weight"] == 2
    assert wiring.relus["stage1_block1.shortcut.conv.weight"] == 2
    assert "out.weight" not in wiring.relus


@pytest.mark.parametrize(
    "config", [MlpConfig(batch_norm=True), CnnConfig(), ResNetConfig(width=2, blocks=(1, 2))]
)
def test_relus_are_numbered_as_interval_bounds_number_them(config):
    model = build_model(config, (1, 8, 8), 5, [0.5], [1.0]).eval()
    x = torch.rand(2, 1, 8, 8)
    relus = IntervalPass(model).margins(x, torch.tensor([0, 1]), x, x).relu_inputs
    wiring, weights = Wiring.of(model), prunable_weights(model)
    assert set(wiring.relus) == set(weights) - {"out.weight"}
    assert set(wiring.relus.values()) == set(range(len(relus)))
    for name, index in wiring.relus.items():
        assert relus[index].value.shape[1] == len(weights[name])


def test_a_shortcut_from_the_input_is_left_out():
    body = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))
    model = nn.Sequential(Residual(body, nn.Identity()), nn.ReLU(), nn.Linear(3, 2))
    assert names(model) == {"0.body.0.weight"}


def test_gains_are_not_shared_by_what_goes_past_the_normalisation():
    """Pre-activation blocks: a sum is normalised on one of the ways that it takes."""
    model = Net(
        lambda net, x: net.out(net.a(x) + net.b(net.norm2(net.norm(net.a(x))).relu())),
        a=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), norm2=nn.BatchNorm1d(4), b=nn.Linear(4, 4),
        out=nn.Linear(4, 2),
    )  # fmt: skip
    wiring = Wiring.of(model)
    assert wiring.gains == {"a.weight": "norm.weight"}
    assert wiring.relus == {"a.weight": 0}
    model.compute = lambda net, x: net.out(net.norm(net.a(x) + net.a(x)).relu())
    assert Wiring.of(model).gains == {}
    assert Wiring.of(model).relus == {"a.weight": 0}


def test_dropout_numbers_and_means_are_seen_through():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Dropout2d(0.1), nn.BatchNorm2d(4, affine=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.1),
        nn.Linear(3, 2),
    )  # fmt: skip
    wiring = Wiring.of(model)
    assert [group.name for group in wiring.groups] == ["0.weight", "7.weight"]
    assert wiring.groups[0].consumers == (("7.weight", 1),)
    assert wiring.groups[0].vectors == ("0.bias",)
    assert (wiring.gains, wiring.relus) == ({}, {"0.weight": 0})
    scaled = Net(
        lambda net, x: net.b((2 * net.a(x) - 1).relu()), a=nn.Linear(3, 4), b=nn.Linear(4, 2)
    )
    assert Wiring.of(scaled).relus == {"a.weight": 0}
    assert names(scaled) == {"a.weight"}


class TestSharedWeights:
    def test_a_layer_after_itself_reads_the_input_and_is_left_out(self):
        model = Net(
            lambda net, x: net.b(net.a(net.a(x).relu())), a=nn.Linear(3, 3), b=nn.Linear(3, 2)
        )
        assert names(model) == set()

    def test_a_layer_after_itself_inside(self):
        model = Net(
            lambda net, x: net.out(net.b(net.b(net.a(x)).relu())),
            a=nn.Linear(3, 4), b=nn.Linear(4, 4), out=nn.Linear(4, 2),
        )  # fmt: skip
        assert groups(model) == {
            "a.weight": UnitGroup(
                "a.weight", 4, ("a.weight", "b.weight"), (("b.weight", 1), ("out.weight", 1)),
                ("a.bias", "b.bias"),
            )
        }  # fmt: skip

    def test_two_layers_with_one_weight_tie_what_they_read(self):
        model = Net(
            lambda net, x: net.c(net.a(x).relu()) + net.d(net.b(x).relu()),
            a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(4, 2), d=nn.Linear(4, 2),
        )  # fmt: skip
        assert names(model) == {"a.weight", "b.weight"}
        model.d.weight = model.c.weight
        assert groups(model)["a.weight"] == UnitGroup(
            "a.weight", 4, ("a.weight", "b.weight"), (("c.weight", 1),), ("a.bias", "b.bias")
        )

    def test_one_bias_or_one_normalisation_ties_two_layers(self):
        def build():
            return Net(
                lambda net, x: net.c(net.n(net.a(x))) + net.d(net.m(net.b(x))),
                a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(4, 2), d=nn.Linear(4, 2),
                n=nn.BatchNorm1d(4, affine=False), m=nn.BatchNorm1d(4, affine=False),
            )  # fmt: skip

        model = build()
        assert names(model) == {"a.weight", "b.weight"}
        model.b.bias = model.a.bias
        assert names(model) == {"a.weight"}
        model = build()
        model.m = model.n
        assert names(model) == {"a.weight"}


class TestLeftOut:
    """What cannot follow a unit takes its groups out, and no other."""

    @pytest.mark.parametrize(
        "between",
        [
            nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten()),
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36)),
        ],
    )
    def test_grouped_convolutions_and_normalised_pixels(self, between):
        features = 36 if isinstance(between[0], nn.Flatten) else 4
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), between, nn.ReLU(), nn.Linear(features, 3), nn.Linear(3, 2)
        )
        assert model(torch.rand(2, 1, 5, 5)).shape == (2, 2)
        assert names(model) == {"3.weight"}

    def test_constants_of_several_numbers(self):
        model = Net(
            lambda net, x: net.c(net.b(net.a(x) + net.shift)),
            a=nn.Linear(3, 4), b=nn.Linear(4, 3), c=nn.Linear(3, 2),
        )  # fmt: skip
        model.register_buffer("shift", torch.ones(4))
        assert names(model) == {"b.weight"}
        model.shift = torch.ones(1)
        assert names(model) == {"a.weight", "b.weight"}

    def test_layers_whose_parameters_are_read_elsewhere(self):
        model = Net(
            lambda net, x: net.c(net.b(net.a(x)) * net.a.bias.mean()),
            a=nn.Linear(3, 4), b=nn.Linear(4, 3), c=nn.Linear(3, 2),
        )  # fmt: skip
        assert names(model) == {"b.weight"}

    def test_sums_of_different_numbers_of_units(self):
        model = Net(
            lambda net, x: net.c((net.a(x) + net.b(x)).flatten(1)),
            a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(1, 1, 1), c=nn.Linear(16, 2),
        )  # fmt: skip
        assert names(model) == set()

    def test_a_sum_of_pixels_and_neurons(self):
        model = Net(
            lambda net, x: net.c(net.a(x).flatten(1) + net.b(x.flatten(1))),
            a=nn.Conv2d(1, 4, 1), b=nn.Linear(4, 16), c=nn.Linear(16, 2),
        )  # fmt: skip
        assert model(torch.rand(2, 1, 2, 2)).shape == (2, 2)
        assert names(model) == set()

    def test_linear_layers_along_the_last_of_several_axes(self):
        """(B, T, F): after the flatten a unit's columns do not lie side by side."""
        model = nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3), nn.Linear(3, 2)
        )
        assert model(torch.rand(2, 5, 3)).shape == (2, 2)
        assert names(model) == {"3.weight"}
        on_pixels = nn.Sequential(
            nn.Conv2d(1, 4, 1), nn.Linear(3, 4), nn.Flatten(), nn.Linear(48, 2)
        )
        assert on_pixels(torch.rand(2, 1, 3, 3)).shape == (2, 2)
        assert names(on_pixels) == set()

    def test_logits_stay_through_whatever_follows_them(self):
        model = Net(lambda net, x: 2 * net.a(x) - 1, a=nn.Linear(3, 4))
        assert names(model) == names(nn.Linear(3, 4)) == set()
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        assert names(model) == set()
        assert Wiring.of(model).gains == {"0.weight": "1.weight"}


def test_outputs_that_nobody_reads_have_no_consumers():
    def forward(net, x):
        net.b(x)
        return net.a(x)

    model = Net(forward, a=nn.Linear(3, 2), b=nn.Linear(3, 4))
    assert groups(model) == {"b.weight": UnitGroup("b.weight", 4, ("b.weight",), (), ("b.bias",))}


def test_what_cannot_be_traced_or_cut_is_refused():
    with pytest.raises(UnsupportedLayer, match="Sigmoid at 1"):
        Wiring.of(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)))
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    with pytest.raises((ModelError, UnsupportedLayer)):
        Wiring.of(model)
