"""What is kept or pruned as a whole, by hand; then sweeps over random networks."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainers.errors import TopologyError
from trainers.topology.layout import Layout
from trainers.topology.masks import count_ones
from trainers.topology.patterns import Kernels, NOfM, Units, Weights, build_pattern
from trainers.wiring import UnitGroup


def layout(groups: tuple[UnitGroup, ...] = (), **sides: tuple[int, ...]) -> Layout:
    return Layout({name: torch.Size(side) for name, side in sides.items()}, groups)


def ones(mask: Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def row(*scores: float) -> Tensor:
    return torch.tensor([scores], dtype=torch.float32)


def two_of_four(inputs: int) -> NOfM:
    return NOfM(layout(w=(1, inputs)), 2, 4)


# N:M


def test_two_of_four_admits_the_best_two_of_each_run_and_of_what_is_left_over() -> None:
    scores = row(4, 1, 3, 2, 9, 8, 7, 6, 1, 5, 3)
    assert ones(two_of_four(11).top(scores, 6)) == [0, 2, 4, 5, 9, 10]
    # Of these six, the best four.
    assert ones(two_of_four(11).top(scores, 4)) == [0, 4, 5, 9]


def test_a_short_run_keeps_at_most_n() -> None:
    one_of_four = NOfM(layout(w=(1, 6)), 1, 4)
    assert one_of_four.items == {"w": 2}
    assert ones(one_of_four.top(row(1, 2, 3, 4, 6, 5), 2)) == [3, 4]


def test_of_equal_scores_the_first_of_a_run_are_admitted() -> None:
    assert ones(two_of_four(8).top(torch.zeros(1, 8), 4)) == [0, 1, 4, 5]
    assert ones(two_of_four(6).top(torch.full((1, 6), -math.inf), 4)) == [0, 1, 4, 5]


def test_capacity_is_counted_run_by_run() -> None:
    # 10 inputs: two runs of four with two each, and two left over. 9: two runs and one left over.
    found = NOfM(layout(a=(3, 10), b=(3, 9, 2, 2), c=(5, 1)), 2, 4).items
    assert found == {"a": 3 * (2 * 2 + 2), "b": 3 * 4 * (2 * 2 + 1), "c": 5}


def test_convolutions_are_looked_at_position_by_position() -> None:
    pattern = NOfM(layout(w=(1, 4, 1, 2)), 2, 4)
    scores = torch.tensor([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]]).view(1, 4, 1, 2)
    # Position 0 keeps inputs 2 and 3, position 1 inputs 0 and 1.
    assert ones(pattern.top(scores, 4)) == [1, 3, 4, 6]


def test_runs_are_of_one_unit() -> None:
    pattern = NOfM(layout(w=(2, 4)), 2, 4)
    assert ones(pattern.top(torch.tensor([[5.0, 6, 7, 8], [1, 2, 3, 4]]), 4)) == [2, 3, 6, 7]


def test_growth_finds_room_only_in_runs_that_are_not_full() -> None:
    kept = row(1, 1, 0, 0, 0, 0, 0, 0).bool()
    scores = row(0, 0, 9, 8, 1, 2, 3, 4)
    grown = two_of_four(8).grow(kept, scores, 2, ~kept)
    assert ones(grown) == [0, 1, 6, 7]


def test_growth_fills_a_run_with_its_best_candidate_alone() -> None:
    kept = row(0, 0, 0, 1, 0, 0, 0, 0).bool()
    scores = row(9, 8, 7, 0, 1, 2, 3, 4)
    assert ones(two_of_four(8).grow(kept, scores, 1, ~kept)) == [0, 3]
    # A place that is no candidate cannot take the room from another.
    candidates = ~kept & ~row(1, 0, 0, 0, 0, 0, 0, 1).bool()
    assert ones(two_of_four(8).grow(kept, scores, 3, candidates)) == [1, 3, 5, 6]


def test_n_of_m_ranks_what_it_admits_across_layers() -> None:
    pattern = NOfM(layout(a=(1, 4), b=(1, 4)), 2, 4)
    scores = {"a": row(9, 8, 7, 6), "b": row(1, 2, 5, 3)}
    masks = pattern.top_global(scores, 3)
    assert (ones(masks["a"]), ones(masks["b"])) == ([0, 1], [2])


# Kernels

KERNELS = Kernels(layout(a=(2, 2, 1, 2), b=(1, 3)))
"""Four kernels of two weights, and three single weights."""
KERNEL_SCORES = {"a": torch.tensor([[5.0, 1.0], [4.0, 2.0]]), "b": row(3.0, 0.5, 6.0)}


def test_kernels_are_scored_by_their_mean() -> None:
    scores = {"a": torch.tensor([6.0, 4, 0, 2, 1, 7, 2, 2]).view(2, 2, 1, 2), "b": row(3, 0.5, 6)}
    found = KERNELS.scores(scores)
    assert found["a"].tolist() == KERNEL_SCORES["a"].tolist()
    assert torch.equal(found["b"], scores["b"])


def test_kernels_are_kept_whole() -> None:
    items = {"a": torch.tensor([[True, False], [False, True]]), "b": row(0, 1, 0).bool()}
    masks = KERNELS.expand(items)
    assert ones(masks["a"]) == [0, 1, 6, 7] and ones(masks["b"]) == [1]
    again = KERNELS.kept(masks)
    assert all(torch.equal(again[name], items[name]) for name in items)
    assert KERNELS.layer_counts({"a": 3, "b": 2}) == {"a": 6, "b": 2}
    assert KERNELS.grain == 2


def test_kernels_are_ranked_together_until_the_next_one_does_not_fit() -> None:
    # 5 and 6 are reserved: 2 + 1 weights. 4 makes it 5, 3 makes it 6, and 2 would make it 8.
    kept = KERNELS.top_global(KERNEL_SCORES, 6)
    assert ones(kept["a"]) == [0, 2] and ones(kept["b"]) == [0, 2]
    # What is left of 7 goes to a single weight, though its score is smaller.
    kept = KERNELS.top_global(KERNEL_SCORES, 7)
    assert ones(kept["a"]) == [0, 2] and ones(kept["b"]) == [0, 1, 2]


def test_what_is_out_for_good_does_not_come_back_to_fill_a_budget() -> None:
    scores = {"a": KERNEL_SCORES["a"], "b": row(3.0, -math.inf, 6.0)}
    kept = KERNELS.top_global(scores, 7)
    assert ones(kept["a"]) == [0, 2] and ones(kept["b"]) == [0, 2]
    scores["a"] = torch.tensor([[5.0, -math.inf], [4.0, -math.inf]])
    assert ones(KERNELS.top_global(scores, 11)["a"]) == [0, 2]


def test_scores_that_are_nan_are_an_error() -> None:
    scores = {"a": torch.full((2, 2), math.nan), "b": row(1, 2, 3)}
    with pytest.raises(TopologyError, match="NaN"):
        KERNELS.top_global(scores, 7)


# Units

FLAT = Units(
    layout(
        (
            UnitGroup("a", 2, ("a",), (("b", 2),), ("a.bias",)),
            UnitGroup("b", 3, ("b",), (("c", 1),), ("b.bias",)),
        ),
        a=(2, 1, 2, 2),
        b=(3, 4),
        c=(2, 3),
    )
)
"""A convolution whose two channels of two pixels are flattened, three neurons, two logits."""
SUM = Units(
    layout((UnitGroup("p", 2, ("p", "q"), (("q", 1), ("r", 1)), ()),), p=(2, 3), q=(2, 2), r=(1, 2))
)
"""h = p(x); h + q(h) is read by r: p's units and q's are the same."""


def test_a_unit_takes_its_rows_and_its_columns_behind_a_flatten_with_it() -> None:
    masks = FLAT.expand({"a": torch.tensor([False, True]), "b": torch.tensor([True, False, True])})
    assert ones(masks["a"]) == [4, 5, 6, 7]
    # Rows 0 and 2, columns 2 and 3 (of unit 1).
    assert masks["b"].int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert masks["c"].int().tolist() == [[1, 0, 1], [1, 0, 1]]


def test_units_of_a_residual_sum_vanish_together() -> None:
    masks = SUM.expand({"p": torch.tensor([False, True])})
    assert masks["p"].int().tolist() == [[0, 0, 0], [1, 1, 1]]
    assert masks["q"].int().tolist() == [[0, 0], [0, 1]]
    assert masks["r"].int().tolist() == [[0, 1]]


def test_gates_of_units_multiply() -> None:
    gates = FLAT.expand({"a": torch.tensor([0.5, 1.0]), "b": torch.tensor([1.0, 0.0, 0.2])})
    torch.testing.assert_close(gates["b"][2], torch.tensor([0.1, 0.1, 0.2, 0.2]))
    torch.testing.assert_close(gates["c"], torch.tensor([[1.0, 0.0, 0.2]] * 2))


def test_units_are_counted_by_weights() -> None:
    assert FLAT.layer_counts({"a": 1, "b": 2}) == {"a": 4, "b": 2 * 2, "c": 2 * 2}
    assert FLAT.total({"a": 2, "b": 3}) == 8 + 12 + 6
    assert SUM.layer_counts({"p": 1}) == {"p": 3, "q": 1, "r": 1}
    # Full, a channel has 4 weights of its own and 3 * 2 behind it; a neuron 4 + 2.
    assert FLAT.grain == 10
    assert SUM.grain == (6 + 4 + 2) - (3 + 1 + 1)


def test_a_unit_is_scored_by_the_mean_of_its_layers_means() -> None:
    found = SUM.scores(
        {
            "p": torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]),
            "q": torch.tensor([[4.0, 8.0], [2.0, 6.0]]),
            "r": torch.tensor([[10.0, 20.0]]),
        }
    )
    # Rows of p: 2, 0. Rows of q: 6, 4. Columns of q: 3, 7. Columns of r: 10, 20.
    assert found["p"].tolist() == [(2 + 6 + 3 + 10) / 4, (0 + 4 + 7 + 20) / 4]


def test_columns_behind_a_flatten_are_scored_in_runs() -> None:
    scores = {"a": torch.zeros(2, 1, 2, 2), "b": torch.tensor([[1.0, 3, 5, 9]] * 3)}
    found = FLAT.scores({**scores, "c": torch.zeros(2, 3)})
    assert found["a"].tolist() == [(0 + 2) / 2, (0 + 7) / 2]
    assert found["b"].tolist() == [4.5 / 2] * 3


def test_scores_of_units_count_for_the_layers_that_make_them() -> None:
    found = SUM.scores({"p": torch.tensor([1.0, 2.0]), "q": torch.tensor([5.0, 4.0]),
                        "r": torch.tensor([9.0])})  # fmt: skip
    assert found["p"].tolist() == [3.0, 3.0]


def test_units_are_ranked_across_layers_by_what_they_cost_now() -> None:
    scores = {"a": torch.tensor([1.0, 9.0]), "b": torch.tensor([2.0, 3.0, 8.0])}
    # Reserved: one each, 4 + 2 + 2 = 8 weights. A second neuron costs 2 + 2, the other channel
    # 4 + 2 * 2 on top of that.
    for budget, expected in ((8, (1, 1)), (11, (1, 1)), (12, (1, 2)), (16, (1, 3)), (26, (2, 3))):
        kept = FLAT.top_global(scores, budget)
        assert (int(kept["a"].sum()), int(kept["b"].sum())) == expected
    assert ones(FLAT.top_global(scores, 12)["b"]) == [1, 2]


def test_networks_without_hidden_units_are_refused() -> None:
    with pytest.raises(TopologyError, match="granularity: unit needs .* hidden units"):
        Units(layout(w=(2, 3)))


@pytest.mark.parametrize(
    ("granularity", "kind"), [("weight", Weights), ("kernel", Kernels), ("unit", Units)]
)
def test_a_pattern_has_the_name_of_its_granularity(granularity: str, kind: type) -> None:
    assert type(build_pattern(granularity, FLAT.layout)) is kind


def test_n_and_m_are_read_in_this_order() -> None:
    pattern = build_pattern("1:16", layout(w=(1, 32)))
    assert isinstance(pattern, NOfM) and (pattern.n, pattern.m) == (1, 16)


# Sweeps


@st.composite
def networks(draw: Any) -> Layout:
    """Two convolutions with a residual sum, a flatten of k pixels, two linear layers."""
    inputs, channels, k, hidden = (draw(st.integers(1, 5)) for _ in range(4))
    groups = (
        UnitGroup("a", channels, ("a", "b"), (("b", 1), ("c", k)), ()),
        UnitGroup("c", hidden, ("c",), (("d", 1),), ()),
    )
    return layout(
        groups,
        a=(channels, inputs, 3, 2),
        b=(channels, channels, 1, 1),
        c=(hidden, channels * k),
        d=(3, hidden),
    )


GRANULARITIES = st.sampled_from(["weight", "kernel", "unit", "2:4", "1:3"])


@settings(max_examples=150, deadline=None)
@given(networks(), GRANULARITIES, st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_a_global_ranking_leaves_no_room_for_another_item(
    network: Layout, granularity: str, seed: int, share: float
) -> None:
    pattern = build_pattern(granularity, network)
    generator = torch.Generator().manual_seed(seed)
    scores = pattern.scores(
        {n: torch.rand(shape, generator=generator) for n, shape in network.items()}
    )
    least = pattern.total(dict.fromkeys(pattern.items, 1))
    budget = round(least + share * (pattern.total(pattern.items) - least))
    items = pattern.top_global(scores, budget)
    masks, counts = pattern.expand(items), count_ones(items)
    assert count_ones(masks) == pattern.layer_counts(counts)
    assert sum(count_ones(masks).values()) == pattern.total(counts) <= budget
    assert budget - pattern.total(counts) < pattern.grain
    for kind, count in counts.items():
        assert 1 <= count <= pattern.items[kind]
        if count < pattern.items[kind]:
            assert pattern.total({**counts, kind: count + 1}) > budget
    again = pattern.kept(masks)
    assert all(torch.equal(again[kind], items[kind]) for kind in items)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 14), st.sampled_from([(1, 2), (2, 4), (1, 4), (2, 5)]),
       st.integers(0, 10_000), st.data())  # fmt: skip
def test_n_of_m_drops_and_grows_within_its_runs(
    units: int, inputs: int, n_m: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    pattern = NOfM(layout(w=(units, inputs, 2)), *n_m)
    generator = torch.Generator().manual_seed(seed)

    def scores() -> Tensor:
        return torch.randint(0, 4, (units, inputs, 2), generator=generator).float()

    capacity = pattern.items["w"]
    start = data.draw(st.integers(0, capacity))
    mask = pattern.top(scores(), start)
    kept = pattern.top(scores(), data.draw(st.integers(0, start)), mask)
    assert not (kept & ~mask).any()
    after = data.draw(st.integers(int(kept.sum()), capacity))
    grown = pattern.grow(kept, scores(), after - int(kept.sum()), ~kept)
    assert int(grown.sum()) == after and not (kept & ~grown).any()
    for found in (mask, grown):
        assert all(int(run.sum(1).max()) <= n_m[0] for run in found.split(n_m[1], dim=1))
