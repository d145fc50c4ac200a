"""What early stopping saves: hypervolume against epochs, replayed on the recorded table.

    uv run benchmarks/search_efficiency.py [--seeds 30] [--trials 100]

Each search draws `--trials` rows of the table (benchmarks/recorded.py) in an order that its seed
fixes, and runs them on two workers that take the recorded seconds; a rule stops them at rungs.
Hypervolume is that of the completed trials with natural accuracy of at least 0.85: natural and
verified accuracy up (validation split, radius 0.1, ibp + crown-ibp + crown), log10 of the inference
FLOPs down, each over the range that the table has, reference at its worst corner. The question is
how many epochs a rule needs to reach what random search without stopping has at its end; a search
that stops early draws more rows within the same epochs, up to the whole table.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import heapq
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from rows import RESULTS

from search.rungs import Asha, Moasha, StoppingRule
from spaces.metrics import Constraint

TABLE = RESULTS / "recorded_rows.csv.gz"
EPOCHS, WORKERS, LEAST_NATURAL = 27, 2, 0.85
OBJECTIVES = ("natural_accuracy", "verified_accuracy", "inference_flops")


@dataclass(frozen=True)
class Row:
    """A recorded training: what it reported after each epoch, and its end."""

    curve: tuple[dict[str, float], ...]
    final: tuple[float, float, float] | None  # losses in [0, 1]; None when it failed
    feasible: bool


def table() -> list[Row]:
    """The recorded trainings."""
    with gzip.open(TABLE, "rt", newline="") as file:
        raw = list(csv.DictReader(file))
    flops = [math.log10(float(r["inference_flops"])) for r in raw if not r["error"]]
    low, high = min(flops), max(flops)
    rows = []
    for r in raw:
        curve = tuple(
            {
                "natural_accuracy": e[0], "rung_score": e[1], "verified_train": e[6],
                "mean_radii": sum(e[2:6]) / 4, "verified_accuracy": e[5],
                "inference_flops": e[9], "planned_inference_flops": e[9] / max(1.0, e[11]),
                "seconds": e[12],
            }
            for e in json.loads(r["curve"])
        )  # fmt: skip
        if r["error"]:
            rows.append(Row(curve, None, False))
            continue
        natural, verified = float(r["natural"]), float(r["verified"])
        cost = (math.log10(float(r["inference_flops"])) - low) / (high - low)
        rows.append(Row(curve, (1 - natural, 1 - verified, cost), natural >= LEAST_NATURAL))
    return rows


def search(
    rows: Sequence[Row], rule: StoppingRule | None, seed: int, budget: int
) -> list[tuple[int, float, int]]:
    """Epochs spent, seconds on the clock and row of each completed trial, in order."""
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    running: list[tuple[float, int, int]] = []  # when its next epoch ends, row, epochs done
    spent, done, clock = 0, [], 0.0

    def begin(now: float) -> None:
        while order:
            row = order.pop(0)
            if rows[row].curve:
                heapq.heappush(running, (now + rows[row].curve[0]["seconds"], row, 1))
                return

    for _ in range(WORKERS):
        begin(0.0)
    while running and spent < budget:
        clock, row, epoch = heapq.heappop(running)
        spent += 1
        curve = rows[row].curve
        stops = rule is not None and epoch in rule.levels and epoch < EPOCHS
        if stops and rule is not None:
            stops = rule.decide(row, epoch, rule.view(curve[epoch - 1])) is not None
        if epoch == len(curve):
            if rows[row].final is not None:
                done.append((spent, clock, row))
            begin(clock)
        elif stops:
            begin(clock)
        else:
            heapq.heappush(running, (clock + curve[epoch]["seconds"], row, epoch + 1))
    return done


def hypervolumes(rows: Sequence[Row], done: Sequence[tuple[int, float, int]]) -> list[float]:
    """After each completed trial."""
    points: list[tuple[float, float, float]] = []
    values = []
    for _, _, row in done:
        final = rows[row].final
        if rows[row].feasible and final is not None:
            points.append(final)
        values.append(float(moocore.hypervolume(np.array(points), ref=1.0)) if points else 0.0)
    return values


def rules() -> dict[str, Callable[[], StoppingRule | None]]:
    """By name: what is compared."""
    limits: tuple[Constraint, ...] = ()
    found: dict[str, Callable[[], StoppingRule | None]] = {"random, no stopping": lambda: None}
    for grace, factor in ((1, 3), (3, 3), (3, 2), (1, 4)):
        settings = (grace, factor, EPOCHS)
        found[f"asha {grace}/{factor}"] = lambda s=settings: Asha(*s)
        found[f"moasha {grace}/{factor}"] = lambda s=settings: Moasha(OBJECTIVES, limits, *s)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trials", type=int, default=100)
    arguments = parser.parse_args()
    rows, budget = table(), arguments.trials * EPOCHS
    results: dict[str, list[list[float]]] = {name: [] for name in rules()}
    for seed in range(arguments.seeds):
        goal: tuple[float, float, float] | None = None
        for name, make in rules().items():
            done = search(rows, make(), seed, budget)
            values = hypervolumes(rows, done)
            if goal is None:
                goal = (values[-1], budget, done[-1][1])
            reached = next((k for k, v in enumerate(values) if v >= goal[0] - 1e-12), None)
            share = done[reached][0] / goal[1] if reached is not None else math.inf
            wall = done[reached][1] / goal[2] if reached is not None else math.inf
            early = [v for (epochs, _, _), v in zip(done, values, strict=True)
                     if epochs <= budget / 4]  # fmt: skip
            results[name].append([values[-1], early[-1] if early else 0.0, share, wall, len(done)])
    path = RESULTS / "search_efficiency.csv"
    columns = ("rule", "hypervolume", "hypervolume_at_quarter", "epochs", "wall", "reached",
               "completed")  # fmt: skip
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        print(("{:22s}" + "{:>12s}" * 6).format(*(c[-12:] for c in columns)))
        for name, found in results.items():
            a = np.array(found)
            reached = float(np.isfinite(a[:, 2]).mean())
            figures = [*a[:, :2].mean(0), *np.median(a[:, 2:4], axis=0), reached, a[:, 4].mean()]
            writer.writerow([name, *(f"{v:.4f}" for v in figures)])
            print(f"{name:22s}" + "".join(f"{v:12.4f}" for v in figures))


if __name__ == "__main__":
    main()
