"""Table and figure of benchmarks/search_efficiency.py.

uv run benchmarks/search_efficiency_report.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
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
        grid = np.arange(10, budget + 1, 10)
        means = np.array([np.mean([share_at(steps[s], e) for s in seeds]) for e in grid])
        first = grid[means >= mean_goal - 1e-9].min(initial=budget * 99)
        figures = (
            np.mean([share_at(steps[s], budget) for s in seeds]),
            np.mean([share_at(steps[s], budget / 4) for s in seeds]),
            np.median(epochs),
            np.median(wall),
            first / budget if first <= budget else math.inf,
            np.isfinite(epochs).sum(),
        )  # fmt: skip
        print(f"{variant:28s}" + "".join(f"{value:10.3f}" for value in figures))


LINES = {
    "tpe + moasha": ("goldenticket", "black", "-", 2.6),
    "optunasearch": ("Ray's OptunaSearch,\nno stopping", "0.25", "-", 1.3),
    "random + asha on rung_score": ("random, Ray's ASHA\non one score", "0.4", (0, (6, 2)), 1.3),
    "random": ("random,\nno stopping", "0.45", "-", 2.2),
    "random + syne moasha": ("random, Syne\nTune's MOASHA", "0.55", (0, (1, 1.5)), 1.6),
}
"""What is drawn: label, grey, dashes, width."""

BANDS = {"tpe + moasha": ("0.6", "//"), "random": ("0.85", None)}


def draw(rows: Sequence[Mapping[str, str]], budget: int, path: Path) -> None:
    """Mean share of the hypervolume over epochs, with the middle half of the seeds for two."""
    found = searches(rows)
    epochs = np.arange(0, budget + 1, 15)
    figure, axes = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
    ends = []
    for variant, (label, grey, dashes, width) in LINES.items():
        steps = [search[1] for search in found[variant].values()]
        shares = 100 * np.array([[share_at(one, e) for e in epochs] for one in steps])
        mean = shares.mean(axis=0)
        axes.plot(epochs, mean, color=grey, linestyle=dashes, linewidth=width)
        if variant in BANDS:
            fill, hatch = BANDS[variant]
            low, high = np.percentile(shares, (25, 75), axis=0)
            axes.fill_between(epochs, low, high, color=fill, alpha=0.35, linewidth=0, hatch=hatch,
                              edgecolor="white")  # fmt: skip
        ends.append((mean[-1], label, grey))
        if variant == "random":
            axes.axhline(mean[-1], color="0.45", linewidth=0.8, linestyle=":")
    _label(axes, ends, budget)
    axes.axvline(budget / 4, color="0.45", linewidth=0.8, linestyle=":")
    axes.text(budget / 4 + 15, 41, "a quarter of\nthe epochs", fontsize=8, color="0.3")
    axes.set(xlim=(0, budget), ylim=(40, 100), xlabel="epochs of all trials",
             ylabel="hypervolume, % of the table's")  # fmt: skip
    title = f"Mean of {len(found['random'])} seeds; bands: the middle half of them"
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _label(axes: Axes, ends: list[tuple[float, str, str]], budget: int) -> None:
    """Names beside the ends of their lines, moved apart where they would touch."""
    height = math.inf
    for value, label, grey in sorted(ends, reverse=True):
        height = min(value + 1.5, height - 5.2)
        axes.annotate(
            label, (budget, value), (budget + 90, height), va="center", fontsize=8, color=grey,
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6},
        )  # fmt: skip
