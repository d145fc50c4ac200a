"""What is kept or pruned as a whole: single weights, kernels, units, or N of every M weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from spaces.sparsity import n_of_m
from trainers.errors import TopologyError
from trainers.topology.base import Tensors
from trainers.topology.items import Pattern
from trainers.topology.layout import Layout
from trainers.topology.masks import Masks, global_top_k, top_k_mask
from trainers.wiring import UnitGroup


class Weights(Pattern):
    """Every weight by itself."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.items = {name: self.capacity(shape) for name, shape in layout.items()}
        self.layers = {name: name for name in layout}

    @property
    def population(self) -> dict[str, int]:
        """All weights."""
        return {name: shape.numel() for name, shape in self.layout.items()}

    def capacity(self, shape: torch.Size) -> int:
        """Most weights that a layer may keep."""
        return shape.numel()

    def scores(self, scores: Tensors) -> dict[str, Tensor]:
        """The scores themselves."""
        return dict(scores)

    def kept(self, masks: Mapping[str, Tensor]) -> Masks:
        """The masks themselves."""
        return dict(masks)

    def expand(self, items: Mapping[str, Tensor]) -> Masks:
        """The values themselves."""
        return dict(items)

    def layer_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The counts themselves."""
        return dict(counts)

    def top_global(self, scores: Mapping[str, Tensor], budget: int) -> Masks:
        """Exactly `budget` weights, at least one in each layer."""
        return global_top_k(scores, budget)


class NOfM(Weights):
    """At most N of every M weights that a unit reads from consecutive inputs (M channels, say).

    A last, shorter run of inputs keeps at most N too. Conv2d kernels are looked at position by
    position, as accelerators with 2:4 sparsity want it.
    """

    must_regrow = True

    def __init__(self, layout: Layout, n: int, m: int) -> None:
        self.n, self.m = n, m
        super().__init__(layout)

    def capacity(self, shape: torch.Size) -> int:
        """Most weights that a layer may keep."""
        runs, rest = divmod(shape[1], self.m)
        return (shape.numel() // shape[1]) * (runs * self.n + min(rest, self.n))

    def top(self, scores: Tensor, k: int, allowed: Tensor | None = None) -> Tensor:
        """The k best weights of a layer that the pattern admits."""
        return top_k_mask(scores, k, self._admitted(scores, allowed))

    def grow(self, kept: Tensor, scores: Tensor, num: int, candidates: Tensor) -> Tensor:
        """The weights kept, and the `num` best candidates for which their runs have room."""
        admitted = self._admitted(scores.masked_fill(kept, math.inf), kept | candidates)
        return kept | top_k_mask(scores, num, admitted & candidates & ~kept)

    def admits(self, name: str, mask: Tensor, masks: Mapping[str, Tensor]) -> bool:
        """Whether no run of a layer keeps more than N weights."""
        return torch.equal(self._admitted(mask.float(), mask), mask)

    def top_global(self, scores: Mapping[str, Tensor], budget: int) -> Masks:
        """Exactly `budget` weights that the pattern admits, at least one in each layer."""
        admitted = {name: self._admitted(score) for name, score in scores.items()}
        return global_top_k(scores, budget, admitted)

    def _admitted(self, scores: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The N best of each run; of equal scores the one with the lowest index."""
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -math.inf)
        by_input = scores.movedim(1, -1)
        num_inputs = by_input.shape[-1]
        padding = -num_inputs % self.m
        runs = torch.nn.functional.pad(by_input, (0, padding), value=-math.inf)
        runs = runs.unflatten(-1, (-1, self.m))
        best = runs.argsort(dim=-1, descending=True, stable=True)[..., : self.n]
        chosen = torch.zeros_like(runs, dtype=torch.bool).scatter_(-1, best, True)
        admitted = chosen.flatten(-2)[..., :num_inputs].movedim(-1, 1)
        return admitted if allowed is None else admitted & allowed


class Kernels(Pattern):
    """The weights that join one input channel to one output channel; single weights in Linear."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.items = {name: shape[:2].numel() for name, shape in layout.items()}
        self.layers = {name: name for name in layout}
        self.sizes = {name: shape[2:].numel() for name, shape in layout.items()}
        self.grain = max(self.sizes.values())

    def scores(self, scores: Tensors) -> dict[str, Tensor]:
        """Means over kernels."""
        return {name: score.flatten(2).mean(2) if score.ndim > 2 else score
                for name, score in scores.items()}  # fmt: skip

    def kept(self, masks: Mapping[str, Tensor]) -> Masks:
        """A kernel is kept when one of its weights is."""
        return {name: mask.flatten(2).any(2) if mask.ndim > 2 else mask
                for name, mask in masks.items()}  # fmt: skip

    def expand(self, items: Mapping[str, Tensor]) -> Masks:
        """The kernel's value for each of its weights."""
        found: Masks = {}
        for name, value in items.items():
            shape = self.layout[name]
            found[name] = value.reshape(*shape[:2], *[1] * (len(shape) - 2)).expand(shape).clone()
        return found

    def layer_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Kernels times their size."""
        return {name: count * self.sizes[name] for name, count in counts.items()}


class _Place(NamedTuple):
    """Where a layer's weights are in the units: groups of its rows and columns, or None."""

    rows: str | None
    columns: str | None
    columns_per_unit: int


class Units(Pattern):
    """Channels or neurons, each with its incoming and its outgoing weights.

    A weight is kept when both its units are. A unit's score is the mean, over the layers that it
    belongs to, of the mean score of its weights there.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        if not layout.groups:
            raise TopologyError(
                "granularity: unit needs a network with hidden units that can be pruned, and this "
                "one has none: use granularity: weight, or a model with hidden layers"
            )
        self.items = {group.name: group.size for group in layout.groups}
        self.layers = {group.name: group.producers[0] for group in layout.groups}
        rows = {name: g.name for g in layout.groups for name in g.producers}
        columns = {name: (g.name, k) for g in layout.groups for name, k in g.consumers}
        self.places = {
            name: _Place(rows.get(name), *columns.get(name, (None, 1))) for name in layout
        }
        full = self.total(self.items)
        self.grain = max(full - self.total({**self.items, n: k - 1}) for n, k in self.items.items())

    def scores(self, scores: Tensors) -> dict[str, Tensor]:
        """Means of means; scores of units, (n_out,), count for the layers that make the units."""
        return {group.name: torch.stack(self._parts(group, scores)).mean(0)
                for group in self.layout.groups}  # fmt: skip

    @staticmethod
    def _parts(group: UnitGroup, scores: Tensors) -> list[Tensor]:
        incoming = [scores[name] for name in group.producers]
        outgoing = [scores[name] for name, _ in group.consumers]
        parts = [score if score.ndim == 1 else score.flatten(1).mean(1) for score in incoming]
        by_unit = (s.movedim(1, 0).reshape(group.size, -1) for s in outgoing if s.ndim > 1)
        return parts + [score.mean(1) for score in by_unit]

    def kept(self, masks: Mapping[str, Tensor]) -> Masks:
        """A unit is kept when it has an incoming weight."""
        return {g.name: masks[g.producers[0]].flatten(1).any(1) for g in self.layout.groups}

    def expand(self, items: Mapping[str, Tensor]) -> Masks:
        """The product of the values of a weight's two units."""
        like = next(iter(items.values()))
        found: Masks = {}
        for name, place in self.places.items():
            value = torch.ones(self.layout[name], dtype=like.dtype, device=like.device)
            trailing = [1] * (value.ndim - 2)
            if place.rows is not None:
                value = value * items[place.rows].view(-1, 1, *trailing)
            if place.columns is not None:
                columns = items[place.columns].repeat_interleave(place.columns_per_unit)
                value = value * columns.view(1, -1, *trailing)
            found[name] = value
        return found

    def gate(self, items: Mapping[str, Tensor]) -> Masks:
        """The value of the unit that a weight reads; those that make a unit have none.

        That gates the unit's output, and so one that is off can still be told what it would be
        worth: with its incoming weights gated too, the gradient at a gate of 0 would be 0.
        """
        like = next(iter(items.values()))
        found: Masks = {}
        for name, place in self.places.items():
            value = torch.ones(self.layout[name], dtype=like.dtype, device=like.device)
            if place.columns is not None:
                columns = items[place.columns].repeat_interleave(place.columns_per_unit)
                value = value * columns.view(1, -1, *[1] * (value.ndim - 2))
            found[name] = value
        return found

    def layer_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Rows times columns times kernel size."""
        found: dict[str, int] = {}
        for name, place in self.places.items():
            rows, columns, *kernel = self.layout[name]
            if place.rows is not None:
                rows = counts[place.rows]
            if place.columns is not None:
                columns = counts[place.columns] * place.columns_per_unit
            found[name] = rows * columns * math.prod(kernel)
        return found


def build_pattern(granularity: str, layout: Layout) -> Pattern:
    """The pattern of a config's granularity."""
    pattern = n_of_m(granularity)
    if pattern is not None:
        return NOfM(layout, *pattern)
    kinds: dict[str, Callable[[Layout], Pattern]] = {
        "weight": Weights,
        "kernel": Kernels,
        "unit": Units,
    }
    return kinds[granularity](layout)
