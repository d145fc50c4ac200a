"""In which order trials at a rung come, when several figures count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
_WINDOW, _WIDEST = 1 / 5, 51
"""What is usual at a cost is the median over this share of the trials, over so many at most."""


@dataclass(frozen=True)
class Figures:
    """What n trials at a rung are ordered by; lower is better throughout.

    losses: (n, m), what training still moves. costs: (n, k), known from the start; k may be 0.
    violations: (n,), by how much each misses its constraints; 0 is feasible.
    """

    losses: Floats
    costs: Floats
    violations: Floats


def pareto_places(figures: Figures, asked: Sequence[int], reduction_factor: int) -> list[int]:
    """How many trials come before each of those `asked` for.

    Exact for places within the first max(1, n // reduction_factor), which go on; others are told
    some place beyond. Feasible trials come first, the others follow by their violation. Feasible
    ones are ordered by their Pareto fronts and within a front by an epsilon-net (Schmucker et al.
    2021, with ranks and normalisation set right): the one nearest to the ideal point, then always
    the one that is farthest from those before it. Equal trials share a place. With costs, losses
    are taken over what trials of like cost have, so that a cheap network is not compared with dear
    ones, and cannot hide behind its price; what many others beat in everything comes after them.
    """
    feasible = np.flatnonzero(figures.violations <= 0.0)
    quota = max(1, len(figures.violations) // reduction_factor)
    places = len(feasible) + _num_less(figures.violations)
    if len(feasible):
        losses, costs = figures.losses[feasible], figures.costs[feasible]
        places[feasible] = _places_in_fronts(losses - _expected(losses, costs), quota)
    table = np.hstack([figures.losses, figures.costs])
    return [
        _with_whole_rung(table[feasible], table[index], int(places[index]), quota)
        if figures.violations[index] <= 0.0
        else int(places[index])
        for index in asked
    ]


def _num_less(violations: Floats) -> Ints:
    """How many infeasible trials have a smaller violation."""
    return np.searchsorted(np.sort(violations[violations > 0.0]), violations, "left")


def _with_whole_rung(table: Floats, own: Floats, place: int, quota: int) -> int:
    """The place of a trial by its peers, set right where all trials agree on it."""
    if (own <= table).all():
        return 0  # as good as all others in everything
    if place >= quota:
        return place
    dominating = (table <= own).all(axis=1) & (table < own).any(axis=1)
    return max(place, num) if (num := int(dominating.sum())) >= quota else place


def _expected(losses: Floats, costs: Floats) -> Floats:
    """What is usual at a trial's cost: the median over the fifth of the trials nearest to it."""
    n = len(losses)
    costs = costs[:, np.ptp(costs, axis=0) > 0.0]
    if costs.shape[1] == 0 or n < 3:
        return np.zeros_like(losses)
    # Ranks, so that no scale of costs matters; several costs weigh alike.
    position = np.argsort(np.argsort(costs, axis=0, kind="stable"), axis=0).mean(axis=1)
    order = np.argsort(position, kind="stable")
    width = min(max(3, int(np.ceil(n * _WINDOW))), _WIDEST)
    starts = np.clip(np.arange(n) - width // 2, 0, n - width)
    expected = np.empty_like(losses)
    windows = np.lib.stride_tricks.sliding_window_view(losses[order], width, axis=0)
    expected[order] = np.median(windows, axis=-1)[starts]
    return expected


def _places_in_fronts(losses: Floats, quota: int) -> Ints:
    """Places of all trials; beyond `quota`, trials of a front share one."""
    ranks = moocore.pareto_rank(losses) if len(losses) > 1 else np.zeros(1, dtype=np.intp)
    before = np.searchsorted(np.sort(ranks), ranks, "left")
    for rank in np.unique(ranks[before < quota]):
        front = np.flatnonzero(ranks == rank)
        before[front] += _places_in_net(losses[front], quota)
    return before


def _places_in_net(points: Floats, limit: int) -> Ints:
    """Places of points in the epsilon-net of their front, as far as they are within `limit`."""
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    places = np.full(len(points), limit)
    chosen = int(np.argmin(scaled.sum(axis=1)))
    distance, place = np.full(len(points), np.inf), 0
    while place < limit and distance.max() > 0.0:
        twins = (points == points[chosen]).all(axis=1)
        places[twins] = place
        place += int(twins.sum())
        distance = np.minimum(distance, ((scaled - scaled[chosen]) ** 2).sum(axis=1))
        distance[twins] = 0.0
        chosen = int(np.argmax(distance))
    return places
