"""What it is worth to train early epochs on a part of the data (docs/fidelity.md).

    uv run benchmarks/fidelity.py [--trials 40] [--workers 2]
    uv run benchmarks/fidelity.py --tables

Trials drawn at random from the space of benchmarks/recorded.yaml (27 epochs) are trained with all
the data, and with less of it in early epochs. The tables say, for epochs at which a rung may be and
for the end, how well the rung score there (the final verified accuracy) orders the trials as the
final verified accuracy of training with all the data does (Kendall's tau), and what it cost to get
there, over what the whole of such a training costs. Rows of results/fidelity.csv that are there
are not run again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from rows import RESULTS, read, work
from scipy.stats import kendalltau

from spaces import StudyConfig
from spaces.fidelity import FidelityConfig
from trainers import build
from trainers.data import load_data

STUDY = Path(__file__).with_name("recorded.yaml")
ROWS = RESULTS / "fidelity.csv"
STARTS, FULL_AT = (1.0, 0.5, 0.25, 0.1), 0.5
COLUMNS = ("number", "data_start", "natural", "verified", "inference_flops", "error", "curve")
CURVE = ("steps", "seconds", "rung_score", "planned_inference_flops")
FINAL = ("natural", "verified")
EPOCHS = (1, 3, 5, 9)
"""At which the table looks; 1, 3 and 9 are the rungs of a reduction factor of 3."""


@cache
def study() -> StudyConfig:
    """The study whose space is sampled."""
    return StudyConfig.from_yaml(STUDY)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train one trial to its end: a row of the table."""
    space = study().search_space()
    config = space.decode(space.sample(random.Random(f"{study().seed} {job['number']}")))
    fidelity = FidelityConfig(data_start=job["data_start"], data_full_at=FULL_AT)
    config = config.model_copy(update={"fidelity": fidelity})
    training = build(config, load_data(config.data, "cpu"))
    curve, seconds = [], 0.0
    try:
        while not training.finished:
            found = training.run_epoch()
            seconds += found["duration_s"]
            figures = {**found, "steps": training.step, "seconds": seconds}
            curve.append([float(f"{figures[name]:.6g}") for name in CURVE])
    except ValueError as error:
        return {**job, "error": str(error), "curve": json.dumps(curve)}
    final = training.final_metrics()
    return {
        **job,
        "natural": final["natural_accuracy"],
        "verified": final["verified_accuracy"],
        "inference_flops": int(final["inference_flops"]),
        "error": "",
        "curve": json.dumps(curve),
    }


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    result = row["error"] or f"natural {row['natural']:.3f} verified {row['verified']:.3f}"
    return f"{row['number']} from {row['data_start']:g}: {result}"


def tables() -> str:
    """What rungs are worth and cost, and what becomes of the trials at their end."""
    rows = [row for row in read(ROWS) if not row["error"]]
    full = {row["number"]: row for row in rows if float(row["data_start"]) == 1.0}
    rungs = ["| data in epoch 1 | epoch | tau | steps | seconds |", "|---|---|---|---|---|"]
    ends = [
        "| data in epoch 1 | natural | verified | tau | steps | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for start in STARTS:
        own = [r for r in rows if float(r["data_start"]) == start and r["number"] in full]
        reference = [full[row["number"]] for row in own]
        verified = [float(row["verified"]) for row in reference]
        for epoch in EPOCHS:
            scores = [_at(row, epoch - 1, "rung_score") for row in own]
            cost = _cost(own, reference, epoch - 1)
            rungs.append(f"| {start:g} | {epoch} | {_tau(scores, verified)} | {cost} |")
        means = [f"{100 * mean(float(r[name]) for r in own):.1f} %" for name in FINAL]
        tau = _tau([float(row["verified"]) for row in own], verified)
        ends.append(f"| {start:g} | {' | '.join(means)} | {tau} | {_cost(own, reference, -1)} |")
    return "\n".join([f"{len(full)} trials\n", *rungs, "", *ends])


def _tau(scores: Sequence[float], final: Sequence[float]) -> str:
    return f"{kendalltau(scores, final).statistic:.2f}"


def _cost(rows: Sequence[dict[str, str]], full: Sequence[dict[str, str]], index: int) -> str:
    shares = [
        sum(_at(row, index, name) for row in rows) / sum(_at(row, -1, name) for row in full)
        for name in ("steps", "seconds")
    ]
    return " | ".join(f"{100 * share:.0f} %" for share in shares)


def _at(row: dict[str, str], index: int, name: str) -> float:
    return float(json.loads(row["curve"])[index][CURVE.index(name)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="Print the tables of what is there.")
    arguments = parser.parse_args()
    if not arguments.tables:
        done = {(int(row["number"]), float(row["data_start"])) for row in read(ROWS)}
        todo = [
            {"number": number, "data_start": start}
            for number in range(arguments.trials)
            for start in STARTS
            if (number, start) not in done
        ]
        work(run, todo, ROWS, COLUMNS, arguments.workers, told)
    print(tables())


if __name__ == "__main__":
    main()
