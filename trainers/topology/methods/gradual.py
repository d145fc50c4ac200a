"""Gradual pruning: dense at first, then less and less."""

from __future__ import annotations

import torch

from spaces.topology import GradualConfig
from trainers.errors import TopologyError
from trainers.topology.base import Shapes, Signals
from trainers.topology.criteria import DROP, item_scores
from trainers.topology.masks import Masks
from trainers.topology.methods.dense_start import DenseStart, step_at
from trainers.topology.schedules import interval


class Gradual(DenseStart):
    """Prunes, at regular steps, what its criterion ranks last; pruned weights do not come back.

    Density falls from 1 to `density` as d + (1 - d) (1 - progress)^3 (Zhu and Gupta 2017, eq. 1).
    Serves three methods that differ by their criterion: gmp, magnitude (ibid.); stability, |w|
    weighted by how stable the ReLU of its unit is, or with granularity: unit the NRS of units alone
    (Li et al. 2022, arXiv:2206.07311); gap, the largest adversarial gradient first. For gap only an
    abstract is public: its schedule and its ranking are our reading, and its 8-bit step is left
    to export.
    """

    def __init__(self, config: GradualConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        self.criterion = DROP[config.drop]
        self.inputs = self.criterion.inputs | {"weights"}
        start, end = (step_at(share, total_steps) for share in (config.start, config.end))
        # The first pruning comes one interval after the start; the last one is at the end.
        every = interval(config.update_every, end - start)
        self.steps = sorted({*range(start + every, end, every), end})
        if len(self.steps) == 1 and end - start > 2:
            raise TopologyError(
                f"topology.update_every: {config.update_every} leaves a single cut in the "
                f"{end - start} steps from topology.start to topology.end: set it to "
                f"{(end - start) // 2} or less, or leave it out"
            )
        self.start, self.end = start, end

    def density_after(self, step: int) -> float:
        """The density of the latest pruning up to `step`."""
        done = [pruning for pruning in self.steps if pruning <= step]
        if not done:
            return 1.0
        if done[-1] == self.end:
            return self.density
        left = 1.0 - (done[-1] - self.start) / (self.end - self.start)
        return self.density + (1.0 - self.density) * left**3

    def is_update_step(self, step: int) -> bool:
        """Whether it is time to prune."""
        return step in self.steps

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """Keep the best of what is left."""
        pattern = self.selection.pattern
        scores = item_scores(self.criterion, signals, generator, pattern, by_unit=self.by_unit)
        return self.selection.select_items(scores, self.density_after(step), within=masks)
