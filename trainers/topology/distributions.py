"""How a budget of weights is shared out among layers, exact to the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from spaces.sparsity import Distribution
from trainers.errors import TopologyError
from trainers.topology.base import Shapes


def weight_budget(
    density: float, shapes: Shapes, *, smallest: int | None = None, largest: int | None = None
) -> int:
    """Number of weights that `density` keeps: round(density * total).

    smallest, largest: what is possible; one per layer, and all, by default. Raises TopologyError
    when the budget is not between them.
    """
    total = sum(shape.numel() for shape in shapes.values())
    budget = round(density * total)
    smallest = len(shapes) if smallest is None else smallest
    if budget < smallest:
        # Rounded up to six decimals, so that the number in the message works when it is used.
        possible = min(1.0, math.ceil(smallest / total * 1e6) / 1e6)
        raise TopologyError(
            f"topology.density: {density:g} keeps {budget} of {total} weights, but it takes "
            f"{smallest} to leave something in each of the {len(shapes)} layers: the smallest "
            f"possible density here is {possible:g}; raise density or make the model wider"
        )
    if largest is not None and budget > largest:
        raise TopologyError(
            f"topology.density: {density:g} keeps {budget} of {total} weights, but "
            f"topology.granularity admits {largest} in layers of these shapes: lower density to "
            f"{math.floor(largest / total * 1e6) / 1e6:g} or less"
        )
    return budget


def layer_counts(
    density: float,
    distribution: Distribution,
    shapes: Shapes,
    layer_ratios: Sequence[float] = (),
) -> dict[str, int]:
    """Number of weights that each layer keeps; the sum is exactly round(density * total).

    Raises TopologyError when there are fewer weights than layers.
    """
    budget = weight_budget(density, shapes)
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    ratios = density_ratios(distribution, shapes, layer_ratios)
    shares = {name: ratios[name] * size for name, size in sizes.items()}
    return spread(budget, shares, sizes)


def density_ratios(
    distribution: Distribution, shapes: Shapes, layer_ratios: Sequence[float] = ()
) -> dict[str, float]:
    """The density of each layer, relative to the others.

    uniform: the same. erdos_renyi: (n_in + n_out) / (n_in * n_out) (Mocanu et al. 2018). erk:
    sum(shape) / prod(shape), kernel sides included (Evci et al. 2020, appendix). searched: as given
    in `layer_ratios`; TopologyError when there is not one for each layer.
    """
    if distribution == "searched":
        if len(layer_ratios) != len(shapes):
            raise TopologyError(
                f"topology.layer_ratios has {len(layer_ratios)} values, but the network has "
                f"{len(shapes)} layers with weights ({', '.join(shapes)}): give one value for each"
            )
        return dict(zip(shapes, layer_ratios, strict=True))
    if distribution == "uniform":
        return dict.fromkeys(shapes, 1.0)
    sides = {
        n: shape[:2] if distribution == "erdos_renyi" else shape for n, shape in shapes.items()
    }
    return {name: sum(side) / math.prod(side) for name, side in sides.items()}


def spread(
    budget: int,
    shares: Mapping[str, float],
    limits: Mapping[str, int],
    total: Callable[[Mapping[str, int]], int] = lambda counts: sum(counts.values()),
) -> dict[str, int]:
    """How many items of each kind a budget of weights buys, in proportion to `shares`.

    Each count is e * share, rounded to the nearest within 1 and its limit, with e as large as the
    budget allows; of kinds that would gain an item at the same e, the earlier ones do. A smaller
    budget therefore never gives more of any kind (Webster's method; largest remainders would).
    `total`: the weights that counts keep. Where items are single weights they are `budget`, else
    fewer by less than the next item has.
    """

    def counts(e: float) -> dict[str, int]:
        return {
            kind: min(max(math.floor(e * share + 0.5), 1), limits[kind])
            for kind, share in shares.items()
        }

    low, high = 0.0, max(limits[kind] / share for kind, share in shares.items())
    if total(counts(high)) <= budget:
        return counts(high)
    while low < (middle := (low + high) / 2.0) < high:
        low, high = (middle, high) if total(counts(middle)) <= budget else (low, middle)
    found = counts(low)
    for kind, count in counts(high).items():
        if total({**found, kind: count}) > budget:
            break
        found[kind] = count
    return found


def fill(
    counts: Mapping[str, int],
    limits: Mapping[str, int],
    budget: int,
    total: Callable[[Mapping[str, int]], int],
    worth: Callable[[str, int], float],
) -> dict[str, int]:
    """Further items for as long as one fits into the budget: the next one of most worth first.

    worth: (kind, how many of it there are already) -> what one more is worth.
    """
    found = dict(counts)
    while True:
        fitting = [
            kind
            for kind, count in found.items()
            if count < limits[kind] and total({**found, kind: count + 1}) <= budget
        ]
        if not fitting:
            return found
        found[max(fitting, key=lambda kind: worth(kind, found[kind]))] += 1
