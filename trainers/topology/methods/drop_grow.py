"""Dynamic sparse training: drop some weights, grow others, again and again."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right

import torch
from torch import Tensor

from spaces.topology import DropGrowConfig
from trainers.errors import TopologyError
from trainers.topology.base import Shapes, Signals, TopologyMethod
from trainers.topology.criteria import DROP, GROW, item_scores
from trainers.topology.masks import Masks, count_ones, random_scores
from trainers.topology.schedules import drop_fraction, plan_layer, update_steps
from trainers.topology.selection import Selection


class DropGrow(TopologyMethod):
    """Starts from random masks; at each update, in each layer, drops and grows as planned.

    What is dropped and grown are the items of the config's granularity: weights, kernels or units.
    `plan[kind]` lists the updates of a kind of item, its start first; it depends on the config, the
    layout and total_steps alone. Of active items with equal scores the lowest indices are kept.
    """

    def __init__(self, config: DropGrowConfig, shapes: Shapes, total_steps: int) -> None:
        self.drop, self.grow = DROP[config.drop], GROW[config.grow]
        self.inputs = self.drop.inputs | self.grow.inputs
        self.selection = Selection(config, shapes)
        self.pattern, self.grain = self.selection.pattern, self.selection.grain
        self.by_unit = self.selection.by_unit
        self.may_return = self.may_regrow or self.pattern.must_regrow
        self.steps = update_steps(config.update_every, config.update_end, total_steps)
        if not self.steps and total_steps > 2:
            raise TopologyError(
                f"topology.update_every: {config.update_every} and update_end: "
                f"{config.update_end:g} leave no update in {total_steps} training steps: lower "
                "update_every, or leave it out, and give update_end more than a few steps; for "
                "masks that never change use method: static"
            )
        updates = [
            (step, drop_fraction(config.drop_schedule, config.drop_fraction, i / len(self.steps)))
            for i, step in enumerate(self.steps)
        ]
        final_counts = self.selection.item_counts(config.density)
        self.plan = {
            kind: plan_layer(
                size,
                final_counts[kind],
                updates,
                regrowth_rate=config.regrowth_rate,
                may_regrow=self.may_return,
            )
            for kind, size in self.pattern.items.items()
        }

    @property
    @abstractmethod
    def may_regrow(self) -> bool:
        """Whether an item dropped in an update is a candidate for growth in the same update."""

    def init_masks(self, signals: Signals, generator: torch.Generator) -> Masks:
        """Uniformly random places within each layer."""
        scores = {n: random_scores(w, generator) for n, w in signals["weights"].items()}
        counts = self._item_counts(0)
        items = self.pattern.scores(scores).items()
        return self.pattern.expand({kind: self.pattern.top(s, counts[kind]) for kind, s in items})

    def is_update_step(self, step: int) -> bool:
        """Whether `step` is a multiple of the interval, in time and not the last."""
        return step in self.steps

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """Keep the best active items, then add the best candidates."""
        worth = item_scores(self.drop, signals, generator, self.pattern, by_unit=self.by_unit)
        promise = self.growth_scores(signals, generator)
        found: Masks = {}
        for kind, active in self.pattern.kept(masks).items():
            update = self.plan[kind][bisect_right(self.steps, step)]
            assert update.step == step, f"step {step} is not an update step"
            kept = self.pattern.top(worth[kind], update.count_after - update.num_grow, active)
            found[kind] = self.grown(kept, active, promise[kind], update.num_grow, generator)
        return self.pattern.expand(found)

    def growth_scores(self, signals: Signals, generator: torch.Generator) -> dict[str, Tensor]:
        """What candidates are ranked by."""
        return item_scores(self.grow, signals, generator, self.pattern, by_unit=self.by_unit)

    def grown(
        self, kept: Tensor, active: Tensor, scores: Tensor, num: int, generator: torch.Generator
    ) -> Tensor:
        """The items kept and `num` more; `active` are those before the drop."""
        return self.pattern.grow(kept, scores, num, ~kept if self.may_return else ~active)

    def planned_total(self, step: int) -> int:
        """Sum of `planned_counts`."""
        return sum(self.planned_counts(step).values())

    def planned_counts(self, step: int) -> dict[str, int]:
        """Counts after the latest update up to `step`."""
        return self.pattern.layer_counts(self._item_counts(step))

    def check_start(self, masks: Masks) -> None:
        """Raise TopologyError unless each layer starts with the count that the plan starts from."""
        self.selection.check_pattern(masks)
        given, planned = count_ones(masks), self.planned_counts(0)
        for name, count in planned.items():
            if given[name] != count:
                raise TopologyError(
                    f"the given masks keep {given[name]} weights of {name}, but the drop/grow plan "
                    f"starts with {count}: give masks with the counts of topology.density and "
                    "topology.distribution (and regrowth_rate: 1), or use method: static to train "
                    "a ticket again with its masks fixed"
                )

    def _item_counts(self, step: int) -> dict[str, int]:
        index = bisect_right(self.steps, step)
        return {kind: updates[index].count_after for kind, updates in self.plan.items()}
