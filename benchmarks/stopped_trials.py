"""What TPE can learn from trials that were stopped early: hypervolume against epochs, replayed.

    uv run benchmarks/stopped_trials.py [--seeds 60] [--workers 2]

Replays searches with early stopping on the table of benchmarks/recorded.py, in which only what is
told of stopped trials differs:

    failed   they are told as failed: nothing is learned from them
    optuna   they are told as pruned, and Optuna divides trials into good and bad ones: a tenth of
             all trials, completed and stopped, is good
    bad      as goldenticket does (search/tpe.py): a quarter of the completed trials is good, and
             the stopped ones are among the bad ones
    random   no model at all, for comparison

One line of results/stopped_trials.csv is a search: the share of the table's hypervolume that its
completed feasible trials had reached after so many epochs of all trials.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import optuna
from optuna import Study
from optuna.samplers import RandomSampler
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial, TrialState
from proposals import Asked
from recorded import ROWS, study
from replay import Ended, Metrics, Scale, Training, reached, read_table, replay
from rows import RESULTS, read, work

from analysis.pareto import nondominated
from search.samplers import Sobol, groups
from search.tpe import Tpe

PATH = RESULTS / "stopped_trials.csv"
VARIANTS = ("failed", "optuna", "bad", "random")
EPOCHS = (300, 500, 800, 1200, 1600)
COLUMNS = ("variant", "seed", *(f"after_{epochs}" for epochs in EPOCHS), "trials", "completed")
STARTUP_TRIALS = 10


class Fronts:
    """A trial is stopped at a rung when a third of those that reached it are on better fronts.

    The objectives are natural accuracy, verified accuracy at a small radius, and FLOPs.
    """

    rungs = {3: "verified_0.1", 9: "verified_0.25"}

    def __init__(self) -> None:
        self._arrived: dict[int, list[tuple[float, ...]]] = {epoch: [] for epoch in self.rungs}

    def __call__(self, trial: int, epoch: int, metrics: Metrics) -> bool:
        """Whether the trial goes on."""
        if epoch not in self.rungs:
            return True
        arrived = self._arrived[epoch]
        names = ("natural", self.rungs[epoch], "inference_flops")
        arrived.append(tuple(metrics[name] for name in names))
        left, num_better = list(arrived), 0
        while True:
            first = nondominated(left, ("maximize", "maximize", "minimize"))
            if first[-1]:
                return num_better < max(1, len(arrived) // 3)
            num_better += sum(first)
            left = [values for values, is_first in zip(left, first, strict=True) if not is_first]


class OptunaDivides(Tpe):
    """Good and bad trials as Optuna's own sampler divides them."""

    def divide(
        self, study: Study, trials: Sequence[FrozenTrial]
    ) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """A tenth of all that have ended is good, completed trials before stopped ones."""
        num_ended = sum(trial.state != TrialState.RUNNING for trial in trials)
        return _split_trials(study, list(trials), math.ceil(0.1 * num_ended))


@cache
def table() -> tuple[Training, ...]:
    """The recorded trainings, once per process."""
    return read_table(ROWS)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Replay one search: a row of the results."""
    variant, seed = job["variant"], job["seed"]
    space = study().search_space()
    start = Sobol(space, seed)
    cls = OptunaDivides if variant == "optuna" else Tpe
    sampler = (
        RandomSampler(seed=seed)
        if variant == "random"
        else cls(groups(space, jointly=False), start, STARTUP_TRIALS, seed)
    )
    tell = partial(_tell, stopped=TrialState.FAIL if variant == "failed" else TrialState.PRUNED)
    asked = Asked(table(), study(), sampler, tell)
    ended = replay(asked, Fronts(), max_epochs=max(EPOCHS))
    curve = list(Scale(table(), study()).curve(ended))
    return {
        "variant": variant,
        "seed": seed,
        **{f"after_{epochs}": round(reached(curve, epochs), 4) for epochs in EPOCHS},
        "trials": len(ended),
        "completed": sum(trial.state == "completed" for trial in ended),
    }


def _tell(asked: Study, trial: optuna.Trial, ended: Ended, stopped: TrialState) -> None:
    metrics = ended.training.metrics
    if ended.state == "stopped":
        asked.tell(trial, state=stopped)
        return
    for constraint in study().constraints:
        trial.set_constraint(str(constraint), constraint.violation(metrics))
    asked.tell(trial, [metrics[name] for name in study().objectives])


def report() -> None:
    """Means, and differences from `failed` seed by seed, each with its standard error."""
    found = {(r["variant"], r["seed"]): [float(r[c]) for c in COLUMNS[2:]] for r in read(PATH)}
    seeds = sorted({seed for _, seed in found})
    print(f"{len(seeds)} seeds; " + ", ".join(COLUMNS[2:]))
    for variant in VARIANTS:
        values = np.array([found[variant, seed] for seed in seeds])
        print(f"{variant:7}", *(f"{mean:8.3f}" for mean in values.mean(axis=0)))
        gains = values - np.array([found["failed", seed] for seed in seeds])
        errors = gains.std(axis=0, ddof=1) / math.sqrt(len(seeds))
        pairs = zip(gains.mean(axis=0)[: len(EPOCHS)], errors, strict=False)
        print("   gain", *(f" {gain:+.3f}±{error:.3f}" for gain, error in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    done = {(row["variant"], int(row["seed"])) for row in read(PATH)}
    jobs = [(variant, seed) for seed in range(arguments.seeds) for variant in VARIANTS]
    todo = [{"variant": v, "seed": s} for v, s in jobs if (v, s) not in done]
    work(run, todo, PATH, COLUMNS, arguments.workers, lambda row: f"{row['variant']} {row['seed']}")
    report()


if __name__ == "__main__":
    main()
