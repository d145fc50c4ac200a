"""Hypervolume against compute: searches replayed on a table of full trainings.

    uv run benchmarks/search_efficiency.py [--seeds 60] [--workers 2]

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

from search.rungs import StoppingRule, build_rule
from search.samplers import build_sampler
from search.tpe import Rungs
from spaces import StudyConfig
from spaces.sampler import TpeConfig
from spaces.scheduler import MoashaConfig

PATH = RESULTS / "search_efficiency.csv"
FIGURE = RESULTS.parents[1] / "docs" / "images" / "search-efficiency.png"
EPOCHS, BUDGET = 27, 2700
RUNGS = (3, 3, EPOCHS)
Search = tuple[Proposer, Rule]
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


def by_tpe(seed: int, rungs: Rungs | None = None) -> Asked:
    """Proposals of goldenticket's own sampler."""
    return Asked(table(), study(), build_sampler(goldenticket(seed), rungs=rungs))


def own_rule(**settings: Any) -> StoppingRule:
    """The rule of goldenticket."""
    rule = build_rule(goldenticket(0, **settings))
    assert rule is not None
    return rule


def reading_rungs(seed: int, **settings: Any) -> Search:
    """The sampler reads the rungs of the rule."""
    rule = own_rule(**settings)
    return by_tpe(seed, rule), Own(rule)


def knowing(asked: Asked) -> Search:
    """Proposals with the rule that knows the end."""
    return asked, Knowing(asked.trainings.__getitem__, scale(), RUNGS[0])


def on_rung_score(metrics: Metrics) -> float:
    """What stock ASHA is given."""
    return metrics["rung_score"]


def losses(metrics: Metrics) -> list[float]:
    """What Syne Tune is given."""
    return [1 - share for share in shares(metrics)]


VARIANTS: dict[str, Callable[[int], Search]] = {
    "random": lambda seed: (at_random(seed), never),
    "optunasearch": lambda seed: (RaysOptunaSearch(table(), study(), seed), never),
    "random + asha on rung_score": lambda seed: (at_random(seed), RaysAsha(on_rung_score, RUNGS)),
    "random + asha on a sum": lambda seed: (
        at_random(seed), RaysAsha(lambda metrics: sum(shares(metrics)), RUNGS)
    ),
    "random + syne moasha": lambda seed: (at_random(seed), SyneTune(losses, RUNGS)),
    "random + moasha": lambda seed: (at_random(seed), Own(own_rule())),
    "tpe": lambda seed: (by_tpe(seed), never),
    "tpe + moasha": lambda seed: (by_tpe(seed), Own(own_rule())),
    "tpe + moasha promotion": lambda seed: reading_rungs(seed, variant="promotion"),
    "tpe, rungs + moasha": reading_rungs,
    "random + knowing": lambda seed: knowing(at_random(seed)),
    "tpe + knowing": lambda seed: knowing(by_tpe(seed)),
}  # fmt: skip
"""By name: what proposes, and what stops."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Replay one search: a row of the results."""
    variant, seed = job["variant"], job["seed"]
    proposer, rule = VARIANTS[variant](seed)
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
    parser.add_argument("--seeds", type=int, default=60)
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
