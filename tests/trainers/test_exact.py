"""Exact verdicts: the program is the network, and its verdicts are those of brute force."""

import copy
import itertools
import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import FAMILIES, family
from scipy import sparse as sp
from scipy.optimize import linprog
from torch import nn

from trainers.attack import pgd
from trainers.bounds import IntervalPass, ball
from trainers.bounds.crown import crown_values
from trainers.errors import VerificationError
from trainers.verify import cascade, exact, verify
from trainers.verify.encode import Encoder
from trainers.verify.relu_program import ReluProgram, least_margin, reach_of_tolerances


def tiny(seed, widths=(4, 3)):
    """Two inputs, a few ReLUs, three classes."""
    torch.manual_seed(seed)
    sizes, layers = [2, *widths, 3], []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(2.5), layer.bias.mul_(1.5)
    return model


def least_margin_by_enumeration(model, lower, upper, y):
    """The least margin over the box: one linear program for each pattern of active ReLUs."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    least = math.inf
    for pattern in itertools.product([0, 1], repeat=sum(len(m.bias) for m in layers[:-1])):
        signs, matrix, constant = list(pattern), np.eye(2), np.zeros(2)
        rows, limits = [], []
        for layer in layers[:-1]:
            weight, bias = (t.detach().numpy() for t in (layer.weight, layer.bias))
            matrix, constant = weight @ matrix, weight @ constant + bias
            active = np.array([signs.pop(0) for _ in bias])
            rows.append(-(2 * active - 1)[:, None] * matrix)  # active: z >= 0, else z <= 0
            limits.append((2 * active - 1) * constant)
            matrix, constant = active[:, None] * matrix, active * constant
        weight, bias = (t.detach().numpy() for t in (layers[-1].weight, layers[-1].bias))
        matrix, constant = weight @ matrix, weight @ constant + bias
        for k in {0, 1, 2} - {y}:
            box = list(zip(lower.tolist(), upper.tolist(), strict=True))
            costs, offset = matrix[y] - matrix[k], constant[y] - constant[k]
            region = np.concatenate(rows), np.concatenate(limits)
            found = linprog(costs, *region, bounds=box, method="highs-ds")
            if found.status == 0:
                least = min(least, found.fun + offset)
    return least


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_verdicts_are_those_of_enumerating_activation_patterns(seed):
    model = tiny(seed)
    x = torch.rand(4, 2, dtype=torch.float64)
    y_B = model(x).argmax(1)
    for radius in (0.02, 0.1, 0.3):
        result = verify(model, x, y_B, radius, methods=("exact",), attack_steps=0)
        lower, upper = ball(x, radius)
        for i, verdict in enumerate(result.verdicts):
            least = least_margin_by_enumeration(model, lower[i], upper[i], int(y_B[i]))
            assert abs(least) > 1e-4, "too near to tell; choose another seed"
            assert verdict == ("verified" if least > 0 else "falsified")


@pytest.mark.parametrize("seed", range(3))
def test_the_least_margin_is_that_of_enumeration(seed):
    model = tiny(seed)
    x = torch.rand(1, 2, dtype=torch.float64)
    y, interval = int(model(x).argmax(1)), IntervalPass(model)
    lower, upper = ball(x, 0.4)
    program = Encoder(interval.program).encode(crown_values(interval, x, lower, upper), 0, y)
    points = []
    for k in {0, 1, 2} - {y}:
        deadline = time.perf_counter() + 30
        answer, point = least_margin(program, k, at_most=1e3, deadline=deadline, to_the_end=True)
        assert answer == "point"
        logits = model(torch.from_numpy(point))
        points.append((logits[y] - logits[k]).item())
    least = least_margin_by_enumeration(model, lower[0], upper[0], y)
    assert min(points) == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("radius", [0.0, 0.05, 0.4])
def test_a_program_computes_what_the_network_does(name, radius):
    model, x = family(name)
    interval, y_B = IntervalPass(model), model(x).argmax(1)
    lower, upper = ball(x, radius)
    with torch.no_grad():
        values = crown_values(interval, x, lower, upper)
    for i in range(len(x)):
        program = Encoder(interval.program).encode(values, i, int(y_B[i]))
        point = lower[i] + (upper[i] - lower[i]) * torch.rand_like(x[i])
        logits = model(point[None])[0].detach().numpy()
        np.testing.assert_allclose(run(program, point), logits[y_B[i]] - logits, atol=1e-9)
        unstable = sum(
            int(((low[i] < 0) & (high[i] > 0)).sum())
            for low, high in (
                values[step.inputs[0]].bounds
                for step in interval.program.steps
                if isinstance(step.op, nn.ReLU)
            )
        )
        assert len(program.below) == unstable


def run(program: ReluProgram, point):
    """The margins at one input, by the program's own equations."""
    x = point.flatten().numpy()
    known = np.concatenate([x, np.zeros(len(program.below))])
    for n in range(len(program.below)):
        z = program.rows[[n]] @ known + program.constants[n]
        assert program.below[n] - 1e-9 <= z[0] <= program.above[n] + 1e-9
        known[len(x) + n] = max(z[0], 0.0)
    return program.margin_rows @ known + program.margin_constants


@pytest.mark.parametrize("conv", [
    nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Conv2d(4, 2, (2, 3), (1, 2), (0, 2), (2, 1)),
    nn.Conv2d(4, 3, 4, padding="same"), nn.Conv2d(4, 3, 3, padding="valid", bias=False),
])  # fmt: skip
def test_every_convolution_becomes_its_matrix(conv):
    torch.manual_seed(0)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.rand(2, 4, 7, 6)
    model(x)
    model, x = model.double(), x.double()
    interval, y_B = IntervalPass(model), model(x).argmax(1)
    with torch.no_grad():
        values = crown_values(interval, x, *ball(x, 0.2))
    program = Encoder(interval.program).encode(values, 1, int(y_B[1]))
    logits = model(x)[1].detach().numpy()
    np.testing.assert_allclose(run(program, x[1]), logits[y_B[1]] - logits, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@given(seed=st.integers(0, 10_000), radius=st.floats(0.01, 0.15))
@settings(max_examples=5, deadline=None)
def test_every_example_is_decided_and_no_sample_contradicts(name, seed, radius):
    model, x = family(name, seed)
    model, x = model.float(), x.float()
    y_B = model(x).argmax(1)
    result = verify(model, x, y_B, radius, workers=2)
    lower, upper = ball(x, radius)
    points = lower + (upper - lower) * torch.rand(500, *x.shape)
    wrong_B = (model(points.flatten(0, 1)).argmax(1).view(500, -1) != y_B).any(0)
    for i, verdict in enumerate(result.verdicts):
        assert verdict in ("verified", "falsified")
        assert not (verdict == "verified" and wrong_B[i])
    for i, point in result.counterexamples.items():
        assert model(point[None]).argmax(1) != y_B[i]


def one_open_relu(at):
    """Margin relu(x - 0.5) + at over x in [0, 1]: least `at`, below 0.5."""
    return ReluProgram(
        input_lower=np.zeros(1),
        input_upper=np.ones(1),
        rows=sp.csr_array(np.array([[1.0, 0.0]])),
        constants=np.array([-0.5]),
        below=np.array([-0.5]),
        above=np.array([0.5]),
        margin_rows=np.array([[0.0, 0.0], [0.0, 1.0]]),
        margin_constants=np.array([0.0, at]),
    )


@pytest.mark.parametrize(("at", "expected"), [(0.1, "positive"), (-0.1, "point")])
def test_the_sign_of_a_margin_by_hand(at, expected):
    answer, point = least_margin(
        one_open_relu(at), 1, at_most=1e-4, deadline=time.perf_counter() + 10
    )
    assert answer == expected
    assert (point is not None) == (expected == "point")


def test_a_point_that_does_not_replay_falsifies_nothing():
    asked = []

    def never(point):
        asked.append(point)
        return False

    outcome = exact.decide(one_open_relu(-0.1), [1], 1e-4, 1.0, time.perf_counter() + 10, never)
    assert (outcome, len(asked)) == ("open", 2)


def test_without_time_there_is_no_verdict():
    late = time.perf_counter() - 1
    outcome = exact.decide(one_open_relu(0.1), [1], 1e-4, 1.0, late, lambda p: True)
    assert outcome == "timeout"


def test_a_margin_within_the_solvers_reach_of_zero_is_not_verified():
    # The least margin is 5e-6: more than bounds must prove, less than programs must.
    deadline = time.perf_counter() + 10
    outcome = exact.decide(one_open_relu(5e-6), [1], 1e-6, 1.0, deadline, lambda p: False)
    assert outcome == "open"
    outcome = exact.decide(one_open_relu(5e-5), [1], 1e-6, 1.0, deadline, lambda p: False)
    assert outcome == "verified"


def test_what_tolerances_can_hide_by_hand():
    # a2 = relu(z2), z2 = a1 - 0.5 with a1 = relu(x - 0.5) up to 1, margin 4 a2, over a unit of 2.
    program = ReluProgram(
        input_lower=np.zeros(1),
        input_upper=np.full(1, 1.5),
        rows=sp.csr_array(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])),
        constants=np.array([-0.5, -0.5]),
        below=np.array([-0.5, -0.5]),
        above=np.array([1.0, 0.5]),
        margin_rows=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]]),
        margin_constants=np.zeros(2),
    )
    # z1 is off by 1e-7 of 1, z2 by 1e-7 of 0.5 and by that of z1, which is twice as much of 0.5.
    reach = reach_of_tolerances(program, 1, 2.0)
    assert reach == pytest.approx(1e-7 + (4 * 0.5 / 2) * (1e-7 + 2e-7))


@pytest.mark.parametrize("seed", [7, 22, 42])
def test_verdicts_do_not_depend_on_the_units_of_weights_and_logits(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)
    )
    for layer in model[::2]:
        layer.weight.data *= 3.0
    x = torch.rand(6, 6)
    y_B, radius_B = model(x).argmax(1), torch.rand(6).double() * 0.3
    options = {"methods": ("exact",), "attack_steps": 0}
    expected = verify(model, x, y_B, radius_B, **options).verdicts
    assert {"verified", "falsified"} <= set(expected)
    for exponent in (-30, -20, 20, 28):
        factor = 2.0**exponent
        hidden, logits = copy.deepcopy(model), copy.deepcopy(model)
        hidden[0].weight.data *= factor
        hidden[0].bias.data *= factor
        hidden[2].weight.data /= factor
        assert torch.equal(hidden(x), model(x))
        assert verify(hidden, x, y_B, radius_B, **options).verdicts == expected
        logits[4].weight.data *= factor
        logits[4].bias.data *= factor
        assert verify(logits, x, y_B, radius_B, **options).verdicts == expected


def test_a_proof_that_an_input_in_the_ball_contradicts_is_an_error(monkeypatch):
    monkeypatch.setattr(cascade, "decide", lambda *rest: "verified")
    model, x = tiny(1), torch.rand(8, 2, dtype=torch.float64)
    y_B = model(x).argmax(1)

    def nearly(self, i, *rest):
        """An attack that finds the worst input, and does not say so."""
        points = pgd(model, x[i], y_B[i], 0.5, steps=20, restarts=5, generator=torch.Generator())
        self.examples.hardest[i] = points[0]
        return torch.zeros(len(i), dtype=torch.bool)

    monkeypatch.setattr(cascade.Cascade, "_attack", nearly)
    with pytest.raises(VerificationError, match="exact bounds exceed a margin"):
        verify(model, x, y_B, 0.5, methods=("exact",))


class Viewing(nn.Module):
    """Flattens in a way that fails on a batch without examples."""

    def __init__(self):
        super().__init__()
        self.layers = tiny(1)

    def forward(self, x):
        return self.layers(x.view(x.size(0), -1))


def test_where_nothing_is_proved_nothing_is_run_on_no_examples():
    model, x = Viewing(), torch.rand(6, 2, 1, 1, dtype=torch.float64)
    result = verify(model, x, model(x).argmax(1), 1.0, methods=("exact",), attack_steps=0)
    assert set(result.verdicts) == {"falsified"}


def test_timeouts_are_not_among_the_decided(monkeypatch):
    monkeypatch.setattr(cascade, "decide", lambda *rest: "timeout")
    model, x = tiny(1), torch.rand(8, 2, dtype=torch.float64)
    result = verify(model, x, model(x).argmax(1), 0.3, methods=("exact",), attack_steps=0)
    step = next(step for step in result.steps if step.name == "exact")
    assert (step.num_examples, step.num_decided) == (8, 0)
    assert set(result.method) == {"timeout"}


def test_more_workers_find_the_same():
    model = tiny(1)
    x = torch.rand(20, 2, dtype=torch.float64)
    y_B = model(x).argmax(1)
    options = {"methods": ("ibp", "exact"), "attack_steps": 0}
    one, two = (verify(model, x, y_B, 0.2, workers=n, **options) for n in (1, 2))
    assert one.verdicts == two.verdicts
    assert {"verified", "falsified"} == set(one.verdicts)


@pytest.mark.slow
def test_standard_output_stays_clean():
    code = """
import torch
from trainers.verify import verify
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
x = torch.rand(8, 4)
result = verify(model, x, model(x).argmax(1), 0.3, methods=("exact",), attack_steps=0, workers=2)
assert result.method.count("exact") > 0
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_finds_the_same(name):
    model, x = family(name, 1, num_examples=8)
    y_B = model(x).argmax(1)
    on_cpu = verify(model, x, y_B, 0.05)
    on_gpu = verify(model.cuda(), x.cuda(), y_B.cuda(), 0.05)
    assert on_gpu.verdicts == on_cpu.verdicts
