"""Hypervolume against compute: searches replayed on a table of full trainings.

    uv run benchmarks/search_efficiency.py [--seeds 30] [--workers 2]

Each search has two workers, that take the recorded seconds, and 2,700 epochs, which is 100 full
trainings. Its hypervolume is that of the completed trials with natural accuracy of at least 0.85,
as a share of what the whole table reaches: natural and verified accuracy (validation split, radius
0.1, ibp + crown-ibp + crown) and log FLOPs. The question is how many epochs it needs to reach what
random search without stopping has at its end.

The table is rows 1000 to 1999 of benchmarks/recorded.py, on which no rule and no setting was
chosen. A line of results/search_efficiency.csv is one search; figures of earlier runs are kept.
Needs `uv`, for Syne Tune in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from optuna.samplers import RandomSampler
from proposals import Asked, RaysOptunaSearch
from recorded import FRESH, study
from replay import Metrics, Proposer, Rule, Scale, Training, read_table, replay
from rows import RESULTS, read, work
from search_efficiency_report import draw, report
from stopping import Knowing, Own, RaysAsha, SyneTune, never

from search.rungs import build_rule
from search.samplers import build_sampler
from spaces import StudyConfig
from spaces.sampler import TpeConfig
from spaces.scheduler import MoashaConfig

PATH = RESULTS / "search_efficiency.csv"
FIGURE = RESULTS.parents[1] / "docs" / "images" / "search-efficiency.png"
EPOCHS, BUDGET = 27, 2700
RUNGS = (3, 3, EPOCHS)
COLUMNS = ("variant", "seed", "trials", "completed", "seconds", "steps")


@cache
def table() -> tuple[Training, ...]:
    """The recorded trainings, once per process."""
    return read_table(FRESH)


@cache
def scale() -> Scale:
    """Hypervolumes over them."""
    return Scale(table(), study())


def goldenticket(seed: int, **settings: Any) -> StudyConfig:
    """The study with goldenticket's sampler and rule."""
    update = {"seed": seed, "sampler": TpeConfig(), "scheduler": MoashaConfig(**settings)}
    return study().model_copy(update=update)


def shares(metrics: Metrics) -> tuple[float, float, float]:
    """All objectives at a rung, each from 0 to 1, higher is better."""
    saved = scale().saved(metrics["planned_inference_flops"])
    return metrics["natural_accuracy"], metrics["rung_score"], saved


def at_random(seed: int) -> Asked:
    """Proposals at random."""
    return Asked(table(), study(), RandomSampler(seed=seed))


def by_tpe(seed: int) -> Asked:
    """Proposals of goldenticket's own sampler."""
    return Asked(table(), study(), build_sampler(goldenticket(seed)))


def own_rule(**settings: Any) -> Own:
    """The rule of goldenticket."""
    rule = build_rule(goldenticket(0, **settings))
    assert rule is not None
    return Own(rule)


def knowing(asked: Asked) -> Knowing:
    """The rule that knows the end."""
    return Knowing(asked.trainings.__getitem__, scale(), RUNGS[0])


VARIANTS: dict[str, tuple[Callable[[int], Proposer], Callable[[Any], Rule]]] = {
    "random": (at_random, lambda _: never),
    "optunasearch": (lambda seed: RaysOptunaSearch(table(), study(), seed), lambda _: never),
    "random + asha on rung_score": (
        at_random, lambda _: RaysAsha(lambda m: m["rung_score"], RUNGS)
    ),
    "random + asha on a sum": (at_random, lambda _: RaysAsha(lambda m: sum(shares(m)), RUNGS)),
    "random + syne moasha": (
        at_random, lambda _: SyneTune(lambda m: [1 - share for share in shares(m)], RUNGS)
    ),
    "random + moasha": (at_random, lambda _: own_rule()),
    "tpe": (by_tpe, lambda _: never),
    "tpe + moasha": (by_tpe, lambda _: own_rule()),
    "tpe + moasha promotion": (by_tpe, lambda _: own_rule(variant="promotion")),
    "random + knowing": (at_random, knowing),
    "tpe + knowing": (by_tpe, knowing),
}  # fmt: skip
"""By name: what proposes, and what stops."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Replay one search: a row of the results."""
    variant, seed = job["variant"], job["seed"]
    proposes, stops = VARIANTS[variant]
    proposer = proposes(seed)
    rule = stops(proposer)
    promoted = rule.promoted if isinstance(rule, Own) else None
    ended = replay(proposer, rule, promoted=promoted, max_epochs=BUDGET)
    if isinstance(rule, SyneTune):
        rule.close()
    steps: list[tuple[int, float, float]] = []
    for trial, share in scale().curve(ended):
        if not steps or share > steps[-1][2]:
            steps.append((trial.spent, round(trial.clock, 2), round(share, 5)))
    return {
        "variant": variant,
        "seed": seed,
        "trials": len(ended),
        "completed": sum(trial.state == "completed" for trial in ended),
        "seconds": round(max(trial.clock for trial in ended), 2),
        "steps": json.dumps(steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    done = {(row["variant"], int(row["seed"])) for row in read(PATH)}
    jobs = [(variant, seed) for variant in VARIANTS for seed in range(arguments.seeds)]
    todo = [{"variant": v, "seed": s} for v, s in jobs if (v, s) not in done]
    work(run, todo, PATH, COLUMNS, arguments.workers, lambda row: f"{row['variant']} {row['seed']}")
    report(read(PATH), list(VARIANTS), BUDGET)
    draw(read(PATH), BUDGET, FIGURE)


if __name__ == "__main__":
    main()
