"""Settings that are allowed and will have no effect, or not the one that was meant.

They are said when a search starts, before they cost hours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from search.records import SearchRun
from spaces.sampler import GpConfig, Nsga2Config, Nsga3Config, TpeConfig
from spaces.study import StudyConfig


def remarks(run: SearchRun) -> list[str]:
    """A line each."""
    found = [*_of_space(run.study), *_of_sampler(run.study)]
    return found + list(_of_local(run.study)) if run.executor == "local" else found


def _of_space(study: StudyConfig) -> Iterator[str]:
    if study.budget.trials > 1 and not study.search_space().parameters():
        yield f"space has no holes: all {study.budget.trials} trials are the same training"


def _of_sampler(study: StudyConfig) -> Iterator[str]:
    sampler, trials = study.sampler, study.budget.trials
    if isinstance(sampler, TpeConfig | GpConfig) and not study.warm_start.studies:
        if trials <= sampler.startup_trials:
            yield (
                f"sampler {sampler.name} learns from trial {sampler.startup_trials + 1} on "
                f"(startup_trials): none of these {trials} is proposed by what it has learned"
            )
    if isinstance(sampler, Nsga2Config | Nsga3Config) and trials <= sampler.population_size:
        yield (
            f"sampler {sampler.name} draws its first {sampler.population_size} trials at random "
            f"(population_size): so all of these {trials}"
        )


def _of_local(study: StudyConfig) -> Iterator[str]:
    resources, cores = study.resources, os.cpu_count() or 1
    if resources.gpus_per_trial > 0.0:
        yield "executor local reserves no GPU: resources.gpus_per_trial has no effect"
    if resources.cpus_per_trial > cores:
        yield (
            f"resources.cpus_per_trial: {resources.cpus_per_trial} threads on {cores} CPUs make "
            "trials slower"
        )
