"""auto_LiRPA agrees with our bounds, or the difference is an error."""

import sys

import pytest
import torch
from networks import FAMILIES, family
from torch import nn

from trainers.errors import UnsupportedLayer, VerificationError
from trainers.verify import SecondOpinion, second_opinion

MODULE = sys.modules[second_opinion.__module__]  # the function's name hides it


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_compute_the_same_bounds_in_float64(name, dtype):
    model, x = family(name)
    model, x = model.to(dtype), x.to(dtype)
    found = second_opinion(model, x, model(x).argmax(1), 0.05)
    assert found.num_examples == 4
    assert 0.0 <= found.largest_difference < 1e-9
    assert found.reason is None
    assert next(model.parameters()).dtype == dtype and next(model.parameters()).requires_grad


def test_labels_that_the_network_gets_wrong_are_compared_too():
    model, x = family("cnn")
    y_B = (model(x).argmax(1) + 1) % 4
    assert second_opinion(model, x, y_B, 0.05).largest_difference < 1e-9


@pytest.mark.parametrize("spoil", ["raised a little", "not a number", "another class"])
def test_a_wrong_bound_is_noticed(monkeypatch, spoil):
    right = MODULE.backward_margins

    def wrong(*arguments):
        margins_BK = right(*arguments)
        if spoil == "raised a little":
            margins_BK[2, 1] += 1e-4
        elif spoil == "not a number":
            margins_BK[2, 1] = torch.nan
        else:
            margins_BK = margins_BK.roll(1, dims=1)
        return margins_BK

    monkeypatch.setattr(MODULE, "backward_margins", wrong)
    model, x = family("mlp")
    y_B = torch.zeros(4, dtype=torch.long)
    with pytest.raises(VerificationError, match=r"by our own code, but .* by auto_LiRPA") as caught:
        second_opinion(model, x, y_B, 0.05)
    assert spoil == "another class" or "example 2 against class 1" in str(caught.value)


def test_wrong_intervals_in_front_of_relus_are_noticed(monkeypatch):
    # A box that is too small proves too much; nothing else would notice it.
    right = MODULE.IntervalPass.values

    def too_small(self, x, lower, upper):
        return right(self, x, lower, x + 0.9 * (upper - x))

    monkeypatch.setattr(MODULE.IntervalPass, "values", too_small)
    model, x = family("cnn")
    with pytest.raises(VerificationError, match="one of them is wrong"):
        second_opinion(model, x, model(x).argmax(1), 0.05)


def test_a_network_that_auto_lirpa_does_not_convert_is_not_compared():
    conv = nn.Conv2d(1, 2, 3, padding="same")
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    found = second_opinion(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), 0.05)
    assert found == SecondOpinion(0, 0.0, found.reason)
    assert "UnsupportedLayer: Conv2d at 0 (padding 'same'" in str(found.reason)


def test_what_has_no_bounds_of_our_own_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    with pytest.raises(UnsupportedLayer, match="Tanh"):
        second_opinion(model, torch.rand(2, 3), torch.tensor([0, 1]), 0.05)
