"""In which order trials at a rung come, when several figures count."""

from __future__ import annotations

from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_WINDOW = 1 / 5


@dataclass(frozen=True)
class Figures:
    """What n trials at a rung are ordered by; lower is better throughout.

    losses: (n, m), what training still moves. costs: (n, k), known from the start; k may be 0.
    violations: (n,), by how much each misses its constraints; 0 is feasible.
    """

    losses: Floats
    costs: Floats
    violations: Floats


def pareto_place(figures: Figures, index: int, reduction_factor: int) -> int:
    """How many trials come before the one at `index`.

    Feasible ones come first, the others follow by their violation. Feasible ones are ordered by
    their Pareto fronts and within a front by an epsilon-net (Schmucker et al. 2021, with ranks and
    normalisation set right): the one nearest to the ideal point, then always the one that is
    farthest from those before it. Equal trials share a place. With costs, losses are taken over
    what trials of like cost have, so that a cheap network is not compared with dear ones, and
    cannot hide behind its price.
    """
    violation = figures.violations[index]
    feasible = figures.violations <= 0.0
    if violation > 0.0:
        return int(feasible.sum() + ((figures.violations < violation) & ~feasible).sum())
    own = int(feasible[:index].sum())
    losses = figures.losses[feasible]
    if _is_best(losses, figures.costs[feasible], own):
        return 0
    relative = losses - _expected(losses, figures.costs[feasible])
    ranks = moocore.pareto_rank(relative) if len(relative) > 1 else np.zeros(1, dtype=int)
    before = int((ranks < ranks[own]).sum())
    quota = max(1, len(figures.violations) // reduction_factor)
    front = np.flatnonzero(ranks == ranks[own])
    if before < quota:
        before += _place_in_net(relative[front], int(np.flatnonzero(front == own)[0]), quota)
    return before


def _is_best(losses: Floats, costs: Floats, own: int) -> bool:
    """Whether a trial is as good as all others in everything: it is first, whoever its peers."""
    table = np.hstack([losses, costs])
    return bool((table[own] <= table).all())


def _expected(losses: Floats, costs: Floats) -> Floats:
    """What is usual at a trial's cost: the median over the fifth of the trials nearest to it."""
    n = len(losses)
    if costs.shape[1] == 0 or n < 3:
        return np.zeros_like(losses)
    # Ranks, so that no scale of costs matters; several costs weigh alike.
    position = np.argsort(np.argsort(costs, axis=0, kind="stable"), axis=0).mean(axis=1)
    order = np.argsort(position, kind="stable")
    width = max(3, int(np.ceil(n * _WINDOW)))
    starts = np.clip(np.arange(n) - width // 2, 0, n - width)
    expected = np.empty_like(losses)
    windows = np.lib.stride_tricks.sliding_window_view(losses[order], width, axis=0)
    expected[order] = np.median(windows, axis=-1)[starts]
    return expected


def _place_in_net(points: Floats, own: int, limit: int) -> int:
    """Place of a point in the epsilon-net of its front, as far as it is within `limit`."""
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    twins = (points == points[own]).all(axis=1)
    chosen = int(np.argmin(scaled.sum(axis=1)))
    distance = np.full(len(points), np.inf)
    for place in range(min(limit, len(points))):
        if twins[chosen]:
            return place
        distance = np.minimum(distance, ((scaled - scaled[chosen]) ** 2).sum(axis=1))
        chosen = int(np.argmax(distance))
    return limit
