"""Trials of one configuration under several seeds, as one row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.recorded import Trial

# Where and how fast a trial ran, and where its data lay, is no part of its configuration.
_NO_SETTINGS = ("seed", "data.folder", "data.download")
_LONGEST = 500  # characters of a parameter; longer ones end with "..."


@dataclass(frozen=True)
class SeedGroup(Trial):
    """Runs of one configuration that differ in their seed; `metrics` are the means over `runs`.

    Number, run id and tags are those of the run with the highest verified accuracy (the first of
    them), whose ticket is the group's.
    """

    runs: tuple[Trial, ...] = ()

    @property
    def study(self) -> str:
        """The names of its runs' studies."""
        return ", ".join(dict.fromkeys(run.study for run in self.runs))

    def counted(self, name: str) -> tuple[int, int] | None:
        """None: a mean over networks is no share of examples; `spread` says how far it varies."""
        return None

    def spread(self, name: str) -> tuple[float, float]:
        """The lowest and the highest value of one of its metrics."""
        values = [run.metrics[name] for run in self.runs]
        return min(values), max(values)


def group_by_seed(trials: Iterable[Trial]) -> tuple[list[Trial], int]:
    """One SeedGroup per configuration, in the order of their first runs; how many were left out.

    Of runs with the same configuration and the same seed, which repeat one experiment, the last
    one counts.
    """
    found: dict[str, dict[str, Trial]] = {}
    num_runs = 0
    for trial in trials:
        num_runs += 1
        found.setdefault(_configuration(trial), {})[trial.params.get("seed", trial.run_id)] = trial
    groups = [_group(tuple(by_seed.values())) for by_seed in found.values()]
    return list(groups), num_runs - sum(len(by_seed) for by_seed in found.values())


def _group(runs: tuple[Trial, ...]) -> SeedGroup:
    best = max(runs, key=lambda run: run.metrics.get("verified_accuracy", -math.inf))
    return SeedGroup(
        run_id=best.run_id,
        number=best.number,
        state=best.state,
        metrics=_means(runs),
        params=best.params,
        tags=best.tags,
        tracking_uri=best.tracking_uri,
        started=best.started,
        runs=runs,
    )


def _means(runs: tuple[Trial, ...]) -> Mapping[str, float]:
    common = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    return {name: math.fsum(run.metrics[name] for run in runs) / len(runs) for name in common}


def _configuration(trial: Trial) -> str:
    settings = {
        name: text
        for name, text in sorted(trial.params.items())
        if name not in _NO_SETTINGS and not name.startswith("compute.")
    }
    if any(len(text) >= _LONGEST for text in settings.values()):
        settings["run"] = trial.run_id  # what was cut off may differ
    return json.dumps(settings)
