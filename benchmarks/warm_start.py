"""What a search gains by knowing an earlier study: hypervolume against epochs, replayed.

    uv run benchmarks/warm_start.py [--table rows|fresh] [--seeds 200] [--workers 2]

A table of benchmarks/recorded.py is cut into halves at random, by the seed. An earlier study is
a search by TPE with early stopping on the one half, of 800 epochs; then a new one searches the
other half, and knows of the earlier one

    cold       nothing
    completed  its completed trials (what search/warm_start.py does, decided on `rows`)
    all        these, and which trials were stopped
    random     as many trials drawn at random from the first half, all of them completed

One line of results/warm_start.csv is a new search: the share of its half's hypervolume that its own
completed feasible trials had reached after so many epochs of its own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from proposals import Asked
from recorded import FRESH, ROWS, study
from replay import Ended, Scale, Training, reached, read_table, replay
from rows import RESULTS, read, work
from stopped_trials import STARTUP_TRIALS, Fronts

from search.samplers import Sobol, distribution_of, groups
from search.tpe import Tpe

PATH = RESULTS / "warm_start.csv"
VARIANTS = ("cold", "completed", "all", "random")
TABLES = {"rows": ROWS, "fresh": FRESH}
EPOCHS = (100, 200, 300, 500, 800)
EARLIER_EPOCHS = 800
COLUMNS = (
    "table",
    "variant",
    "seed",
    *(f"after_{epochs}" for epochs in EPOCHS),
    "known_completed",
    "known_stopped",
)


class Warm(Tpe):
    """Knows trials before its first proposal."""

    def __init__(self, seed: int, known: Sequence[FrozenTrial]) -> None:
        space = study().search_space()
        super().__init__(groups(space, jointly=False), Sobol(space, seed), STARTUP_TRIALS, seed)
        self._known = list(known)

    def before_trial(self, asked: Study, trial: FrozenTrial) -> None:
        """Add them to the study that asks first."""
        super().before_trial(asked, trial)
        while self._known:
            asked.add_trial(self._known.pop())


@cache
def table(name: str) -> tuple[Training, ...]:
    """The recorded trainings, once per process."""
    return read_table(TABLES[name])


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Replay an earlier search and a new one: a row of the results."""
    variant, seed, rows = job["variant"], job["seed"], table(job["table"])
    order = np.random.default_rng(seed).permutation(len(rows))
    half = len(order) // 2
    first, second = ([rows[i] for i in part] for part in (order[:half], order[half:]))
    known = _known(variant, first, seed)
    ended = _search(second, seed + 10_000, known, max(EPOCHS))
    curve = list(Scale(second, study()).curve(ended))
    states = [trial.state for trial in known]
    return {
        "table": job["table"],
        "variant": variant,
        "seed": seed,
        **{f"after_{epochs}": round(reached(curve, epochs), 4) for epochs in EPOCHS},
        "known_completed": states.count(TrialState.COMPLETE),
        "known_stopped": states.count(TrialState.PRUNED),
    }


def _search(
    half: Sequence[Training], seed: int, known: Sequence[FrozenTrial], epochs: int
) -> list[Ended]:
    asked = Asked(half, study(), Warm(seed, known))
    return replay(asked, Fronts(), max_epochs=epochs)


def _known(variant: str, half: Sequence[Training], seed: int) -> list[FrozenTrial]:
    if variant == "cold":
        return []
    ended = _search(half, seed, [], EARLIER_EPOCHS)
    completed = [trial for trial in ended if trial.state == "completed"]
    if variant == "random":  # the half is in random order
        return [_frozen(training, "completed") for training in half[: len(completed)]]
    return [_frozen(t.training, t.state) for t in (completed if variant == "completed" else ended)]


def _frozen(training: Training, state: str) -> FrozenTrial:
    metrics: Mapping[str, float] = training.metrics
    domains = {hole.path: distribution_of(hole) for hole in study().search_space().parameters()}
    is_completed = state == "completed"
    return create_trial(
        state=TrialState.COMPLETE if is_completed else TrialState.PRUNED,
        params=dict(training.params),
        distributions={name: domains[name] for name in training.params},
        values=[metrics[name] for name in study().objectives] if is_completed else None,
        constraints={str(c): c.violation(metrics) for c in study().constraints}
        if is_completed
        else None,
    )


def report(name: str) -> None:
    """Means, and differences from `cold` seed by seed, each with its standard error."""
    rows = [row for row in read(PATH) if row["table"] == name]
    found = {(r["variant"], r["seed"]): [float(r[c]) for c in COLUMNS[3:]] for r in rows}
    seeds = sorted({seed for _, seed in found})
    print(f"{len(seeds)} seeds; " + ", ".join(COLUMNS[3:]))
    for variant in VARIANTS:
        values = np.array([found[variant, seed] for seed in seeds])
        print(f"{variant:9}", *(f"{mean:8.3f}" for mean in values.mean(axis=0)))
        gains = values - np.array([found["cold", seed] for seed in seeds])
        errors = gains.std(axis=0, ddof=1) / math.sqrt(len(seeds))
        pairs = zip(gains.mean(axis=0)[: len(EPOCHS)], errors, strict=False)
        print("     gain", *(f" {gain:+.3f}±{error:.3f}" for gain, error in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=TABLES, default="rows")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    name = arguments.table
    done = {(row["variant"], int(row["seed"])) for row in read(PATH) if row["table"] == name}
    jobs = [(variant, seed) for seed in range(arguments.seeds) for variant in VARIANTS]
    todo = [{"table": name, "variant": v, "seed": s} for v, s in jobs if (v, s) not in done]
    work(run, todo, PATH, COLUMNS, arguments.workers, lambda row: f"{row['variant']} {row['seed']}")
    report(name)


if __name__ == "__main__":
    main()
