"""From scores to masks of a given density: what is ranked (pattern) against what (distribution)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from spaces.sparsity import SparseConfig
from trainers.errors import TopologyError
from trainers.topology.base import Shapes, Tensors
from trainers.topology.distributions import density_ratios, fill, spread, weight_budget
from trainers.topology.layout import Layout
from trainers.topology.masks import Masks
from trainers.topology.patterns import build_pattern


class Selection:
    """Chooses the best items of a network by the pattern and the distribution of a config.

    Raises TopologyError when the config's density is impossible for the network.
    """

    def __init__(self, config: SparseConfig, shapes: Shapes) -> None:
        self.config, self.layout = config, Layout.of(shapes)
        self.pattern = build_pattern(config.granularity, self.layout)
        self.grain = self.pattern.grain
        self.by_unit = config.granularity == "unit"
        self._smallest = self.pattern.total(dict.fromkeys(self.pattern.items, 1))
        self._largest = self.pattern.total(self.pattern.items)
        self._budget(config.density)
        self._final = {} if self.is_global else self._filled(config.density)

    @property
    def is_global(self) -> bool:
        """Whether all layers are ranked together."""
        return str(self.config.distribution) == "global"

    def total(self, density: float) -> int:
        """Weights kept: exact, but for a global ranking of items of several weights.

        Of those, fewer than `grain` may be missing.
        """
        counts = self.counts(density)
        return self._affordable(density) if counts is None else sum(counts.values())

    def counts(self, density: float) -> dict[str, int] | None:
        """Weights kept by each layer, or None when a ranking across layers decides."""
        if self.is_global:
            return None
        return self.pattern.layer_counts(self.item_counts(density))

    def item_counts(self, density: float) -> dict[str, int]:
        """Items kept of each kind, by the config's distribution; never more at a lower density."""
        counts = self._spread(density)
        # What the last budget has room for is there before, so that nothing has to come back.
        return {kind: max(count, self._final[kind]) for kind, count in counts.items()}

    def select(
        self, scores: Tensors, density: float, within: Mapping[str, Tensor] | None = None
    ) -> Masks:
        """Masks of the items with the best scores; those outside the masks `within` come last."""
        return self.select_items(self.pattern.scores(scores), density, within)

    def select_items(
        self, scores: Tensors, density: float, within: Mapping[str, Tensor] | None = None
    ) -> Masks:
        """The same, from scores of items."""
        if within is not None:
            kept = self.pattern.kept(within)
            scores = {name: s.masked_fill(~kept[name], -math.inf) for name, s in scores.items()}
        return self.pattern.expand(self.items(scores, density))

    def items(self, scores: Tensors, density: float) -> Masks:
        """The items with the best scores."""
        if self.is_global:
            return self.pattern.top_global(scores, self._affordable(density))
        counts = self.item_counts(density)
        return {name: self.pattern.top(s, counts[name]) for name, s in scores.items()}

    def check_pattern(self, masks: Mapping[str, Tensor]) -> None:
        """Raise TopologyError unless given masks (a ticket's) keep to the config's granularity."""
        for name, mask in masks.items():
            if not self.pattern.admits(name, mask, masks):
                raise TopologyError(
                    f"the given mask of {name} does not keep to topology.granularity: "
                    f"{self.config.granularity}: give masks that do, or use granularity: weight"
                )

    def _shares(self) -> dict[str, float]:
        ratios = density_ratios(self.config.distribution, self.layout, self.config.layer_ratios)
        sizes, layers = self.pattern.population, self.pattern.layers
        return {kind: ratios[layer] * sizes[kind] for kind, layer in layers.items()}

    def _spread(self, density: float) -> dict[str, int]:
        budget = self._affordable(density)
        return spread(budget, self._shares(), self.pattern.items, self.pattern.total)

    def _filled(self, density: float) -> dict[str, int]:
        shares, items = self._shares(), self.pattern.items
        return fill(
            self._spread(density),
            items,
            self._affordable(density),
            self.pattern.total,
            lambda kind, count: -(count + 0.5) / shares[kind],
        )

    def _budget(self, density: float) -> int:
        return weight_budget(density, self.layout, smallest=self._smallest, largest=self._largest)

    def _affordable(self, density: float) -> int:
        """The budget, of densities on the way to the config's too, which no pattern may admit."""
        return min(round(density * self.layout.num_weights), self._largest)
