"""How a budget of weights is shared out among layers, exact to the weight."""

from __future__ import annotations

import math

import torch

from spaces.topology import Distribution
from trainers.errors import TopologyError
from trainers.topology.base import Shapes


def weight_budget(density: float, shapes: Shapes) -> int:
    """Number of weights that `density` keeps: round(density * total), at least one per layer.

    Raises TopologyError when the budget has fewer weights than there are layers.
    """
    total = sum(shape.numel() for shape in shapes.values())
    budget = round(density * total)
    if budget < len(shapes):
        # Rounded up to six decimals, so that the number in the message works when it is used.
        smallest = min(1.0, math.ceil(len(shapes) / total * 1e6) / 1e6)
        raise TopologyError(
            f"topology.density: {density:g} keeps {budget} of {total} weights, but each of the "
            f"{len(shapes)} layers needs at least one: the smallest possible density here is "
            f"{smallest:g}; raise density or make the model wider"
        )
    return budget


def layer_counts(density: float, distribution: Distribution, shapes: Shapes) -> dict[str, int]:
    """Number of weights that each layer keeps.

    The sum is exactly round(density * total); each count is between 1 and the layer's size.
    uniform: the same density everywhere. erdos_renyi: density proportional to
    (n_in + n_out) / (n_in * n_out) (Mocanu et al. 2018). erk: to sum(shape) / prod(shape), kernel
    sides included (Evci et al. 2020, appendix). Layers that would exceed density 1 are made dense
    and the others share the rest in the same proportions.
    Raises TopologyError when there are fewer weights than layers.
    """
    budget = weight_budget(density, shapes)
    ratios = {name: _relative_density(distribution, shape) for name, shape in shapes.items()}
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    return _round_to_budget(_shares(budget, ratios, sizes), sizes, budget)


def _relative_density(distribution: Distribution, shape: torch.Size) -> float:
    if distribution == "uniform":
        return 1.0
    sides = shape[:2] if distribution == "erdos_renyi" else shape
    return sum(sides) / math.prod(sides)


def _shares(budget: int, ratios: dict[str, float], sizes: dict[str, int]) -> dict[str, float]:
    """Real-valued counts e * ratio * size, with e such that they sum to the budget."""
    dense: set[str] = set()
    while True:
        free = [name for name in sizes if name not in dense]
        left = budget - sum(sizes[name] for name in dense)
        e = left / sum(ratios[name] * sizes[name] for name in free) if free else 0.0
        overfull = {name for name in free if e * ratios[name] > 1.0}
        if not overfull:
            return {n: float(sizes[n]) if n in dense else e * ratios[n] * sizes[n] for n in sizes}
        # Filling one layer leaves more for the others, so no full layer ever becomes free again.
        dense |= overfull


def _round_to_budget(
    shares: dict[str, float], sizes: dict[str, int], budget: int
) -> dict[str, int]:
    """Largest remainder within 1 <= count <= size; of equals the earlier layer changes."""
    counts = {name: min(max(int(share), 1), sizes[name]) for name, share in shares.items()}

    def remainder(name: str) -> float:
        return shares[name] - counts[name]

    while (missing := budget - sum(counts.values())) != 0:
        if missing > 0:
            counts[max((n for n in sizes if counts[n] < sizes[n]), key=remainder)] += 1
        else:
            counts[min((n for n in sizes if counts[n] > 1), key=remainder)] -= 1
    return counts
