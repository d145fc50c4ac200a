"""The seam of what is kept or pruned as a whole, and the ranking of such items across kinds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trainers.topology.base import Tensors
from trainers.topology.distributions import fill
from trainers.topology.layout import Layout
from trainers.topology.masks import Masks, top_k_mask


class Pattern(ABC):
    """Groups of weights that are kept or pruned as a whole: items, of several kinds.

    A kind is a layer, or a group of units; its items have one score and one bool each. `items` is
    how many of a kind can be kept at most, `layers` the layer whose share of a distribution a kind
    takes, and `grain` how many weights the largest item has.
    """

    items: dict[str, int]
    layers: dict[str, str]
    grain: int = 1
    must_regrow = False
    """Whether a dropped item may be the only one that can take its own place."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @property
    def population(self) -> dict[str, int]:
        """How many items of each kind there are, whether or not all can be kept."""
        return self.items

    @abstractmethod
    def scores(self, scores: Tensors) -> dict[str, Tensor]:
        """Scores of items from those of weights, or of the units of each layer, (n_out,)."""

    @abstractmethod
    def kept(self, masks: Mapping[str, Tensor]) -> Masks:
        """Which items are kept under masks of weights."""

    @abstractmethod
    def expand(self, items: Mapping[str, Tensor]) -> Masks:
        """A value for each weight from one for each item: masks from bools, gates from floats."""

    def gate(self, items: Mapping[str, Tensor]) -> Masks:
        """What each weight is multiplied by so that each item has its value as a gate.

        The gradient is that of the gate, for items that are off too.
        """
        return self.expand(items)

    def admits(self, name: str, mask: Tensor, masks: Mapping[str, Tensor]) -> bool:
        """Whether the mask of a layer, one of `masks`, keeps whole items, and not too many."""
        return torch.equal(self.expand(self.kept(masks))[name], mask)

    @abstractmethod
    def layer_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Number of weights that each layer keeps when so many items of each kind are kept."""

    def total(self, counts: Mapping[str, int]) -> int:
        """Number of weights kept when so many items of each kind are kept."""
        return sum(self.layer_counts(counts).values())

    def top(self, scores: Tensor, k: int, allowed: Tensor | None = None) -> Tensor:
        """The k best items of one kind."""
        return top_k_mask(scores, k, allowed)

    def grow(self, kept: Tensor, scores: Tensor, num: int, candidates: Tensor) -> Tensor:
        """The items kept, and the `num` best candidates of the same kind."""
        return kept | top_k_mask(scores, num, allowed=candidates)

    def top_global(self, scores: Mapping[str, Tensor], budget: int) -> Masks:
        """The best items of all kinds together, in order, for as long as `budget` weights last.

        Each kind keeps its best item in any case. What is left when the next item does not fit goes
        to the best of those that do. Items with score -inf stay out even then.
        """
        reserved = {name: top_k_mask(score, 1) for name, score in scores.items()}
        joined = torch.cat([s.masked_select(~reserved[n]) for n, s in scores.items()])
        kinds = torch.cat(
            [
                torch.full((s.numel() - 1,), i, device=s.device)
                for i, s in enumerate(scores.values())
            ]
        )
        order = joined.argsort(descending=True, stable=True)
        ranked = kinds[order][: int((joined > -math.inf).sum())]
        places = {name: (ranked == i).nonzero().flatten() for i, name in enumerate(scores)}
        limits = {name: 1 + len(found) for name, found in places.items()}

        def counts(k: int) -> dict[str, int]:
            return {name: 1 + int(torch.searchsorted(p, k)) for name, p in places.items()}

        def worth(name: str, count: int) -> float:
            return -float(places[name][count - 1])

        k = _largest(lambda k: self.total(counts(k)) <= budget, len(ranked))
        found = fill(counts(k), limits, budget, self.total, worth)
        return {name: self.top(scores[name], count) for name, count in found.items()}


def _largest(fits: Callable[[int], bool], end: int) -> int:
    """The largest k in [0, end] that fits; smaller ones fit too, and 0 is taken to."""
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
