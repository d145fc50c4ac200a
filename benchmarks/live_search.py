"""The comparison of benchmarks/search_efficiency.py with real trainings, live.

    uv run benchmarks/live_search.py [--seeds 1] [--epochs 1350]

Runs the space of benchmarks/recorded.yaml on digits through Ray on two workers: random proposals
without stopping, and goldenticket's TPE and MOASHA, each until all trials together have done
`--epochs` epochs. Hypervolume of the completed trials with natural accuracy of at least 0.85 on the
validation split, as a share of what the 1,000 recorded trainings reach (a search may find more).
A line of results/live_search.csv is one search; those that have one are not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recorded import FRESH, study
from replay import Scale, Training, read_table
from rows import RESULTS, read
from search_efficiency_report import report

from search import run_study
from search.control import give_order
from search.records import Observer, SearchRun, TrialRecord
from spaces import StudyConfig

PATH = RESULTS / "live_search.csv"
COLUMNS = ("variant", "seed", "trials", "completed", "seconds", "steps")
VARIANTS: dict[str, dict[str, Any]] = {
    "random": {"sampler": {"name": "random"}, "scheduler": {"name": "fifo"}},
    "tpe + moasha": {"sampler": {"name": "tpe"}, "scheduler": {"name": "moasha"}},
}


class Spent(Observer):
    """Counts epochs, stops the search when they are spent, and measures hypervolume meanwhile."""

    def __init__(self, scale: Scale, budget: int) -> None:
        self.steps: list[tuple[int, float, float]] = []
        self.seconds = 0.0
        self.num_ended = self.num_completed = 0
        self._scale, self._budget, self._epochs, self._began = scale, budget, 0, 0.0
        self._completed: list[Training] = []
        self._folder: Path | None = None

    def on_study_start(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Know where orders go."""
        self._folder = run.folder

    def on_report(self, record: TrialRecord) -> None:
        """Count an epoch; the clock starts with the first, as workers take their time to start."""
        self._began = self._began or time.time()
        self._epochs += 1
        if self._epochs >= self._budget and self._folder is not None:
            give_order(self._folder, "stop")

    def on_trial_end(self, record: TrialRecord) -> None:
        """Measure what has been reached."""
        if self._epochs > self._budget:
            return
        self.seconds = time.time() - self._began
        self.num_ended += 1
        if record.state != "completed":
            return
        self.num_completed += 1
        self._completed.append(Training(record.params, record.metrics, (), 0.0))
        share = self._scale.share(self._completed)
        if not self.steps or share > self.steps[-1][2]:
            self.steps.append((self._epochs, round(self.seconds, 2), round(share, 5)))


def search(variant: str, seed: int, budget: int, scale: Scale) -> dict[str, Any]:
    """Run one: a row of the results."""
    spent = Spent(scale, budget)
    with tempfile.TemporaryDirectory() as folder:
        config = study().model_dump(mode="json") | VARIANTS[variant] | {
            "seed": seed,
            "budget": {"trials": 5000, "epochs": 27},
            "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
            "storage": {"path": f"{folder}/runs"},
        }  # fmt: skip
        run_study(StudyConfig.model_validate(config), executor="ray", observers=[spent])
    return {
        "variant": variant,
        "seed": seed,
        "trials": spent.num_ended,
        "completed": spent.num_completed,
        "seconds": round(spent.seconds, 2),
        "steps": json.dumps(spent.steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1350)
    arguments = parser.parse_args()
    scale = Scale(read_table(FRESH), study())
    done = {(row["variant"], int(row["seed"])) for row in read(PATH)}
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            if (variant, seed) in done:
                continue
            row = search(variant, seed, arguments.epochs, scale)
            is_new = not PATH.exists()
            with PATH.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
            print(variant, seed, row["trials"], row["completed"], row["steps"], flush=True)
    report(read(PATH), list(VARIANTS), arguments.epochs)


if __name__ == "__main__":
    main()
