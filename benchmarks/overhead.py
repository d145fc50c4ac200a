"""What a search costs beyond its trainings: seconds per trial, and memory of the driver.

    uv run benchmarks/overhead.py [--trials 500]

Runs a study of trivial trials through Ray on two workers and compares its wall time, from the first
trial's start to the last one's end, with the sum of the times that the trials themselves took
(training and evaluation, as the worker measured them) divided by the number of workers. Start-up of
Ray and MLflow, and each worker's first trial, in which it imports everything, are reported apart.
The driver's memory is sampled once a second, what grows is the slope of a straight line through the
samples after the first fifth of the trials (Linux only).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from search import run_study
from search.records import TrialRecord
from spaces import StudyConfig

WORKERS = 2


def study(folder: Path, trials: int) -> StudyConfig:
    """A study whose trials take a small part of a second each."""
    return StudyConfig.model_validate(
        {
            "name": "overhead",
            "data": {"name": "digits"},
            "evaluation": {"radius": 0.05, "examples": 20},
            "space": {
                "model": {"family": "mlp", "widths": [16]},
                "topology": {"method": "rigl", "density": {"low": 0.1, "high": 0.5, "log": True}},
                "optimizer": {"lr": {"low": 3e-4, "high": 1e-2, "log": True}},
            },
            "scheduler": {"name": "fifo"},
            "budget": {"trials": trials, "epochs": 2},
            "resources": {"cpus_per_trial": 1, "concurrent": WORKERS},
            "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
            "storage": {"path": str(folder / "runs")},
        }
    )


class Memory(threading.Thread):
    """Samples what this process holds, once a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []  # time, MB
        self.ended = threading.Event()

    def run(self) -> None:
        """Until it is told to end."""
        while not self.ended.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.samples.append((time.time(), pages * os.sysconf("SC_PAGE_SIZE") / 1e6))

    def per_1000(self, records: Sequence[TrialRecord]) -> float:
        """MB by which it grows in 1,000 trials."""
        ends = np.sort([record.ended for record in records if record.ended])
        done = np.array([np.searchsorted(ends, at) for at, _ in self.samples])
        held = np.array([megabytes for _, megabytes in self.samples])
        chosen = (done > len(ends) / 5) & (done < len(ends))
        return float(np.polyfit(done[chosen], held[chosen], 1)[0] * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    arguments = parser.parse_args()
    memory = Memory()
    memory.start()
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        result = run_study(study(Path(folder), arguments.trials), executor="ray")
        total = time.time() - started
    memory.ended.set()
    records = [record for record in result.records if record.state == "completed"]
    own = sum(record.seconds for record in records)
    wall = max(r.ended or 0.0 for r in records) - min(r.started for r in records)
    overhead = (wall * WORKERS - own) / len(records)
    print(f"trials                          {len(records)} completed of {len(result.records)}")
    print(f"whole call                      {total:7.1f} s")
    print(f"first start to last end         {wall:7.1f} s  x {WORKERS} workers")
    print(f"sum of the trials' own time     {own:7.1f} s")
    print(f"overhead per trial and worker   {overhead:7.3f} s  (target: at most 0.15)")
    print(f"driver's memory, 1,000 trials   {memory.per_1000(records):+7.1f} MB (target: below 50)")


if __name__ == "__main__":
    main()
