"""Schedules are exact at both ends and never go back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.training import EpsilonConfig, OptimizerConfig
from trainers.schedules import EpsilonSchedule, LearningRate

SHAPES = ["smoothed", "linear"]


def test_the_linear_ramp_by_hand():
    epsilon = EpsilonSchedule(0.3, warmup=0.2, ramp_end=0.6, total_steps=10, shape="linear")
    found = [epsilon(step) for step in range(11)]
    expected = [0, 0, 0, 0.075, 0.15, 0.225, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert found == pytest.approx(expected)
    assert epsilon.progress(4) == pytest.approx(0.5)


def test_the_smoothed_ramp_is_auto_lirpas():
    # init 100, final 600, mid 300: a = eps / ((final - mid) 4 t + (mid - init) t), t = 200^3.
    epsilon = EpsilonSchedule(0.3, warmup=0.1, ramp_end=0.6, total_steps=1000)
    t = 200**3
    a = 0.3 / (300 * 4 * t + 200 * t)
    for step in (101, 150, 250, 299):
        assert epsilon(step) == pytest.approx(a * (step - 100) ** 4, rel=1e-9)
    seam = a * 200**4
    for step in (300, 450, 599):
        assert epsilon(step) == pytest.approx(seam + (0.3 - seam) * (step - 300) / 300, rel=1e-9)


def test_the_target_is_the_evaluation_radius_times_the_factor():
    config = EpsilonConfig(train_factor=1.5, warmup=0.0, ramp_end=1.0, shape="linear")
    epsilon = EpsilonSchedule.from_config(config, 0.2, 8)
    assert (epsilon(0), epsilon(8)) == (0.0, pytest.approx(0.3))


@pytest.mark.parametrize("shape", SHAPES)
@given(
    target=st.floats(1e-4, 1.0),
    warmup=st.floats(0.0, 0.9),
    length=st.floats(0.01, 1.0),
    total=st.integers(1, 300),
)
def test_epsilon_never_falls_and_both_ends_are_exact(shape, target, warmup, length, total):
    ramp_end = min(1.0, warmup + length)
    epsilon = EpsilonSchedule(target, warmup, ramp_end, total, shape)
    values = [epsilon(step) for step in range(total + 1)]
    assert values[-1] == target
    assert values == sorted(values)
    for step, value in enumerate(values):
        assert 0.0 <= value <= target
        assert value == target or step < ramp_end * total
        assert value == 0.0 or step > warmup * total


def learning_rate(total, **options):
    return LearningRate(OptimizerConfig(lr=0.1, **options), total)


def test_a_constant_learning_rate():
    assert {learning_rate(9, lr_schedule="constant")(step) for step in range(1, 10)} == {0.1}


def test_steps_fall_at_their_milestones():
    rate = learning_rate(8, lr_schedule="step", lr_milestones=(0.5, 0.75), lr_factor=0.1)
    found = [rate(step) for step in range(1, 9)]
    assert found == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_the_cosine_falls_from_lr_towards_zero():
    rate = learning_rate(100, lr_schedule="cosine")
    values = [rate(step) for step in range(1, 101)]
    assert values[0] == 0.1
    assert values == sorted(values, reverse=True)
    assert values[50] == pytest.approx(0.05)
    assert 0.0 < values[-1] < 0.1 * (math.pi / 100) ** 2
