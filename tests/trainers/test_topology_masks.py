"""Masks with an exact number of ones, ties by index."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.errors import TopologyError
from trainers.topology.masks import count_ones, global_top_k, random_masks, top_k_mask


def ones(mask: torch.Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def test_top_k_takes_the_largest() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.3]])
    assert top_k_mask(scores, 2).tolist() == [[False, True], [True, False]]


def test_ties_go_to_the_lowest_flat_index() -> None:
    assert ones(top_k_mask(torch.tensor([2.0, 1.0, 2.0, 1.0, 1.0]), 4)) == [0, 1, 2, 3]
    assert ones(top_k_mask(torch.zeros(2, 3), 4)) == [0, 1, 2, 3]
    assert ones(top_k_mask(torch.tensor([-0.0, 0.0, -0.0]), 2)) == [0, 1]


def test_only_allowed_positions_are_chosen() -> None:
    scores = torch.tensor([5.0, 4.0, 3.0, 3.0, 3.0])
    allowed = torch.tensor([False, True, False, True, True])
    assert ones(top_k_mask(scores, 2, allowed)) == [1, 3]


def test_infinite_scores_rank_and_do_not_hide_forbidden_positions() -> None:
    scores = torch.tensor([float("-inf"), 1.0, float("inf")])
    assert ones(top_k_mask(scores, 1, torch.tensor([True, False, False]))) == [0]
    assert ones(top_k_mask(scores, 1)) == [2]


@pytest.mark.parametrize("k", [0, 4])
def test_none_and_all(k: int) -> None:
    assert int(top_k_mask(torch.rand(2, 2), k).sum()) == k
    assert int(top_k_mask(torch.rand(2, 4), k, torch.ones(2, 4).bool()).sum()) == k


def test_nan_scores_are_an_error_that_says_training_diverged() -> None:
    with pytest.raises(TopologyError, match="1 of 2 scores .* NaN: training has diverged"):
        top_k_mask(torch.tensor([1.0, float("nan")]), 1)
    # A forbidden position does not matter.
    assert ones(top_k_mask(torch.tensor([1.0, float("nan")]), 1, torch.tensor([True, False]))) == [
        0
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_a_stable_sort(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    scores = torch.tensor(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))).double()
    allowed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    k = data.draw(st.integers(0, int(allowed.sum())))
    candidates = [i for i in range(n) if allowed[i]]
    expected = sorted(candidates, key=lambda i: -float(scores[i]))[:k]  # Python's sort is stable
    assert ones(top_k_mask(scores, k, allowed)) == sorted(expected)


def test_global_top_k_ranks_across_layers() -> None:
    scores = {"a": torch.tensor([0.9, 0.8, 0.1]), "b": torch.tensor([[0.7], [0.2]])}
    masks = global_top_k(scores, 3)
    assert ones(masks["a"]) == [0, 1]
    assert masks["b"].tolist() == [[True], [False]]


def test_global_top_k_leaves_one_weight_in_a_weak_layer_at_the_weakest_others_expense() -> None:
    scores = {"a": torch.tensor([0.9, 0.8, 0.7]), "b": torch.tensor([0.01, 0.02])}
    masks = global_top_k(scores, 3)
    assert ones(masks["a"]) == [0, 1]
    assert ones(masks["b"]) == [1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 1000), st.data())
def test_global_top_k_is_exact(sizes: list[int], seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(len(sizes), sum(sizes)))
    generator = torch.Generator().manual_seed(seed)
    scores = {
        str(i): torch.randint(0, 4, (n,), generator=generator).float() for i, n in enumerate(sizes)
    }
    counts = count_ones(global_top_k(scores, k))
    assert sum(counts.values()) == k
    assert min(counts.values()) >= 1


def test_random_masks_are_exact_and_depend_on_the_seed_alone() -> None:
    weights = {"a": torch.zeros(6, 5), "b": torch.zeros(4)}
    counts = {"a": 7, "b": 4}
    draws = [random_masks(counts, weights, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert all(count_ones(masks) == counts for masks in draws)
    assert torch.equal(draws[0]["a"], draws[1]["a"])
    assert not torch.equal(draws[0]["a"], draws[2]["a"])


def test_random_masks_choose_every_place_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.zeros(10)}
    hits = sum(random_masks({"a": 3}, weights, generator)["a"].int() for _ in range(2000))
    assert (hits - 600).abs().max() < 90  # more than four standard deviations of 20.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 50, (300, 40), generator=generator).float()
    allowed = torch.rand(300, 40, generator=generator) < 0.5
    for k in (0, 1, 17, 3000):
        on_gpu = top_k_mask(scores.cuda(), k, allowed.cuda()).cpu()
        assert torch.equal(on_gpu, top_k_mask(scores, k, allowed))
