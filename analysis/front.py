"""The Pareto front of a study, and the answers to questions about it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import pareto
from analysis.errors import FrontError
from analysis.pareto import direction_of
from analysis.recorded import StudyRecord, Trial
from analysis.store import NEWEST, are_there, read_study
from spaces.metrics import Constraint, Direction, metric
from spaces.study import DEFAULT_OBJECTIVES

RULES = ("verified", "natural", "smallest", "knee")
COLUMNS = (
    "natural_accuracy",
    "verified_accuracy",
    "falsified_accuracy_bound",
    "exact_verified_accuracy",
    "exact_falsified_accuracy_bound",
    "density",
    "num_active_parameters",
    "inference_flops",
)

# Each rule is an order: the first metric decides, the others break ties.
_ORDERS = {
    "verified": ("verified_accuracy", "natural_accuracy", "inference_flops"),
    "natural": ("natural_accuracy", "verified_accuracy", "inference_flops"),
    "smallest": ("inference_flops", "verified_accuracy", "natural_accuracy"),
}


@dataclass(frozen=True)
class Front:
    """The completed trials of a study that satisfy `where` and that no other such trial dominates.

    `candidates` are the completed trials that satisfy `where`; `members` are those on the front.
    `unranked` are completed trials that lack an objective, and take no part.
    """

    study: StudyRecord
    objectives: tuple[str, ...]
    where: tuple[Constraint, ...]
    candidates: tuple[Trial, ...]
    members: tuple[Trial, ...]
    unranked: tuple[Trial, ...]

    def best(self, rule: str = "verified") -> Trial:
        """One trial: `verified`, `natural`, `smallest` (fewest FLOPs) or `knee` (see pareto.knee).

        Ties go to the trial that is better in the other two figures, then to the earlier one.
        """
        check_rule(rule)
        if rule == "knee":
            return self.members[pareto.knee(self._values(self.members), self._directions())]
        order = _ORDERS[rule]
        for name in order:
            lacking = [trial.run_id for trial in self.candidates if name not in trial.metrics]
            if lacking:
                raise FrontError(
                    f"rule {rule} compares {name}, which run {lacking[0]} has not recorded"
                )
        return min(self.candidates, key=lambda trial: [_cost(trial, name) for name in order])

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """Volume dominated, up to a `reference` (the worst value that counts) per objective."""
        absent = [name for name in self.objectives if name not in reference]
        if absent:
            raise FrontError(f"reference has no value for {', '.join(absent)}: give one for each")
        return pareto.hypervolume(
            self._values(self.members),
            self._directions(),
            [reference[name] for name in self.objectives],
        )

    @property
    def provenance(self) -> str:
        """How the figures of its members were obtained, for people."""
        own = self.members[0].provenance
        if late := max(trial.num_timeouts for trial in self.members):
            own += f", up to {late} left open for lack of time"
        found = [trial.exact for trial in self.members if trial.exact is not None]
        if not found:
            return own
        steps = set(self.members[0].bound.split("+"))
        more = [name for name in str(found[0]["bound"]).split("+") if name not in steps]
        most = max(int(exact["num_unknown"]) for exact in found)
        left = f"{f'at most {most}' if most else 'none'} of {found[0]['num_examples']} open"
        return f"{own}  ·  exact: by {' + '.join(more) or 'the same'} too, {left}"

    def columns(self) -> list[str]:
        """The keys of the rows of `table`, in order; a row lacks those that its trial has not."""
        names = dict.fromkeys([*self.objectives, *COLUMNS])
        recorded = [n for n in names if any(n in trial.metrics for trial in self.members)]
        return ["number", *recorded, "method", "run_id"]

    def table(self) -> list[dict[str, str | int | float]]:
        """One row per member, best verified accuracy first: number, metrics, method, run_id."""
        names = self.columns()
        return [
            {
                "number": trial.number,
                **{name: trial.metrics[name] for name in names if name in trial.metrics},
                "method": trial.method,
                "run_id": trial.run_id,
            }
            for trial in self.members
        ]

    def to_json(self) -> str:
        """One JSON document: the question, how the figures were obtained, the members."""
        first = self.members[0]
        document = {
            "study": self.study.name,
            "tracking_uri": self.study.tracking_uri,
            "study_runs": list(self.study.run_ids),
            "objectives": {name: direction_of(name) for name in self.objectives},
            "where": [str(constraint) for constraint in self.where],
            "split": first.split,
            "radius": first.radius,
            "bound": first.bound,
            "num_examples": first.num_examples,
            "num_completed": self.study.count("completed"),
            "num_stopped": self.study.count("stopped"),
            "num_failed": self.study.count("failed"),
            "num_candidates": len(self.candidates),
            "num_unranked": len(self.unranked),
            "members": [
                {
                    "number": trial.number,
                    "run_id": trial.run_id,
                    "exact": trial.exact,
                    "metrics": dict(sorted(trial.metrics.items())),
                    "params": dict(sorted(trial.params.items())),
                }
                for trial in self.members
            ],
        }
        return json.dumps(document, indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """The table as comma-separated values with a header row."""
        rows = self.table()
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns(), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def _directions(self) -> list[Direction]:
        return [direction_of(name) for name in self.objectives]

    def _values(self, trials: Sequence[Trial]) -> list[list[float]]:
        return [[trial.metrics[name] for name in self.objectives] for trial in trials]


def check_rule(rule: str) -> None:
    """Raise FrontError when `rule` is not one that `Front.best` knows."""
    if rule not in RULES:
        raise FrontError(f"there is no rule {rule!r}: use {', '.join(RULES[:-1])} or {RULES[-1]}")


def load_front(
    study: str | Path,
    *,
    tracking_uri: str | None = None,
    where: Sequence[str | Constraint] = (),
    objectives: Sequence[str] | None = None,
    study_run: str = NEWEST,
) -> Front:
    """The front of a study, given by its name in the tracking store or its YAML file.

    Only completed trials count: a stopped trial was measured at low fidelity. `where` holds
    constraints such as "verified_accuracy >= 0.8"; `objectives` default to the study's own.
    `study_run` is `newest`, `all` searches of that name together, or the run id of one of them.

    FrontError when the store or the study does not exist, no trial has completed, or none satisfies
    `where`: it then names the nearest trial and by how much it misses.
    """
    constraints = tuple(c if isinstance(c, Constraint) else Constraint.parse(c) for c in where)
    record = read_study(study, tracking_uri=tracking_uri, study_run=study_run)
    found = _front(record, constraints, objectives)
    unconfirmed = record.unconfirmed & {trial.run_id for trial in found.members}
    if are_there(record.tracking_uri, unconfirmed):
        return found
    record = read_study(study, tracking_uri=tracking_uri, study_run=study_run, use_index=False)
    return _front(record, constraints, objectives)


def _front(
    record: StudyRecord, constraints: tuple[Constraint, ...], objectives: Sequence[str] | None
) -> Front:
    names = tuple(objectives or record.objectives or DEFAULT_OBJECTIVES)
    directions = [direction_of(name) for name in names]
    completed = [trial for trial in record.trials if trial.state == "completed"]
    if not completed:
        raise FrontError(_none_completed(record))
    ranked = [trial for trial in completed if all(name in trial.metrics for name in names)]
    if not ranked:
        raise FrontError(
            f"no completed trial of study {record.name!r} has recorded all of {', '.join(names)}: "
            f"recorded are {', '.join(sorted(completed[0].metrics))}"
        )
    candidates = [t for t in ranked if all(_holds(t, c) for c in constraints)]
    if not candidates:
        raise FrontError(_nearest_miss(ranked, constraints))
    values = [[trial.metrics[name] for name in names] for trial in candidates]
    keep = pareto.nondominated(values, directions)
    members = [trial for trial, kept in zip(candidates, keep, strict=True) if kept]
    members.sort(key=lambda trial: [_cost(trial, name) for name in _table_order(names)])
    lacking = {trial.run_id for trial in completed} - {trial.run_id for trial in ranked}
    unranked = tuple(trial for trial in completed if trial.run_id in lacking)
    return Front(record, names, constraints, tuple(candidates), tuple(members), unranked)


def _table_order(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: name != "verified_accuracy")


def _cost(trial: Trial, name: str) -> float:
    value = trial.metrics[name]
    return -value if direction_of(name) == "maximize" else value


def _none_completed(record: StudyRecord) -> str:
    return (
        f"study {record.name!r} has no completed trial yet ({len(record.trials)} recorded: "
        f"{record.count('stopped')} stopped early, {record.count('failed')} failed, "
        f"{record.count('running')} running): wait for it, or raise budget.trials. Stopped trials "
        "never enter the front, because they were measured before their training ended"
    )


def _nearest_miss(trials: Sequence[Trial], constraints: Sequence[Constraint]) -> str:
    # Relative to the bound, so that FLOPs and fractions weigh alike.
    def total_miss(trial: Trial) -> float:
        return sum(_miss(trial, c) / (abs(c.bound) or 1.0) for c in constraints)

    nearest = min(trials, key=total_miss)
    reasons = [f"{c} ({_why(nearest, c)})" for c in constraints if not _holds(nearest, c)]
    return (
        f"none of the {len(trials)} completed trials satisfies "
        f"{' and '.join(map(str, constraints))}. The nearest is trial {nearest.number} (run "
        f"{nearest.run_id}), which fails {' and '.join(reasons)}: loosen the constraint, or search "
        "longer"
    )


def _holds(trial: Trial, constraint: Constraint) -> bool:
    """Whether a trial satisfies a constraint; one that has not recorded the metric does not."""
    return constraint.metric in trial.metrics and constraint.holds(trial.metrics)


def _miss(trial: Trial, constraint: Constraint) -> float:
    if constraint.metric not in trial.metrics:
        return math.inf
    return max(0.0, constraint.violation(trial.metrics))


def _why(trial: Trial, constraint: Constraint) -> str:
    name = constraint.metric
    if name not in trial.metrics:
        of_front = metric(name).of_front
        return f"{name} is not recorded{': it is found for members of the front' * of_front}"
    return f"it has {trial.metrics[name]:.6g}, which misses by {_miss(trial, constraint):.4g}"
