"""What MLflow costs a search: writing trials in the background, and finding the front among them.

    uv run benchmarks/tracking.py [--trials 1000] [--epochs 50] [--uri sqlite:///FILE]

Writes trials of 10 metrics as fast as it can, without training anything, and prints
seconds and CPU seconds per trial, for how long a report keeps the driver (which is all that a trial
could ever wait for MLflow), and how much memory the process gains. Then asks a new process for the
front of the study, by the search's index and, for comparison, from all runs.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from search.records import SearchRun, TrialRecord
from search.tracking import MlflowTracker
from spaces import StudyConfig

MOST_WAITING = 50  # trials: the driver of this benchmark is thousands of times faster than training
COLD = """
import sys, time
t0 = time.perf_counter()
from analysis import load_front
from analysis.store import read_study
t1 = time.perf_counter()
front = load_front("tracking", tracking_uri=sys.argv[1])
t2 = time.perf_counter()
load_front("tracking", tracking_uri=sys.argv[1])
t3 = time.perf_counter()
everything = read_study("tracking", tracking_uri=sys.argv[1], use_index=False)
t4 = time.perf_counter()
assert everything == front.study, "the index and the runs differ"
print(f"imports, in a new process              {t1 - t0:8.2f} s")
print(f"load_front, the first time             {t2 - t1:8.2f} s  "
      f"({len(front.members)} members of {len(front.candidates)})")
print(f"load_front, the second time            {t3 - t2:8.2f} s  (target: 2 at 10,000 trials)")
print(f"read_study from all runs               {t4 - t3:8.2f} s  (the same trials)")
"""


def a_study(folder: Path, uri: str, epochs: int) -> StudyConfig:
    return StudyConfig.from_dict(
        {
            "name": "tracking",
            "data": {"name": "digits"},
            "evaluation": {"radius": 0.05},
            "space": {
                "topology": {"method": "rigl", "density": {"low": 0.02, "high": 0.3, "log": True}},
                "optimizer": {"lr": {"low": 3e-4, "high": 1e-2, "log": True}},
            },
            "budget": {"trials": 1, "epochs": epochs},
            "tracking": {"uri": uri},
            "storage": {"path": str(folder)},
        }
    )


def figures(progress: float, epoch: int, rng: np.random.Generator) -> dict[str, float]:
    """Ten metrics after an epoch; `progress` is the share of the training that is done."""
    density, skill, spread = (float(x) for x in rng.random(3))
    natural = skill * progress
    return {
        "epoch": float(epoch),
        "natural_accuracy": natural,
        "verified_accuracy": natural * spread,
        "falsified_accuracy_bound": natural,
        "density": density,
        "num_active_parameters": 1e5 * density,
        "inference_flops": 1e6 * density,
        "training_flops": 1e9 * epoch,
        "train_epsilon": 0.05 * progress,
        "rung_score": natural,
    }


def write(study: StudyConfig, folder: Path, trials: int) -> None:
    """Run `trials` trials that take no time through the tracker."""
    run = SearchRun(study, folder, "local")
    (folder / "study.yaml").write_text("name: tracking\n")
    tracker = MlflowTracker(study.tracking.uri)
    tracker.on_study_start(run, ())
    space, rng = study.search_space(), np.random.default_rng(0)
    records: list[TrialRecord] = []
    reports: list[float] = []
    memory = [memory_mb()]
    started, cpu = time.perf_counter(), time.process_time()
    for number in range(trials):
        records.append(one_trial(tracker, space, number, rng, reports))
        while len(tracker.backlog) > MOST_WAITING:
            time.sleep(0.01)
        if (number + 1) % max(100, trials // 10) == 0:
            memory.append(memory_mb())
            per_trial = (time.perf_counter() - started) / (number + 1)
            print(f"  {number + 1} trials, {per_trial:.3f} s each, {memory[-1]:.0f} MB", flush=True)
    before_end = time.perf_counter()
    tracker.on_study_end(run, records)
    ended = time.perf_counter()
    microseconds = 1e6 * np.array(reports)
    growth = (memory[-1] - memory[1]) * 1000 * len(memory[1:]) / trials / max(1, len(memory[2:]))
    print(f"written, per trial                     {(before_end - started) / trials:8.4f} s")
    print(f"ranks, end and index, per trial        {(ended - before_end) / trials:8.4f} s")
    print(f"CPU of the process, per trial          {(time.process_time() - cpu) / trials:8.4f} s")
    print(f"a report keeps the driver, median      {np.median(microseconds):8.1f} us")
    print(f"                           99 of 100   {np.percentile(microseconds, 99):8.1f} us")
    print(f"memory per 1,000 trials                {growth:8.1f} MB  (target: 50)")


def one_trial(
    tracker: MlflowTracker,
    space: object,
    number: int,
    rng: np.random.Generator,
    reports: list[float],
) -> TrialRecord:
    """Tell the tracker of one trial from its start to its end; note how long each report took."""
    params = {
        "topology.rigl.density": float(rng.uniform(0.02, 0.3)),
        "optimizer.lr": float(rng.uniform(3e-4, 1e-2)),
    }
    record = TrialRecord(number, params, space.decode(params), time.time())
    tracker.on_trial_start(record)
    epochs = record.config.epochs
    for epoch in range(1, epochs + 1):
        record = replace(record, epochs=epoch, metrics=figures(epoch / epochs, epoch, rng))
        before = time.perf_counter()
        tracker.on_report(record)
        reports.append(time.perf_counter() - before)
    told = {"split": "validation", "bound": "ibp", "radius": "0.05", "num_examples": "300"}
    record = replace(record, state="completed", ended=time.time(), provenance=told)
    tracker.on_trial_end(record)
    return record


def memory_mb() -> float:
    """The memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--uri", help="an MLflow store; without it a new SQLite file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        uri = arguments.uri or f"sqlite:///{name}/mlflow.db"
        write(a_study(Path(name), uri, arguments.epochs), Path(name), arguments.trials)
        subprocess.run([sys.executable, "-c", COLD, uri], check=True)


if __name__ == "__main__":
    main()
