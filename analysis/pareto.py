"""Pareto sets: which of several results no other one beats on every objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import pandas as pd

from spaces.base import ConfigError
from spaces.metrics import Direction, metric

Values = Sequence[Sequence[float]] | np.ndarray
Record = Mapping[str, object]


def nondominated(values: Values, directions: Sequence[Direction]) -> list[bool]:
    """Which rows no other row dominates: at least as good everywhere and better somewhere.

    `values` is (num_points, num_objectives); equal rows do not dominate each other, so all of
    them are kept. ValueError names a value that is not a number, or a row of another length.
    """
    points = _points(values, directions)
    if not len(points):
        return []
    maximise = [direction == "maximize" for direction in directions]
    kept = moocore.is_nondominated(points, maximise=maximise, keep_weakly=True)
    return [bool(flag) for flag in kept]


def hypervolume(
    values: Values, directions: Sequence[Direction], reference: Sequence[float]
) -> float:
    """Volume that the points dominate, up to the `reference` point (the worst value that counts).

    In the product of the objectives' units. Points that are not better than the reference in
    every objective add nothing.
    """
    points = _points(values, directions)
    _points([reference], directions)
    if not len(points):
        return 0.0
    maximise = [direction == "maximize" for direction in directions]
    return float(moocore.hypervolume(points, ref=list(reference), maximise=maximise))


def contributions(
    values: Values, directions: Sequence[Direction], reference: Sequence[float]
) -> list[float]:
    """By how much less the points dominate without each of them: what it alone dominates.

    0 for one of two equal points, and for those that add nothing to the hypervolume.
    """
    points = _points(values, directions)
    whole = hypervolume(points, directions, reference)
    return [
        max(0.0, whole - hypervolume(np.delete(points, row, axis=0), directions, reference))
        for row in range(len(points))
    ]


def knee(values: Values, directions: Sequence[Direction]) -> int:
    """Index of the point nearest to the utopia point; the first one when several are as near.

    Every objective is scaled so that its best value here is 0 and its worst is 1; the distance is
    Euclidean. An objective in which all points agree plays no part.
    """
    points = _points(values, directions)
    if not len(points):
        raise ValueError("a knee needs at least one point, but there are none")
    costs = points * [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    best, worst = costs.min(axis=0), costs.max(axis=0)
    span = np.where(worst > best, worst - best, 1.0)
    return int(np.linalg.norm((costs - best) / span, axis=1).argmin())


def pareto_front(
    records: Sequence[Record] | pd.DataFrame,
    objectives: Sequence[str] | Mapping[str, Direction],
) -> list[Record] | pd.DataFrame:
    """The records that no other one dominates, in their order; a data frame gives a data frame.

    `objectives` names metrics of docs/contract.md, whose directions are known, or maps names of
    your own to "maximize" or "minimize".
    """
    names = list(objectives)
    if not names:
        raise ValueError("objectives is empty: name at least one, for example verified_accuracy")
    directions = _directions(objectives)
    rows = records.to_dict("records") if isinstance(records, pd.DataFrame) else list(records)
    for index, row in enumerate(rows):
        absent = [name for name in names if name not in row]
        if absent:
            raise ValueError(
                f"record {index} has no {', '.join(absent)}; it has: {', '.join(map(str, row))}"
            )
    keep = nondominated([[row[name] for name in names] for row in rows], directions)
    if isinstance(records, pd.DataFrame):
        return records.loc[keep]
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


def direction_of(name: str) -> Direction:
    """Which way an objective is better; ConfigError for an unknown name or one without a better."""
    direction = metric(name).direction
    if direction == "none":
        raise ConfigError(f"{name} cannot be an objective: neither more nor less is better")
    return direction


def _directions(objectives: Sequence[str] | Mapping[str, Direction]) -> list[Direction]:
    if isinstance(objectives, Mapping):
        return list(objectives.values())
    return [direction_of(name) for name in objectives]


def _points(values: Values, directions: Sequence[Direction]) -> np.ndarray:
    for direction in directions:
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"direction is {direction!r}: use 'maximize' or 'minimize'")
    if any(len(row) != len(directions) for row in values):
        index, row = next((i, r) for i, r in enumerate(values) if len(r) != len(directions))
        raise ValueError(f"point {index} has {len(row)} values for {len(directions)} objectives")
    points = np.asarray(values, dtype=np.float64).reshape(-1, len(directions))
    if not np.isfinite(points).all():
        row_index, column = (int(i) for i in np.argwhere(~np.isfinite(points))[0])
        value = points[row_index, column]
        what = "not a number" if math.isnan(value) else "infinite"
        raise ValueError(
            f"point {row_index} is {what} in objective {column}: only finite values can be "
            "compared, so leave such points out"
        )
    return points
