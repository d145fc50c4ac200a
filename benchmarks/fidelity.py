"""What it is worth to train early epochs on a part of the data (docs/fidelity.md).

    uv run benchmarks/fidelity.py [--trials 20] [--workers 2]
    uv run benchmarks/fidelity.py --table

Trials drawn at random from the space of benchmarks/recorded.yaml (27 epochs) are trained with all
the data, and with less of it in early epochs. The table says, for each epoch at which a rung may
be, how well the rung score there orders the trials as the final verified accuracy of training with
all the data does (Kendall's tau), and what it cost to get there, over what the whole of such a
training costs. Rows of results/fidelity.csv that are there are not run again.
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
EPOCHS = (1, 3, 5, 7, 9, 12, 15, 18)
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


def table() -> str:
    """Per share and epoch: Kendall's tau, and steps and seconds over those of all the data."""
    rows = [row for row in read(ROWS) if not row["error"]]
    full = {row["number"]: row for row in rows if float(row["data_start"]) == 1.0}
    lines = [
        "| data in the first epoch | epoch | tau | steps | seconds |",
        "|---|---|---|---|---|",
    ]
    for start in STARTS:
        own = [r for r in rows if float(r["data_start"]) == start and r["number"] in full]
        reference = [full[row["number"]] for row in own]
        for epoch in EPOCHS:
            lines.append(f"| {start:g} | {epoch} | {_figures(own, reference, epoch)} |")
        own_final, final = ([float(r["verified"]) for r in group] for group in (own, reference))
        tau = kendalltau(own_final, final).statistic
        change = mean(own_final) - mean(final)
        lines.append(
            f"| {start:g} | end | {tau:.2f} | {_cost(own, reference, -1)} | "
            f"verified {100 * change:+.1f} points, {len(own)} trials |"
        )
    return "\n".join(lines)


def _figures(rows: Sequence[dict[str, str]], full: Sequence[dict[str, str]], epoch: int) -> str:
    scores = [_at(row, epoch - 1, "rung_score") for row in rows]
    tau = kendalltau(scores, [float(row["verified"]) for row in full]).statistic
    return f"{tau:.2f} | {_cost(rows, full, epoch - 1)}"


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
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="Print the table of what is there.")
    arguments = parser.parse_args()
    if not arguments.table:
        done = {(int(row["number"]), float(row["data_start"])) for row in read(ROWS)}
        todo = [
            {"number": number, "data_start": start}
            for number in range(arguments.trials)
            for start in STARTS
            if (number, start) not in done
        ]
        work(run, todo, ROWS, COLUMNS, arguments.workers, told)
    print(table())


if __name__ == "__main__":
    main()
