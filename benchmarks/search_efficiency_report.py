"""Table and figure of benchmarks/search_efficiency.py.

uv run benchmarks/search_efficiency_report.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Search = tuple[float, Floats]
"""Seconds of a whole search; its steps: epochs, seconds and the share then reached."""


def searches(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[int, Search]]:
    """By variant and seed."""
    found: dict[str, dict[int, Search]] = {}
    for row in rows:
        steps = np.array(json.loads(row["steps"]), dtype=float).reshape(-1, 3)
        found.setdefault(row["variant"], {})[int(row["seed"])] = (float(row["seconds"]), steps)
    return found


def share_at(steps: Floats, epochs: float) -> float:
    """What had been reached after so many epochs."""
    return float(steps[steps[:, 0] <= epochs, 2].max(initial=0.0))


def needed(steps: Floats, goal: float, column: int) -> float:
    """Epochs (column 0) or seconds (1) until the goal was reached; infinite if it never was."""
    return float(steps[steps[:, 2] >= goal - 1e-9, column].min(initial=math.inf))


def report(rows: Sequence[Mapping[str, str]], variants: Sequence[str], budget: int) -> None:
    """Print what docs/search.md has."""
    found = searches(rows)
    base = found["random"]
    goals = {seed: share_at(steps, budget) for seed, (_, steps) in base.items()}
    mean_goal = float(np.mean(list(goals.values())))
    columns = ("final", "at 1/4", "epochs", "wall", "of means", "reached")
    print(f"{'':28s}" + "".join(f"{name:>10s}" for name in columns))
    for variant in variants:
        seeds = [seed for seed in found.get(variant, {}) if seed in goals]
        if not seeds:
            continue
        steps = {seed: found[variant][seed][1] for seed in seeds}
        epochs = [needed(steps[s], goals[s], 0) / budget for s in seeds]
        wall = [needed(steps[s], goals[s], 1) / base[s][0] for s in seeds]
        mean = {
            e: np.mean([share_at(steps[s], e) for s in seeds]) for e in range(10, budget + 1, 10)
        }
        figures = (
            np.mean([share_at(steps[s], budget) for s in seeds]),
            np.mean([share_at(steps[s], budget / 4) for s in seeds]),
            np.median(epochs),
            np.median(wall),
            min((e for e, value in mean.items() if value >= mean_goal - 1e-9), default=math.inf) / budget,
            np.isfinite(epochs).sum(),
        )  # fmt: skip
        print(f"{variant:28s}" + "".join(f"{value:10.3f}" for value in figures))
