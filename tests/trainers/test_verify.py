"""A verdict is never wrong: what is called verified is, and every counterexample is one."""

import copy
import itertools
import math
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainers.errors import UnsupportedLayer, VerificationError
from trainers.verify import cascade, exact, verify


def threshold(at):
    """Class 1 where the mean of the two inputs exceeds `at`; class 0 below."""
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
        model[0].bias.copy_(torch.tensor([0.0, -at]))
    return model


def mlp(seed=0, gain=3.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.mul_(gain)
        model[2].weight.mul_(gain)
    return model


class TorchvisionStyle(nn.Module):
    """A basic block with functional, in-place relu and a view, as torchvision writes it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        identity = x
        out = self.bn2(self.conv2(x))
        out += identity
        out = self.pool(F.relu(out, inplace=True))
        return self.fc(self.dropout(torch.flatten(out, 1)))


def test_each_verdict_of_a_linear_network():
    # Means 0.5, 0.55, 0.58 and 0.7 against 0.6, within 0.05: the first is safe, the second just
    # not distinguishable from the border, the third crosses it, the last is wrong already.
    x = torch.tensor([[0.5, 0.5], [0.55, 0.55], [0.58, 0.58], [0.7, 0.7]])
    result = verify(threshold(0.6), x, torch.tensor([0, 0, 0, 0]), 0.05)
    assert result.verdicts == ("verified", "unknown", "falsified", "misclassified")
    assert result.method == ("ibp", "undecided", "pgd", "natural")
    assert result.natural_accuracy == 0.75
    assert result.verified_accuracy == 0.25
    assert result.falsified_accuracy_bound == 0.5
    assert list(result.counterexamples) == [2]
    assert result.counterexamples[2].mean() > 0.6
    assert (result.radius, result.num_examples, result.precision) == (0.05, 4, "float64")


def test_dearer_bounds_are_asked_only_for_what_is_open():
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    model = mlp().eval()
    result = verify(model, x, model(x).argmax(1), 0.03)
    steps = ["natural", "ibp", "pgd", "crown-ibp", "crown", "alpha-crown", "exact"]
    assert [step.name for step in result.steps] == steps
    for before, after in itertools.pairwise(result.steps):
        assert after.num_examples == before.num_examples - before.num_decided
    assert {"ibp", "pgd", "crown-ibp", "exact"} <= set(result.method)
    assert set(result.num_open_relus) == {i for i, m in enumerate(result.method) if m == "exact"}
    assert "unknown" not in result.verdicts
    assert len(result.example_seconds) == 60 and min(result.example_seconds) > 0.0
    assert sum(result.example_seconds) == pytest.approx(
        sum(s.seconds for s in result.steps), rel=0.2
    )
    only_ibp = verify(model, x, model(x).argmax(1), 0.03, methods=("ibp",), attack_steps=0)
    assert [step.name for step in only_ibp.steps] == ["natural", "ibp"]
    assert only_ibp.verified_accuracy < result.verified_accuracy


@given(seed=st.integers(0, 10_000), radius=st.floats(0.0, 0.2))
@settings(max_examples=10, deadline=None)
def test_a_dense_grid_finds_no_error_in_what_is_verified(seed, radius):
    model = mlp(seed).eval()
    x = torch.rand(8, 2, generator=torch.Generator().manual_seed(seed))
    y_B = model(x).argmax(1)
    result = verify(model, x, y_B, radius)
    ticks = torch.linspace(-radius, radius, 41)
    offsets = torch.cartesian_prod(ticks, ticks)
    for i, verdict in enumerate(result.verdicts):
        points = (x[i] + offsets).clamp(0, 1)
        wrong = (model(points).argmax(1) != y_B[i]).any()
        assert not (verdict == "verified" and wrong)
        assert (verdict == "falsified") == (i in result.counterexamples)
    for i, point in result.counterexamples.items():
        assert (point.double() - x[i].double()).abs().max() <= radius
        assert point.min() >= 0 and point.max() <= 1
        assert model(point[None]).argmax(1) != y_B[i]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_torchvision_style_network_is_verified_as_it_is_in_evaluation_mode(seed):
    torch.manual_seed(seed)
    model = TorchvisionStyle()
    model(torch.rand(64, 1, 6, 6))  # leaves training mode on, and statistics that are its own
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(10, 1, 6, 6)
    y_B = copy.deepcopy(model).eval()(x).argmax(1)
    result = verify(model, x, y_B, 0.001)
    assert result.natural_accuracy == 1.0
    assert result.verified_accuracy >= 0.8
    assert model.training and model.bn1.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    order = torch.randperm(10)
    shuffled = verify(model, x[order], y_B[order], 0.001, batch_size=3)
    assert shuffled.verdicts == tuple(result.verdicts[i] for i in order)


def test_the_same_question_has_the_same_answer():
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(1))
    y_B = mlp().eval()(x).argmax(1)
    one, two = (verify(mlp(), x, y_B, 0.05, seed=7) for _ in range(2))
    assert one.verdicts == two.verdicts
    assert all(
        torch.equal(one.counterexamples[i], two.counterexamples[i]) for i in one.counterexamples
    )


def test_a_larger_radius_proves_less():
    x = torch.rand(50, 2, generator=torch.Generator().manual_seed(1))
    y_B = mlp().eval()(x).argmax(1)
    shares = [verify(mlp(), x, y_B, r).verified_accuracy for r in (0.0, 0.01, 0.03, 0.1, 1.0)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.9 and shares[-1] == 0.0


def test_a_constant_network_is_verified_everywhere():
    model = nn.Sequential(nn.Linear(2, 3))
    nn.init.zeros_(model[0].weight)
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    x = torch.rand(5, 2)
    result = verify(model, x, torch.tensor([1, 1, 0, 1, 2]), 1.0)
    assert result.verdicts == ("verified", "verified", "misclassified", "verified", "misclassified")


def test_a_tie_is_never_verified():
    model = nn.Sequential(nn.Linear(2, 3))
    nn.init.zeros_(model[0].weight), nn.init.zeros_(model[0].bias)
    result = verify(model, torch.rand(2, 2), torch.tensor([0, 0]), 0.1)
    assert result.verdicts == ("unknown", "unknown")


def test_a_margin_within_the_rounding_of_the_network_is_not_verified():
    # In exact arithmetic class 0 wins by 0.01 everywhere; float32 at 1e6 cannot tell.
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(1e6), model[0].bias.fill_(0.0)
        model[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model[2].bias.copy_(torch.tensor([0.01, 0.0]))
    result = verify(model, torch.tensor([[0.7]]), torch.tensor([0]), 0.0)
    assert result.verified_accuracy == 0.0


def test_the_data_range_clips_the_ball():
    # Inputs cannot fall below 0.5, so that the threshold 0.45 is out of reach.
    x, y_B = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    assert verify(threshold(0.45), x, y_B, 0.1, low=0.5).verdicts == ("verified",)
    assert verify(threshold(0.45), x, y_B, 0.1).verdicts == ("falsified",)


@pytest.mark.parametrize("limit", ["timeout_s", "budget_s"])
def test_when_time_is_up_the_rest_is_unknown(limit):
    x = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    y_B = mlp().eval()(x).argmax(1)
    y_B[0] = (y_B[0] + 1) % 3
    result = verify(mlp(), x, y_B, 0.03, **{limit: 0.0})
    assert result.verdicts == ("misclassified", *["unknown"] * 19)
    assert result.method == ("natural", *["timeout"] * 19)


def test_an_example_that_uses_up_its_own_time_leaves_the_others_theirs(monkeypatch):
    def slow_for_the_third(program, classes, slack, unit, deadline, replay):
        if np.isclose(program.input_lower[0], float(x[2, 0]) - 0.08):
            assert deadline - time.perf_counter() < 5.0
            return "timeout"
        return exact.decide(program, classes, slack, unit, deadline, replay)

    monkeypatch.setattr(cascade, "decide", slow_for_the_third)
    x = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)).clamp(0.1, 0.9)
    y_B = mlp().eval()(x).argmax(1)
    result = verify(mlp(), x, y_B, 0.08, methods=("exact",), attack_steps=0, timeout_s=5.0)
    assert (result.verdicts[2], result.method[2]) == ("unknown", "timeout")
    assert "unknown" not in result.verdicts[:2] + result.verdicts[3:]


def margins_of(number):
    """Bounds on margins that say `number` of every class."""
    return lambda interval, values, y_B, logits_BK: torch.full_like(logits_BK, number)


def test_bounds_that_an_input_contradicts_are_an_error(monkeypatch):
    monkeypatch.setattr(cascade, "backward_margins", margins_of(1e3))
    x = torch.rand(5, 2)
    with pytest.raises(VerificationError, match="bounds exceed a margin"):
        verify(mlp(), x, mlp().eval()(x).argmax(1), 0.5, methods=("crown",))


def test_bounds_that_are_not_finite_prove_nothing(monkeypatch):
    for bad in (math.nan, -math.inf):
        monkeypatch.setattr(cascade, "backward_margins", margins_of(bad))
        x = torch.rand(5, 2)
        result = verify(mlp(), x, mlp().eval()(x).argmax(1), 0.0, methods=("crown",))
        assert set(result.verdicts) == {"unknown"}


class Wandering(nn.Module):
    """Computes something else each time: a trace of it means nothing."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(2, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) + self.calls


@pytest.mark.parametrize("method", cascade.AVAILABLE_METHODS)
def test_a_network_that_is_not_a_fixed_computation_is_refused(method):
    model, x = Wandering(), torch.rand(3, 2)
    with pytest.raises(VerificationError, match="not a fixed computation"):
        verify(model, x, model(x).argmax(1), 0.1, methods=(method,))


X, Y = torch.full((2, 2), 0.5), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -0.1}, "radius is -0.1"),
        ({"radius": math.nan}, "radius is nan"),
        ({"radius": "0.1"}, "radius is '0.1'"),
        ({"methods": ("magic",)}, "available are ibp, crown-ibp, crown, alpha-crown, exact"),
        ({"methods": ()}, "asks for nothing"),
        ({"methods": "ibp"}, r"give a tuple, \('ibp',\)"),
        ({"radius": True}, "radius is True"),
        ({"low": 1.0, "high": 0.0}, "both must be finite, and low less than high"),
        ({"low": -math.inf}, "both must be finite"),
        ({"x_BCHW": X + 0.6}, r"4 values outside \[0.0, 1.0\], such as 1.1"),
        ({"x_BCHW": X * math.nan}, "4 values outside"),
        ({"x_BCHW": X[:0], "y_B": Y[:0]}, "at least one example"),
        ({"x_BCHW": X[0]}, r"shape \(2,\)"),
        ({"x_BCHW": X.double()}, "move x to the network's type"),
        ({"x_BCHW": torch.rand(2, 5)}, r"does not take inputs of shape \(2, 5\)"),
        ({"y_B": Y[:1]}, "2 examples but y has shape"),
        ({"y_B": Y.float()}, "labels are integers"),
        ({"y_B": Y + 2}, "label 3 is out of range: the network has 3 classes"),
        ({"y_B": Y - 1}, "label -1 is out of range"),
        ({"model": nn.Sequential(nn.Linear(2, 1))}, "at least two classes"),
        ({"timeout_s": -1.0}, "timeout_s is -1.0"),
        ({"timeout_s": "3"}, "timeout_s is '3'"),
        ({"budget_s": math.nan}, "budget_s is nan"),
        ({"workers": 1.5}, "workers is 1.5: it must be a whole number"),
        ({"workers": 0}, "workers is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"attack_restarts": 0}, "attack_restarts is 0"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(change, message):
    question = {"model": mlp(), "x_BCHW": X, "y_B": Y, "radius": 0.1, **change}
    with pytest.raises(VerificationError, match=message):
        verify(
            question.pop("model"), question.pop("x_BCHW"), question.pop("y_B"),
            question.pop("radius"), **question,
        )  # fmt: skip


def test_diverged_weights_are_refused():
    model = mlp()
    nn.init.constant_(model[0].bias, math.nan)
    with pytest.raises(VerificationError, match="not finite: its weights have diverged"):
        verify(model, X, Y, 0.1)


def test_a_layer_without_bounds_is_refused():
    with pytest.raises(UnsupportedLayer, match="Tanh at 1"):
        verify(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)), X, Y, 0.1)
