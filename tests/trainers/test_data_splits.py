"""Stratified splits: exact, disjoint, fair to every class, and fixed by the seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.splits import share_out, stratified_split


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (4, [10, 10], [2, 2]),
        (3, [10, 10], [2, 1]),  # a tie goes to the first
        (5, [6, 3, 1], [3, 2, 0]),  # 3, 1.5, 0.5: the tie at .5 goes to the second
        (1, [1, 98, 1], [0, 1, 0]),
        (0, [3, 4], [0, 0]),
        (7, [3, 4], [3, 4]),
    ],
)
def test_largest_remainder_by_hand(total, weights, shares):
    assert share_out(total, weights) == shares


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.floats(0, 1))
def test_shares_are_exact_and_within_one_of_proportion(weights, fraction):
    total = round(fraction * sum(weights))
    shares = share_out(total, weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert 0 <= share <= weight
        assert abs(share - total * weight / sum(weights)) < 1


def test_twenty_examples_of_two_classes_by_hand():
    y = np.array([0] * 15 + [1] * 5)
    test, validation, train = stratified_split(y, [0.2, 0.2], seed=0)
    assert [np.bincount(y[part]).tolist() for part in (test, validation, train)] == [
        [3, 1],
        [3, 1],
        [9, 3],
    ]


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=80),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
    st.integers(0, 5),
)
def test_parts_are_disjoint_cover_everything_and_have_exact_sizes(labels, first, second, seed):
    y = np.array(labels)
    parts = stratified_split(y, [first, second], seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(y)))
    assert [len(part) for part in parts[:2]] == [round(first * len(y)), round(second * len(y))]


def test_the_seed_alone_decides_in_every_process():
    y = np.arange(12) % 2
    again = stratified_split(y, [0.25], 3)
    assert [part.tolist() for part in again] == [
        part.tolist() for part in stratified_split(y, [0.25], 3)
    ]
    assert again[0].tolist() == RECORDED
    assert stratified_split(y, [0.25], 4)[0].tolist() != RECORDED


# Written down once: numpy keeps the stream of a seeded PCG64 generator.
RECORDED = [10, 4, 7]


def test_a_sorted_set_comes_out_mixed():
    y = np.repeat([0, 1, 2, 3], 100)
    train = stratified_split(y, [0.2], 0)[1]
    assert set(y[train[:40]].tolist()) == {0, 1, 2, 3}
