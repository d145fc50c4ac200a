"""Activations in 8 bits: what rounding does, and bounds that know it."""

import copy
import importlib
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from trainers.bounds import IntervalPass, ball
from trainers.bounds.arithmetic import UNIT, allow_for_float32
from trainers.bounds.crown import backward_margins, crown_values
from trainers.bounds.program import Add, Flatten, Program, Step
from trainers.bounds.rounded import Rounded
from trainers.errors import VerificationError
from trainers.verify import Artifact, VerificationResult, verify, verify_artifact

artifact_module = importlib.import_module("trainers.verify.artifact")


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer.double()


def chain(*ops: nn.Module) -> Program:
    program = Program([Step(op, (i,), f"op{i}") for i, op in enumerate(ops)], len(ops))
    return program.double().eval().requires_grad_(False)


def random_network(seed: int, dynamic: bool) -> Program:
    """A residual network that rounds in three places; one of them cuts values off."""
    torch.manual_seed(seed)
    stem, body, head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
    scales = (None, None, None) if dynamic else (1 / 16, 1 / 8, 1 / 4)
    largest = (255, 255, 255) if dynamic else (16, 4, 255)
    roundings = [
        Rounded(scale, 0 if n < 2 else -128, top, is_positive=n < 2)
        for n, (scale, top) in enumerate(zip(scales, largest, strict=True))
    ]
    steps = [
        (roundings[0], (0,)), (stem, (1,)), (nn.ReLU(), (2,)), (roundings[1], (3,)), (body, (4,)),
        (roundings[2], (5,)), (Add(), (4, 6)), (nn.ReLU(), (7,)), (head, (8,)),
    ]  # fmt: skip
    program = Program([Step(op, i, "") for op, i in steps], 9).double().eval().requires_grad_(False)
    head.bias -= program(torch.rand(200, 4, dtype=torch.float64)).mean(0)  # no class rules
    return program


# What it does -------------------------------------------------------------------------------------


def test_multiples_of_the_scale_halves_to_even_and_cut_off_at_the_ends() -> None:
    x = column(-1.0, 0.24, 0.25, 0.26, 0.75, 1.2, 9.0)
    assert Rounded(0.5, 0, 3)(x).tolist() == [[0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.5]]
    assert Rounded(0.5, -1, 3)(x)[0, 0] == -0.5


def test_gradients_pass_where_nothing_is_cut_off() -> None:
    x = column(-1.0, 0.3, 9.0).requires_grad_()
    Rounded(0.5, 0, 3)(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0.0, 1.0, 0.0]]


def test_bounds_are_those_of_the_rounded_ends() -> None:
    lower, upper = Rounded(0.5, 0, 3).range(column(0.2, 0.3, -5.0), column(0.6, 1.2, 9.0))
    assert (lower.tolist(), upper.tolist()) == ([[0.0, 0.5, 0.0]], [[0.5, 1.0, 1.5]])


def test_a_half_may_go_either_way() -> None:
    lower, upper = Rounded(0.5, 0, 3).range(column(0.25), column(0.25))
    assert (float(lower), float(upper)) == (0.0, 0.5)


def test_a_tolerance_widens_what_is_rounded() -> None:
    op = Rounded(0.5, 0, 3)
    op.tolerance = column(0.06)[0]
    lower, upper = op.range(column(0.3), column(0.7))
    assert (float(lower), float(upper)) == (0.0, 1.0)  # 0.24 and 0.76


def test_rounding_reaches_half_a_step_or_what_lies_beyond_the_range() -> None:
    below, above = Rounded(0.5, 0, 3).reach(column(0.0, -0.4, 0.1), column(1.4, 3.0, 0.1))
    assert below[0].tolist() == pytest.approx([0.25, 1.5, 0.1], rel=2e-3)  # 0.1 becomes 0
    assert above[0].tolist() == pytest.approx([0.25, 0.4, -0.1], rel=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_steps_of_its_own_are_those_of_onnx(seed: int) -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    back = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])
    x_info, y_info = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 40]) for name in "xy"
    )
    graph = helper.make_graph([node, back], "g", [x_info], [y_info])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(seed).normal(seed - 2.0, 1.0, (1, 40)).astype(np.float32)
    (expected,) = session.run(None, {"x": x})
    found = Rounded(None)(torch.from_numpy(x).double())
    assert np.abs(found.numpy() - expected).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([None, 0.1, 0.7]),
    st.integers(0, 200),
    st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 3)), min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_no_point_of_a_box_leaves_range_or_reach(scale, zero, box, seed) -> None:
    op = Rounded(scale, -zero, 255 - zero)
    lower, width = (column(*numbers) for numbers in zip(*box, strict=True))
    upper = lower + width
    draw = torch.Generator().manual_seed(seed)
    share = torch.rand(200, lower.shape[1], generator=draw, dtype=torch.float64)
    x = lower + share.mul(1.4).sub(0.2).clamp(0.0, 1.0) * width
    (least, largest), (below, above) = op.range(lower, upper), op.reach(lower, upper)
    rounded = op(x)
    assert ((rounded >= least - 1e-9) & (rounded <= largest + 1e-9)).all()
    assert ((rounded >= x - below - 1e-9) & (rounded <= x + above + 1e-9)).all()


# Verdicts -----------------------------------------------------------------------------------------


QUARTERS = Rounded(0.25, 0, 4), linear([[2.0], [0.0]], [0.0, 1.2])
"""Class 0 has 2 q - 1.2 more than class 1, where q is x to the next quarter: it needs q > 0.6."""


@pytest.mark.parametrize(
    ("radius", "verdicts"),
    [
        (0.02, {"ibp": "verified", "crown-ibp": "verified", "exact": "verified"}),
        # Linear bounds take half a step off: 2 (0.75 - 0.12 - 0.125) < 1.2. 0.63 is still 0.75.
        (0.12, {"ibp": "verified", "crown-ibp": "unknown", "exact": "unknown"}),
        (0.13, {"ibp": "falsified", "crown-ibp": "falsified", "exact": "falsified"}),
    ],
)
def test_a_verdict_turns_where_the_rounding_does(radius: float, verdicts: dict[str, str]) -> None:
    x, y_B = column(0.75), torch.tensor([0])
    for method, verdict in verdicts.items():
        assert verify(chain(*QUARTERS), x, y_B, radius, methods=[method]).verdicts == (verdict,)


def test_margins_must_exceed_what_is_asked_besides() -> None:
    x, y_B = column(0.75).repeat(2, 1), torch.tensor([0, 0])
    found = verify(chain(*QUARTERS), x, y_B, 0.02, margin=torch.tensor([0.29, 0.31]))
    assert found.verdicts == ("verified", "unknown")  # the margin is 0.3
    for margin in (-0.1, float("nan"), torch.zeros(3)):
        with pytest.raises(VerificationError, match="margin is .*: give a number >= 0, or one for"):
            verify(chain(*QUARTERS), x, y_B, 0.02, margin=margin)


def test_what_is_the_same_on_the_whole_ball_is_rounded_in_programs_too() -> None:
    # Class 0 has 10 R(0.2) + 2 R(x) - 1.6 more, where R(0.2) is 0, not 0.2: at x = 0.7 it loses.
    constant_and_x = linear([[0.0], [1.0]], [0.2, 0.0])
    program = chain(constant_and_x, Rounded(0.5, 0, 3), linear([[10.0, 2.0], [0, 0]], [-1.6, 0]))
    x, y_B = column(0.9), torch.tensor([0])
    found = verify(program, x, y_B, 0.2, methods=["exact"], attack_steps=0)
    assert found.verdicts == ("falsified",)
    assert verify(program, x, y_B, 0.05, methods=["exact"]).verdicts == ("verified",)


def test_backward_bounds_of_a_linear_network_have_the_closed_form() -> None:
    # Margin 3 a - 2 b - 1 of a, b rounded to tenths: half a step each, weighed by 3 and 2.
    program = chain(Rounded(0.1, 0, 255), linear([[3.0, -2.0], [0.0, 0.0]], [-1.0, 0.0]))
    x, y_B = column(0.8, 0.3), torch.tensor([0])
    interval = IntervalPass(program)
    values = interval.values(x, *ball(x, 0.2))
    margin = backward_margins(interval, values, y_B, values[2].value)[0, 1]
    assert float(margin) == pytest.approx(3 * 0.6 - 2 * 0.5 - 1 - (3 + 2) * 0.05, abs=1e-3)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_no_point_contradicts_bounds_or_verdicts(seed: int, dynamic: bool) -> None:
    program, radius = random_network(seed, dynamic), 0.05
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(20, 4, generator=draw, dtype=torch.float64)
    y_B = program(x).argmax(1)
    lower, upper = ball(x, radius)
    interval = IntervalPass(program)
    ibp_BK = interval.margins(x, y_B, lower, upper).margins_BK
    crown_BK = backward_margins(
        interval, crown_values(interval, x, lower, upper), y_B, interval.program(x)
    )
    found = verify(program, x, y_B, radius, timeout_s=0.3)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    shares = torch.cat([corners, torch.rand(500, 4, generator=draw, dtype=torch.float64)])
    for i, verdict in enumerate(found.verdicts):
        logits_PK = program(lower[i] + shares * (upper[i] - lower[i]))
        margins_PK = logits_PK[:, y_B[i], None] - logits_PK
        assert (margins_PK >= torch.maximum(ibp_BK[i], crown_BK[i]) - 1e-9).all()
        assert verdict != "verified" or (logits_PK.argmax(1) == y_B[i]).all()
    assert {"verified", "falsified"} <= set(found.verdicts)


# What float32 may do ------------------------------------------------------------------------------


def test_the_tolerance_of_one_layer_by_hand() -> None:
    rounded = Rounded(0.5, 0, 3)
    program = chain(linear([[2.0, -1.0]], [0.5]), rounded, linear([[1.0]], [0.0]))
    error = allow_for_float32(program, column(0.2, 0.4), column(0.6, 0.8))
    terms = 2.0 * 0.6 + 1.0 * 0.8 + 0.5
    assert float(rounded.tolerance) == pytest.approx(2 * (2 + 8) * UNIT * terms, rel=1e-2)
    assert error == pytest.approx((1 + 8) * UNIT * 1.5, rel=1e-2)  # 1.3 or less becomes 1.5


@pytest.mark.parametrize("between", [[], [Flatten()], [nn.ReLU(), Flatten()]])
def test_sums_may_be_formed_before_zero_points_are_taken_off(between: list[nn.Module]) -> None:
    # 255 steps of 0.5 on either side, whatever the values themselves are, and 8 operations more.
    rounded = Rounded(0.5, -128, 127)
    steps = [Step(rounded, (0,), "")]
    steps += [Step(op, (n,), "") for n, op in enumerate(between, 1)]
    program = Program([*steps, Step(Add(), (len(steps), len(steps)), "")], len(steps) + 1)
    error = allow_for_float32(program, column(0.0), column(0.0))
    assert error == pytest.approx((1 + 8) * UNIT * 2 * 255 * 0.5, rel=1e-2)


def test_sums_of_float32_stay_within_what_is_allowed_whatever_their_order() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 3)
    program = chain(Flatten(), layer)
    x = torch.rand(20, 400)
    error = allow_for_float32(program, x.double(), x.double())
    expected = program(x.double())
    for _ in range(20):
        order = torch.randperm(400)
        found = torch.zeros(20, 3)
        for i in order.tolist():
            found += x[:, i : i + 1] * layer.weight[:, i].detach()
        found += layer.bias.detach()
        assert (found - expected).abs().max() <= error


def test_weights_without_bound_are_refused() -> None:
    program = chain(
        Rounded(None), linear([[1e300]], [0.0]), Rounded(None), linear([[1e300]], [0.0])
    )
    with pytest.raises(VerificationError, match="weights are too large"):
        allow_for_float32(program, column(0.0), column(1.0))


def test_nothing_is_proved_where_float32_may_overflow() -> None:
    # At (0.6, 0.6) both logits are infinite, and the first one wins.
    program = chain(linear([[2.9e38, 2.9e38], [3.0e38, 3.0e38]], [0.0, 0.0]))
    single = copy.deepcopy(program).float()
    x, y_B = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    assert verify(program, x.double(), y_B, 0.1).verdicts == ("verified",)
    found = verify_artifact(Artifact(program, single), x, y_B, 0.1, attack_steps=0)
    assert found.verdicts == ("unknown",)


# Runtimes that are not what the file says ---------------------------------------------------------


def artifact(wrong: float = 0.0) -> Artifact:
    program = chain(*QUARTERS)
    return Artifact(program, lambda x: (program(x.double()) + column(0.0, wrong)).float())


def test_a_runtime_outside_the_bounds_is_an_error() -> None:
    x, y_B = torch.tensor([[0.75]]), torch.tensor([0])
    assert verify_artifact(artifact(), x, y_B, 0.1).verdicts == ("verified",)
    with pytest.raises(VerificationError, match=r"logits are up to 0\.01 off what the weights"):
        verify_artifact(artifact(0.01), x, y_B, 0.1)


def judged_as(monkeypatch: pytest.MonkeyPatch, verdict: str, *counterexample: float) -> None:
    """Let the network that is read have this verdict, whatever it is."""
    real = artifact_module.verify

    def say(*arguments: Any, **options: Any) -> VerificationResult:
        points = dict(enumerate(map(column, counterexample)))
        found = real(*arguments, **options)
        return replace(found, verdicts=(verdict,), method=("ibp",), counterexamples=points)

    monkeypatch.setattr(artifact_module, "verify", say)


X, Y = torch.tensor([[0.75]]), torch.tensor([0])


def test_a_runtime_that_refutes_a_proof_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    judged_as(monkeypatch, "verified")
    with pytest.raises(VerificationError, match=r"example 0 is verified by ibp, but the runtime"):
        verify_artifact(artifact(), X, Y, 0.2)  # 0.55 becomes 0.5


def test_a_counterexample_that_the_runtime_gets_right_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged_as(monkeypatch, "falsified", 0.7)
    found = verify_artifact(artifact(), X, Y, 0.1)
    assert (found.verdicts, found.method) == (("unknown",), ("undecided",))
    assert not found.counterexamples


def test_what_the_runtime_gets_wrong_is_kept_in_its_own_type() -> None:
    found = verify_artifact(artifact(), X, Y, 0.2)
    assert found.verdicts == ("falsified",)
    point = found.counterexamples[0]
    assert point.dtype == torch.float32 and 0.55 <= float(point) < 0.625
    assert verify_artifact(artifact(), X, 1 - Y, 0.2).verdicts == ("misclassified",)
