"""Schedules are exact at both ends and never go back."""

import math
from itertools import accumulate

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


def test_epochs_of_different_lengths_take_the_same_part_of_the_ramp():
    # Four epochs of 1, 2, 3 and 4 steps; the ramp is the second and the third of them.
    epsilon = EpsilonSchedule(1.0, 0.25, 0.75, 10, "linear", epoch_ends=(1, 3, 6, 10))
    found = [epsilon(step) for step in range(11)]
    expected = [0, 0, 1 / 4, 1 / 2, 1 / 2 + 1 / 6, 1 / 2 + 2 / 6, 1, 1, 1, 1, 1]
    assert found == pytest.approx(expected)
    assert (found[1], found[6]) == (0.0, 1.0)


@pytest.mark.parametrize("shape", SHAPES)
@given(
    target=st.floats(1e-4, 1.0),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30),
    warmup=st.floats(0.0, 0.9),
)
def test_both_ends_are_exact_whatever_the_lengths_of_epochs(shape, target, lengths, warmup):
    ends = tuple(accumulate(lengths))
    epsilon = EpsilonSchedule(target, warmup, 1.0, ends[-1], shape, ends)
    values = [epsilon(step) for step in range(ends[-1] + 1)]
    assert values[0] == 0.0 and values[-1] == target
    assert values == sorted(values)


@given(steps=st.integers(1, 9), epochs=st.integers(1, 9))
def test_equal_epochs_need_no_list_of_their_ends(steps, epochs):
    ends = tuple(steps * epoch for epoch in range(1, epochs + 1))
    plain = EpsilonSchedule(0.3, 0.1, 0.8, ends[-1])
    listed = EpsilonSchedule(0.3, 0.1, 0.8, ends[-1], epoch_ends=ends)
    for step in range(ends[-1] + 1):
        assert listed(step) == pytest.approx(plain(step), abs=1e-12)


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
