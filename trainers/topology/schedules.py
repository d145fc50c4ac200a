"""When drop/grow methods update, how much they drop, and how many weights that leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from spaces.topology import DropSchedule

DEFAULT_INTERVAL, MIN_UPDATES = 100, 5


def interval(update_every: int | None, span: int) -> int:
    """Steps between two updates in `span` steps: as given; else 100, but at least five updates."""
    if update_every is not None:
        return update_every
    return max(min(DEFAULT_INTERVAL, span // MIN_UPDATES), 1)


def update_steps(update_every: int | None, update_end: float, total_steps: int) -> range:
    """Multiples of the interval up to round(update_end * total_steps).

    The last training step is left out: weights grown there would never be trained.
    """
    last = min(round(update_end * total_steps), total_steps - 1)
    every = interval(update_every, last)
    return range(every, last + 1, every)


def drop_fraction(schedule: DropSchedule, initial: float, progress: float) -> float:
    """Share of a layer's weights to drop, at `progress` in [0, 1].

    0 is the first update, where all schedules give `initial`; 1 is the first update that no longer
    takes place, where cosine and linear reach 0, so that the last update still moves something.
    cosine: initial / 2 * (1 + cos(pi * progress)) (Evci et al. 2020, section 3).
    """
    if schedule == "constant":
        return initial
    if schedule == "linear":
        return initial * (1.0 - progress)
    return initial / 2.0 * (1.0 + math.cos(math.pi * progress))


class LayerUpdate(NamedTuple):
    """One update of one layer, and the weights kept after it; a plan's first entry is the start."""

    step: int
    num_drop: int
    num_grow: int
    count_after: int


def plan_layer(
    size: int,
    final_count: int,
    updates: Sequence[tuple[int, float]],
    *,
    regrowth_rate: float,
    may_regrow: bool,
) -> tuple[LayerUpdate, ...]:
    """What a layer of `size` weights does at each update so as to end with exactly `final_count`.

    updates: (step, drop fraction) in order. Counts follow from the end: an update with fraction f
    that grows r weights per weight dropped takes k to k * (1 - f * (1 - r)), so k_before is
    k_after / (1 - f * (1 - r)), rounded and kept within [1, size]. Where that binds, the layer
    starts dense (or with one weight) and growth per drop differs from r for as long as it does.
    may_regrow: whether weights dropped in an update are candidates for growth in it.
    """
    counts = [final_count]
    for _, fraction in reversed(updates):
        before = round(counts[-1] / (1.0 - fraction * (1.0 - regrowth_rate)))
        counts.append(min(max(before, 1), size))
    counts.reverse()
    plan = [LayerUpdate(0, 0, 0, counts[0])]
    for (step, fraction), before, after in zip(updates, counts[:-1], counts[1:], strict=True):
        lost = before - after
        num_drop = max(int(fraction * before), lost)
        if not may_regrow:
            # Growth finds size - before free places, and needs num_drop - lost of them.
            num_drop = min(num_drop, size - after)
        plan.append(LayerUpdate(step, num_drop, num_drop - lost, after))
    return tuple(plan)
