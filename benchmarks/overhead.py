"""What a search costs beyond its trainings: seconds per trial, at two workers.

    uv run benchmarks/overhead.py [--trials 30]

Runs one study through Ray and compares its wall time, from the first trial's start to the last
one's end, with the sum of the times that the trials themselves took (training and evaluation, as
the worker measured them) divided by the number of workers. Start-up of Ray and MLflow, and each
worker's first trial, in which it imports everything, are reported apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from search import run_study
from spaces import StudyConfig

WORKERS = 2


def study(folder: Path, trials: int) -> StudyConfig:
    """A study whose trials take a few seconds each."""
    return StudyConfig.model_validate(
        {
            "name": "overhead",
            "data": {"name": "digits"},
            "evaluation": {"radius": 0.05, "examples": 100},
            "space": {
                "model": {"family": "mlp", "widths": [64]},
                "topology": {"method": "rigl", "density": {"low": 0.02, "high": 0.3, "log": True}},
                "optimizer": {"lr": {"low": 3e-4, "high": 1e-2, "log": True}},
            },
            "scheduler": {"name": "fifo"},
            "budget": {"trials": trials, "epochs": 10},
            "resources": {"cpus_per_trial": 1, "concurrent": WORKERS},
            "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
            "storage": {"path": str(folder / "runs")},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        result = run_study(study(Path(folder), arguments.trials), executor="ray")
        total = time.time() - started
    records = [record for record in result.records if record.state == "completed"]
    own = sum(record.seconds for record in records)
    wall = max(r.ended for r in records) - min(r.started for r in records)
    overhead = (wall * WORKERS - own) / len(records)
    print(f"trials                          {len(records)} completed of {len(result.records)}")
    print(f"whole call                      {total:7.1f} s")
    print(f"first start to last end         {wall:7.1f} s  x {WORKERS} workers")
    print(f"sum of the trials' own time     {own:7.1f} s")
    print(f"overhead per trial and worker   {overhead:7.2f} s  (target: at most 0.3)")


if __name__ == "__main__":
    main()
