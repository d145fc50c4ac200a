"""How a budget of weights is shared out among layers."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.errors import TopologyError
from trainers.topology.distributions import fill, layer_counts, spread, weight_budget


def shapes(*sides: tuple[int, ...]) -> dict[str, torch.Size]:
    return {f"layer{i}": torch.Size(s) for i, s in enumerate(sides)}


def counts(density: float, distribution: str, *sides: tuple[int, ...]) -> list[int]:
    return list(layer_counts(density, distribution, shapes(*sides)).values())


def test_uniform_is_the_same_density_everywhere() -> None:
    assert counts(0.1, "uniform", (20, 10), (10, 10), (5, 10)) == [20, 10, 5]


def test_uniform_rounds_to_the_nearest() -> None:
    # 0.3 * (7 + 7 + 9) = 6.9, so 7 weights: shares 2.1, 2.1, 2.7 -> 2, 2, 3.
    assert counts(0.3, "uniform", (7, 1), (7, 1), (9, 1)) == [2, 2, 3]


def test_equal_shares_favour_the_earlier_layer() -> None:
    # round(0.5 * 9) = 4: shares 1.5, 1.5, 1.5 and one weight is left over.
    assert counts(0.5, "uniform", (3, 1), (3, 1), (3, 1)) == [2, 1, 1]


def test_erdos_renyi_by_hand() -> None:
    # Weights per unit of e: (n_in + n_out) = 30, 15; total 250, budget 45 -> e = 1.
    assert counts(0.18, "erdos_renyi", (10, 20), (5, 10)) == [30, 15]


def test_erdos_renyi_ignores_kernels_and_erk_counts_them() -> None:
    # Layers: conv 4x2x3x3 (72 weights), linear 8x10 (80); budget round(0.25 * 152) = 38.
    # erdos_renyi: e * (6/8 * 72 = 54 and 18): shares 28.5, 9.5; the first remainder wins the tie.
    assert counts(0.25, "erdos_renyi", (4, 2, 3, 3), (8, 10)) == [29, 9]
    # erk: e * (12/72 * 72 = 12 and 18): shares 15.2, 22.8.
    assert counts(0.25, "erk", (4, 2, 3, 3), (8, 10)) == [15, 23]


def test_layers_beyond_density_one_are_dense_and_the_others_share_the_rest() -> None:
    # e * (200, 110, 12) = 0.3 * 10120 = 3036 -> e = 9.43: the 10 x 2 layer would need 113 of 20,
    # and the 10 x 10 layer 189 of 100: both are dense; the first gets 3036 - 120.
    assert counts(0.3, "erk", (100, 100), (10, 10), (10, 2)) == [2916, 100, 20]


def test_refilling_can_fill_another_layer() -> None:
    # e * (26, 8, 4) = 0.5 * 184 = 92 -> e = 2.42: only (2, 2) overflows: 9.7 > 4; 88 are left for
    # e * (26, 8) -> e = 2.59: (4, 4) now overflows: 20.7 > 16; 72 remain for the first.
    assert counts(0.5, "erk", (12, 14), (4, 4), (2, 2))[1:] == [16, 4]


@pytest.mark.parametrize("distribution", ["uniform", "erdos_renyi", "erk"])
def test_both_ends(distribution: str) -> None:
    sides = (6, 3, 3, 3), (10, 54), (4, 10)
    assert counts(1.0, distribution, *sides) == [162, 540, 40]
    assert counts(3 / 742, distribution, *sides) == [1, 1, 1]


def test_an_impossible_density_names_the_smallest_possible_one() -> None:
    with pytest.raises(TopologyError, match=r"topology.density: 1e-05 keeps 0 of 742 .*3 layers"):
        counts(1e-5, "erk", (6, 3, 3, 3), (10, 54), (4, 10))


sides = st.one_of(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5)),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(sides, min_size=1, max_size=8),
    st.floats(1e-4, 1.0),
    st.sampled_from(["uniform", "erdos_renyi", "erk"]),
)
def test_the_sum_is_exact_and_each_layer_within_bounds(
    layers: list[tuple[int, ...]], density: float, distribution: str
) -> None:
    named = shapes(*layers)
    total = sum(math.prod(s) for s in layers)
    try:
        result = layer_counts(density, distribution, named)
    except TopologyError as error:
        assert round(density * total) < len(layers)
        smallest = float(re.search(r"possible density here is (\S+);", str(error)).group(1))
        assert weight_budget(smallest, named) >= len(layers)
        return
    assert sum(result.values()) == round(density * total)
    assert all(1 <= result[name] <= shape.numel() for name, shape in named.items())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(8, 60), st.integers(8, 60)), min_size=2, max_size=6),
       st.floats(0.1, 1.0))  # fmt: skip
def test_erk_ratios_hold_between_layers_that_are_not_full(
    layers: list[tuple[int, int]], density: float
) -> None:
    result = layer_counts(density, "erk", shapes(*layers)).values()
    e = [
        (count - slack) / sum(side)
        for count, side in zip(result, layers, strict=True)
        if count < math.prod(side)
        for slack in (-1, 1)
    ]
    # Every free layer's count is within one of e * (n_in + n_out), with one e for all.
    assert not e or max(e[1::2]) <= min(e[0::2]) + 1e-9


def searched(density: float, ratios: tuple[float, ...], *sides: tuple[int, ...]) -> list[int]:
    return list(layer_counts(density, "searched", shapes(*sides), ratios).values())


def test_searched_densities_are_in_the_given_proportions() -> None:
    # 0.2 * 400 = 80 = e * (3 * 100 + 1 * 100 + 2 * 200) -> e = 0.1: densities 0.3, 0.1, 0.2.
    assert searched(0.2, (3.0, 1.0, 2.0), (10, 10), (10, 10), (10, 20)) == [30, 10, 40]
    # Only proportions count.
    assert searched(0.2, (0.3, 0.1, 0.2), (10, 10), (10, 10), (10, 20)) == [30, 10, 40]


def test_a_layer_that_would_be_more_than_full_leaves_the_rest_to_the_others() -> None:
    # 150 = e * (4 * 100 + 1 * 100) would give the first 120: it is full, and 50 are left.
    assert searched(0.75, (4.0, 1.0), (10, 10), (10, 10)) == [100, 50]


def test_searched_needs_a_ratio_for_each_layer() -> None:
    with pytest.raises(TopologyError, match=r"layer_ratios has 1 .* 2 layers.*layer0, layer1"):
        searched(0.5, (1.0,), (2, 2), (2, 2))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(sides, st.floats(1e-6, 1e6)), min_size=1, max_size=8),
       st.floats(0.0, 1.0), st.data())  # fmt: skip
def test_searched_counts_are_exact_to_the_weight(
    layers: list[tuple[tuple[int, ...], float]], share: float, data: st.DataObject
) -> None:
    limits = {str(i): math.prod(side) for i, (side, _) in enumerate(layers)}
    shares = {str(i): ratio * math.prod(side) for i, (side, ratio) in enumerate(layers)}
    budget = round(len(layers) + share * (sum(limits.values()) - len(layers)))
    counts = spread(budget, shares, limits)
    assert sum(counts.values()) == budget
    assert all(1 <= counts[name] <= limit for name, limit in limits.items())
    # Nobody is more than a rounding away from its share of one common e.
    low = [(counts[n] - 0.5) / shares[n] for n in limits if counts[n] > 1]
    high = [(counts[n] + 0.5) / shares[n] for n in limits if counts[n] < limits[n]]
    assert not low or not high or max(low) <= min(high) * (1 + 1e-9)
    # A smaller budget gives no layer more: what gradual pruning has cut does not come back.
    smaller = spread(data.draw(st.integers(len(layers), budget)), shares, limits)
    assert all(smaller[name] <= counts[name] for name in limits)


def test_largest_remainders_would_give_more_for_less() -> None:
    # The Alabama paradox: shares of 10 are 4.29, 4.29, 1.43, of 11 they are 4.71, 4.71, 1.57.
    # Largest remainders give the third layer 2 of 10 weights, but 1 of 11.
    sizes = {"a": 6, "b": 6, "c": 2}
    assert spread(10, sizes, sizes) == {"a": 5, "b": 4, "c": 1}
    assert spread(11, sizes, sizes) == {"a": 5, "b": 5, "c": 1}


def units_of(counts: dict[str, int]) -> int:
    return 2 * counts["a"] + counts["a"] * counts["b"]


def test_items_are_bought_together_and_the_rest_goes_to_what_fits() -> None:
    shares, limits = {"a": 4.0, "b": 4.0}, {"a": 4, "b": 4}
    # e * 4: two each cost 4 + 4; a third a would be 6 + 6, a third b 4 + 6.
    assert spread(10, shares, limits, units_of) == {"a": 2, "b": 2}
    assert spread(11, shares, limits, units_of) == {"a": 2, "b": 2}
    assert spread(12, shares, limits, units_of) == {"a": 3, "b": 2}

    def worth(kind: str, count: int) -> float:
        return -(count + 0.5) / shares[kind]

    found = fill({"a": 2, "b": 2}, limits, 11, units_of, worth)
    assert found == {"a": 2, "b": 3}
    assert fill({"a": 2, "b": 2}, {"a": 4, "b": 2}, 11, units_of, worth) == {"a": 2, "b": 2}
    # Both fit: what is worth more comes first, and then nothing else fits.
    assert fill({"a": 2, "b": 2}, limits, 12, units_of, lambda kind, count: kind == "a") == {
        "a": 3, "b": 2,
    }  # fmt: skip
    assert fill({"a": 2, "b": 2}, limits, 12, units_of, lambda kind, count: kind == "b") == {
        "a": 2, "b": 4,
    }  # fmt: skip


def test_more_than_a_pattern_admits_is_refused_with_what_is_possible() -> None:
    message = r"0.5 keeps 50 of 100 weights, but topology.granularity admits 40 .*0.4 or less"
    with pytest.raises(TopologyError, match=message):
        weight_budget(0.5, shapes((10, 10)), largest=40)
    assert weight_budget(0.4, shapes((10, 10)), largest=40) == 40
