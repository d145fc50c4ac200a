"""Names and conditions in a question about studies, and what to tell when there is no answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from analysis.errors import FrontError
from analysis.recorded import StudyRecord, Trial
from spaces.constraint import Constraint
from spaces.metrics import metric, radius_metric

T = TypeVar("T")
VERIFIED = "verified_accuracy"


class Names:
    """How metrics that a question names are recorded: one may be named by its radius.

    verified_accuracy_at_<evaluation radius> is recorded as verified_accuracy.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        radii = {trial.radius for trial in trials if trial.radius is not None}
        self._same = {radius_metric(radius): VERIFIED for radius in radii}

    def of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The recorded names, each once."""
        return tuple(dict.fromkeys(self._same.get(name, name) for name in names))

    def keys(self, values: Mapping[str, T]) -> dict[str, T]:
        """The same mapping with the recorded names."""
        return {self._same.get(name, name): value for name, value in values.items()}

    def constraint(self, constraint: Constraint) -> Constraint:
        """The same condition on the recorded name."""
        name = self._same.get(constraint.metric, constraint.metric)
        return constraint.model_copy(update={"metric": name})


def holds(trial: Trial, constraint: Constraint) -> bool:
    """Whether a trial satisfies a constraint; one that has not recorded the metric does not."""
    return constraint.metric in trial.metrics and constraint.holds(trial.metrics)


def with_all(study: StudyRecord, completed: Sequence[Trial], names: Sequence[str]) -> list[Trial]:
    """The completed trials of a study that have recorded all of these metrics.

    FrontError when there is none: it says which metric is missing, and what is recorded.
    """
    if not completed:
        raise FrontError(_none_completed(study))
    found = [trial for trial in completed if all(name in trial.metrics for name in names)]
    if found:
        return found
    recorded = {name for trial in completed for name in trial.metrics}
    absent = [name for name in names if name not in recorded]
    if not absent:
        raise FrontError(
            f"no completed trial of study {study.name!r} has recorded all of {', '.join(names)}, "
            "though each of them is recorded by some: ask for fewer objectives"
        )
    raise FrontError(
        f"no completed trial of study {study.name!r} has recorded {', '.join(absent)}: "
        f"{_what_is_recorded(absent, completed)}"
    )


def nearest_miss(trials: Sequence[Trial], constraints: Sequence[Constraint]) -> str:
    """Which trial comes nearest to the constraints that none satisfies, and what it misses."""

    # Relative to the bound, so that FLOPs and fractions weigh alike.
    def total_miss(trial: Trial) -> float:
        return sum(_miss(trial, c) / (abs(c.bound) or 1.0) for c in constraints)

    unknown = _unknown(trials, constraints)
    if unknown:
        return unknown
    nearest = min(trials, key=total_miss)
    reasons = [f"{c} ({_why(nearest, c)})" for c in constraints if not holds(nearest, c)]
    several = len({trial.study for trial in trials}) > 1
    place = f"run {nearest.run_id}{f' of study {nearest.study}' * several}"
    counted = "completed trials" if len(nearest.runs) == 1 else "configurations"
    return (
        f"none of the {len(trials)} {counted} satisfies {' and '.join(map(str, constraints))}. "
        f"The nearest is trial {nearest.number} ({place}), which fails {' and '.join(reasons)}: "
        "loosen the constraint, or search longer"
    )


def _unknown(trials: Sequence[Trial], constraints: Sequence[Constraint]) -> str:
    """That there is no trial to which a constraint applies; empty when each has one."""
    recorded = {name for trial in trials for name in trial.metrics}
    absent = dict.fromkeys(c.metric for c in constraints if c.metric not in recorded)
    if not absent:
        return ""
    if all(metric(name).of_front for name in absent):
        what = "it is found for members of the front, once a search has ended"
    else:
        what = _what_is_recorded(list(absent), trials)
    return (
        f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not recorded by any of the "
        f"{len(trials)} completed trials, so no constraint on it can hold: {what}"
    )


def _none_completed(study: StudyRecord) -> str:
    return (
        f"study {study.name!r} has no completed trial yet ({len(study.trials)} recorded: "
        f"{study.count('stopped')} stopped early, {study.count('failed')} failed, "
        f"{study.count('running')} running): wait for it, or raise budget.trials. Stopped trials "
        "never enter the front, because they were measured before their training ended"
    )


def _what_is_recorded(absent: Sequence[str], trials: Sequence[Trial]) -> str:
    recorded = {name for trial in trials for name in trial.metrics}
    at = radius_metric(0.0)[:-1]
    if all(name.startswith(at) for name in absent):
        radii = sorted(float(name.removeprefix(at)) for name in recorded if name.startswith(at))
        here = trials[0].radius
        own = [] if here is None else [f"{VERIFIED} is at {here:g}"]
        return (
            "verified accuracy is known at the radii of the study file only: "
            + ", ".join([*own, *(f"{radius_metric(r)}" for r in radii)])
            + ". Ask for one of these, or search with it among evaluation.radii"
        )
    return f"recorded are {', '.join(sorted(recorded))}"


def _miss(trial: Trial, constraint: Constraint) -> float:
    if constraint.metric not in trial.metrics:
        return math.inf
    return max(0.0, constraint.violation(trial.metrics))


def _why(trial: Trial, constraint: Constraint) -> str:
    name = constraint.metric
    if name in trial.metrics:
        return f"it has {trial.metrics[name]:.6g}, which misses by {_miss(trial, constraint):.4g}"
    if metric(name).of_front:
        return f"{name} is not recorded: it is found for members of the front"
    return f"{name} is not recorded"
