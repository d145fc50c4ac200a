"""From scores to masks: density, distribution and granularity together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.topology import GmpConfig, StaticConfig
from trainers.errors import TopologyError
from trainers.topology.layout import Layout
from trainers.topology.masks import count_ones
from trainers.topology.selection import Selection
from trainers.wiring import UnitGroup

SHAPES = {"a": torch.Size((4, 2, 1, 2)), "b": torch.Size((3, 8)), "c": torch.Size((2, 3))}
GROUPS = (
    UnitGroup("a", 4, ("a",), (("b", 2),), ()),
    UnitGroup("b", 3, ("b",), (("c", 1),), ()),
)
LAYOUT = Layout(SHAPES, GROUPS)
"""Four channels of two pixels, three neurons, two logits: 16 + 24 + 6 = 46 weights."""


def selection(density: float, granularity: str, distribution: str = "global") -> Selection:
    config = GmpConfig(density=density, granularity=granularity, distribution=distribution)
    return Selection(config, LAYOUT)


def random_scores(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}


def test_uniform_units_by_hand() -> None:
    # 0.5 * 46 = 23 weights. Of 4 channels and 3 neurons e = 0.5 gives 2.5 -> 2 and 2 (1.5 is
    # rounded up): 2 * 4 + 2 * 4 + 2 * 2 = 20. A third channel adds 4 + 4, a third neuron 4 + 2.
    chosen = selection(0.5, "unit", "uniform")
    assert chosen.item_counts(0.5) == {"a": 2, "b": 2}
    assert chosen.counts(0.5) == {"a": 8, "b": 8, "c": 4}
    assert chosen.total(0.5) == 20 and chosen.grain == 4 + 2 * 3
    # At 26 weights a third neuron fits, though a third channel is next in order.
    assert selection(26 / 46, "unit", "uniform").item_counts(26 / 46) == {"a": 2, "b": 3}


def test_on_the_way_there_is_at_least_what_stays_in_the_end() -> None:
    # The final 26 weights have three neurons; 27 alone would have two, and lose one to regain it.
    chosen = selection(26 / 46, "unit", "uniform")
    assert chosen.item_counts(27 / 46) == {"a": 2, "b": 3}


def test_uniform_kernels_by_hand() -> None:
    # 23 of 46 weights: kernels of 2 in a, of 1 elsewhere. e = 0.5 gives 4, 12 and 3 items.
    chosen = selection(0.5, "kernel", "uniform")
    assert chosen.item_counts(0.5) == {"a": 4, "b": 12, "c": 3}
    assert chosen.counts(0.5) == {"a": 8, "b": 12, "c": 3}


def test_two_of_four_counts_weights() -> None:
    # a has two inputs only, all of which a run may keep; b and c admit half and two thirds.
    chosen = selection(0.5, "2:4", "uniform")
    assert chosen.pattern.items == {"a": 16, "b": 12, "c": 4}
    assert chosen.counts(0.5) == {"a": 8, "b": 12, "c": 3}


def test_a_global_budget_is_exact_for_weights_only() -> None:
    assert selection(0.5, "weight").total(0.5) == 23
    assert selection(0.5, "weight").counts(0.5) is None
    assert selection(0.5, "unit").total(0.5) == 23  # at most; less than `grain` is missing


@pytest.mark.parametrize(
    ("granularity", "smallest"), [("weight", 3), ("kernel", 4), ("unit", 4 + 2 + 2), ("2:4", 3)]
)
def test_the_smallest_density_leaves_one_item_of_each_kind(granularity: str, smallest: int) -> None:
    chosen = selection(smallest / 46, granularity)
    masks = chosen.select(random_scores(0), smallest / 46)
    assert sum(count_ones(masks).values()) == smallest
    with pytest.raises(TopologyError, match=f"takes {smallest} to leave something in each"):
        selection((smallest - 0.6) / 46, granularity)


def test_more_than_a_pattern_admits_is_refused() -> None:
    shapes = {"w": torch.Size((1, 7))}
    config = StaticConfig(density=0.25, granularity="1:4")
    assert Selection(config, shapes).total(0.25) == 2
    # Spaces refuse such a density already; a config of your own may not.
    with pytest.raises(TopologyError, match="granularity admits 2 .* lower density to 0.285714"):
        Selection(config.model_copy(update={"density": 0.5}), shapes)


def test_plain_shapes_have_no_units() -> None:
    with pytest.raises(TopologyError, match="granularity: unit needs"):
        Selection(GmpConfig(density=0.5, granularity="unit"), SHAPES)


def test_what_is_outside_comes_last() -> None:
    chosen = selection(0.5, "weight", "uniform")
    scores = random_scores(1)
    within = chosen.select(scores, 0.5)
    turned = {name: -score for name, score in scores.items()}
    assert all(
        not (mask & ~within[name]).any()
        for name, mask in chosen.select(turned, 0.5, within=within).items()
    )


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["weight", "kernel", "unit", "2:4", "1:2"]),
    st.sampled_from(["global", "uniform", "erdos_renyi", "erk"]),
    st.floats(0.2, 0.5),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6),
    st.integers(0, 1000),
)
def test_falling_densities_never_bring_anything_back(
    granularity: str, distribution: str, density: float, shares: list[float], seed: int
) -> None:
    chosen = selection(density, granularity, distribution)
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    for i, share in enumerate(sorted([0.0, *shares], reverse=True)):
        now = density + share * (1.0 - density)
        before, masks = masks, chosen.select(random_scores(seed + i), now, within=masks)
        counts = count_ones(masks)
        total, planned = sum(counts.values()), chosen.total(now)
        assert planned - chosen.grain < total <= planned
        assert chosen.counts(now) in (None, counts)
        assert all(not (masks[name] & ~before[name]).any() for name in masks)
    budget = round(density * 46)
    assert budget - chosen.grain < sum(counts.values()) <= budget
