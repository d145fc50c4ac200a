"""A table of full trainings, to try rules of early stopping and samplers on without training again.

    uv run benchmarks/recorded.py [--trials 400] [--workers 2]
    uv run benchmarks/recorded.py --first 1000 --trials 2000 --table fresh

Draws trials at random from the space of benchmarks/recorded.yaml and trains each to its end. A row
of the table, which is kept packed as results/recorded_*.csv.gz, is a trial: parameters,
final figures (by the cascade, on the validation split), and what each epoch knew, with the
candidates for a rung score: accuracies by interval bounds on the validation split at shares of the
radius, and at the training radius of that epoch. Trials that have rows already are not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rows import RESULTS, read, work

from spaces import StudyConfig
from trainers import Training, build
from trainers.bounds import ball
from trainers.data import Data, load_data
from trainers.evaluate import count_positive
from trainers.models.modes import evaluating

STUDY = Path(__file__).with_name("recorded.yaml")
ROWS = RESULTS / "recorded_rows.csv"
FRESH = RESULTS / "recorded_fresh.csv"
"""More rows, on which no rule was chosen."""
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Of the evaluation radius."""
CURVE = (
    "natural", *(f"verified_{share:g}" for share in SHARES), "verified_train", "train_epsilon",
    "train_loss", "inference_flops", "density", "planned_share", "seconds",
)  # fmt: skip
COLUMNS = ("number", "params", "error", "natural", "verified", "inference_flops", "dense_flops",
           "seconds", "curve")  # fmt: skip


@cache
def study() -> StudyConfig:
    """The study whose space is sampled."""
    return StudyConfig.from_yaml(STUDY)


@cache
def data() -> Data:
    """Its data, once per process."""
    config = study().search_space().decode(study().search_space().sample(random.Random(0)))
    return load_data(config.data, "cpu")


def draw(number: int) -> dict[str, Any]:
    """The parameters of a trial."""
    return study().search_space().sample(random.Random(f"{study().seed} {number}"))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train one trial to its end: a row of the table."""
    row = {"number": job["number"], "params": json.dumps(job["params"]), "error": ""}
    curve: list[list[float]] = []
    training = build(study().search_space().decode(job["params"]), data())
    try:
        while not training.finished:
            curve.append(_measured(training, training.run_epoch()))
    except ValueError as error:
        return {**row, "error": str(error), "curve": json.dumps(curve)}
    started = time.perf_counter()
    final = training.final_metrics()
    return {
        **row,
        "natural": final["natural_accuracy"],
        "verified": final["verified_accuracy"],
        "inference_flops": int(final["inference_flops"]),
        "dense_flops": int(final["dense_inference_flops"]),
        "seconds": round(time.perf_counter() - started, 3),
        "curve": json.dumps(curve),
    }


@torch.no_grad()
def _measured(training: Training, metrics: dict[str, float]) -> list[float]:
    split, config = training.data.validation, training.config.evaluation
    x, y, interval = split.x, split.y, training.loss.interval
    planned = training.topology.planned_total
    last = training.batches.total_steps
    with evaluating(training.model):

        def verified(radius: float) -> float:
            margins = interval.margins(x, y, *ball(x, radius)).margins_BK
            return round(count_positive(margins, y) / len(y), 5)

        at_shares = [verified(config.radius * share) for share in SHARES]
        at_train = verified(min(metrics["train_epsilon"], config.radius))
    return [
        round(metrics["natural_accuracy"], 5),
        *at_shares,
        at_train,
        round(metrics["train_epsilon"], 6),
        round(metrics["train_loss"], 5),
        metrics["inference_flops"],
        round(metrics["density"], 6),
        round(planned(training.step) / planned(last), 4),
        round(metrics["duration_s"], 4),
    ]


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    return f"{row['number']}: " + (
        row["error"] or f"natural {row['natural']:.3f} verified {row['verified']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--table", choices=("rows", "fresh"), default="rows")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    path = ROWS if arguments.table == "rows" else FRESH
    done = {int(row["number"]) for row in read(path)}
    numbers = range(arguments.first, arguments.trials)
    todo = [{"number": n, "params": draw(n)} for n in numbers if n not in done]
    work(partial(run), todo, path, COLUMNS, arguments.workers, told)


if __name__ == "__main__":
    main()
