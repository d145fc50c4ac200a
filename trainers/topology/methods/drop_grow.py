"""Dynamic sparse training: drop some weights, grow others, again and again."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right

import torch

from spaces.topology import DropGrowConfig
from trainers.errors import TopologyError
from trainers.topology.base import Shapes, Signals, TopologyMethod
from trainers.topology.criteria import DROP, GROW
from trainers.topology.distributions import layer_counts
from trainers.topology.masks import Masks, count_ones, random_masks, top_k_mask
from trainers.topology.schedules import drop_fraction, plan_layer, update_steps


class DropGrow(TopologyMethod):
    """Starts from random masks; at each update, in each layer, drops and grows as planned.

    `plan[name]` lists the layer's updates, its start first; it depends on the config, the shapes
    and total_steps alone. Of active weights with equal scores the lowest indices are kept.
    """

    def __init__(self, config: DropGrowConfig, shapes: Shapes, total_steps: int) -> None:
        self.drop, self.grow = DROP[config.drop], GROW[config.grow]
        self.inputs = self.drop.inputs | self.grow.inputs
        self.steps = update_steps(config.update_every, config.update_end, total_steps)
        updates = [
            (step, drop_fraction(config.drop_schedule, config.drop_fraction, i / len(self.steps)))
            for i, step in enumerate(self.steps)
        ]
        final_counts = layer_counts(config.density, config.distribution, shapes)
        self.plan = {
            name: plan_layer(
                shape.numel(),
                final_counts[name],
                updates,
                regrowth_rate=config.regrowth_rate,
                may_regrow=self.may_regrow,
            )
            for name, shape in shapes.items()
        }

    @property
    @abstractmethod
    def may_regrow(self) -> bool:
        """Whether a weight dropped in an update is a candidate for growth in the same update."""

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """Uniformly random places within each layer."""
        return random_masks(self.planned_counts(0), signals["weights"], generator)

    def is_update_step(self, step: int) -> bool:
        """Whether `step` is a multiple of update_every, in time and not the last."""
        return step in self.steps

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """Keep the best active weights, then add the best candidates."""
        new_masks: Masks = {}
        for name, mask in masks.items():
            update = self.plan[name][bisect_right(self.steps, step)]
            assert update.step == step, f"step {step} is not an update step"
            num_kept = update.count_after - update.num_grow
            kept = top_k_mask(self.drop.score(name, signals, generator), num_kept, allowed=mask)
            candidates = ~kept if self.may_regrow else ~mask
            score = self.grow.score(name, signals, generator)
            new_masks[name] = kept | top_k_mask(score, update.num_grow, allowed=candidates)
        return new_masks

    def planned_total(self, step: int) -> int:
        """Sum of `planned_counts`."""
        return sum(self.planned_counts(step).values())

    def planned_counts(self, step: int) -> dict[str, int]:
        """Counts after the latest update up to `step`."""
        index = bisect_right(self.steps, step)
        return {name: updates[index].count_after for name, updates in self.plan.items()}

    def check_start(self, masks: Masks) -> None:
        """Raise TopologyError unless each layer starts with the count that the plan starts from."""
        given, planned = count_ones(masks), self.planned_counts(0)
        for name, count in planned.items():
            if given[name] != count:
                raise TopologyError(
                    f"the given masks keep {given[name]} weights of {name}, but the drop/grow plan "
                    f"starts with {count}: give masks with the counts of topology.density and "
                    "topology.distribution (and regrowth_rate: 1), or use method: static to train "
                    "a ticket again with its masks fixed"
                )
