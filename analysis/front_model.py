"""A Pareto front: its members, and the answers that it gives."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis import front_text, pareto
from analysis.answers import Names
from analysis.epsilon import Tolerance
from analysis.errors import FrontError
from analysis.pareto import direction_of
from analysis.recorded import StudyRecord, Trial
from analysis.seeds import SeedGroup
from spaces.constraint import Constraint
from spaces.metrics import Direction, metric

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
    `unranked` are completed trials that lack an objective, and take no part. `study` is several
    studies together where the question was about several (`studies`).

    With `epsilon`, tolerances by objective, `thinned` maps the run id of each trial that was taken
    off the front to the member that stands for it. With `num_repeats`, trials are SeedGroups, and
    that many runs were left out since another has their configuration and seed. `reference` is
    the point up to which `to_json` and notes give the hypervolume.
    """

    study: StudyRecord
    objectives: tuple[str, ...]
    where: tuple[Constraint, ...]
    candidates: tuple[Trial, ...]
    members: tuple[Trial, ...]
    unranked: tuple[Trial, ...]
    epsilon: Mapping[str, Tolerance] = dataclasses.field(default_factory=dict)
    thinned: Mapping[str, Trial] = dataclasses.field(default_factory=dict)
    num_repeats: int | None = None
    reference: Mapping[str, float] | None = None

    @property
    def studies(self) -> tuple[StudyRecord, ...]:
        """The studies that were asked, in order."""
        return self.study.parts or (self.study,)

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
        return min(self.candidates, key=lambda trial: [cost(trial, name) for name in order])

    def only(self, rule: str) -> Front:
        """The same question with the one trial that a rule picks as its only member."""
        return dataclasses.replace(
            self, members=(self.best(rule),), epsilon={}, thinned={}, reference=None
        )

    def up_to(self, reference: Mapping[str, float]) -> Front:
        """The same front with a reference point for its hypervolume, a value per objective."""
        given = Names(self.candidates).keys(reference)
        check_objectives("reference", given, self.objectives)
        absent = [name for name in self.objectives if name not in given]
        if absent:
            raise FrontError(f"reference has no value for {', '.join(absent)}: give one for each")
        return dataclasses.replace(self, reference={name: given[name] for name in self.objectives})

    def hypervolume(self, reference: Mapping[str, float] | None = None) -> float:
        """Volume dominated, up to a `reference` (the worst value that counts) per objective."""
        return pareto.hypervolume(
            self._values(self.members), self._directions(), self._point(reference)
        )

    def contributions(self, reference: Mapping[str, float] | None = None) -> list[float]:
        """By how much the hypervolume is smaller without each member: what it alone dominates."""
        return pareto.contributions(
            self._values(self.members), self._directions(), self._point(reference)
        )

    @property
    def provenance(self) -> str:
        """How the figures of its members were obtained, for people."""
        own = self.members[0].provenance
        if late := max(trial.num_timeouts for trial in self.members):
            own += f", up to {late} left open for lack of time"
        have = [trial for trial in self.members if "exact_verified_accuracy" in trial.metrics]
        found = [trial.exact for trial in have if trial.exact is not None]
        if not found:
            return own
        steps = set(self.members[0].bound.split("+"))
        more = [name for name in str(found[0]["bound"]).split("+") if name not in steps]
        most = max(int(exact["num_unknown"]) for exact in found)
        left = f"{f'at most {most}' if most else 'none'} of {found[0]['num_examples']} open"
        return f"{own}  ·  exact: by {' + '.join(more) or 'the same'} too, {left}"

    @property
    def notes(self) -> list[str]:
        """What else to know of the figures, for people: a sentence each."""
        return front_text.notes(self)

    def labels(self) -> dict[str, str]:
        """A short name for each member, by run id: its number, if that is clear enough."""
        names: list[dict[str, str]] = [
            {trial.run_id: f"{trial.number}" for trial in self.members},
            {trial.run_id: f"{trial.study}/{trial.number}" for trial in self.members},
            {trial.run_id: trial.run_id[:8] for trial in self.members},
        ]
        clear = [some for some in names if max(Counter(some.values()).values()) == 1]
        return clear[0] if clear else {trial.run_id: trial.run_id for trial in self.members}

    def columns(self) -> list[str]:
        """The keys of the rows of `table`, in order; a row lacks those that its trial has not.

        `study` is among them where several were asked, `seeds` where trials are groups of seeds.
        """
        names = dict.fromkeys([*self.objectives, *(c.metric for c in self.where), *COLUMNS])
        recorded = [n for n in names if any(n in trial.metrics for trial in self.members)]
        study = ["study"] if len(self.studies) > 1 else []
        seeds = ["seeds"] if self.num_repeats is not None else []
        return [*study, "number", *seeds, *recorded, "method", "run_id"]

    def table(self) -> list[dict[str, str | int | float]]:
        """One row per member, best verified accuracy first: number, metrics, method, run_id."""
        names = self.columns()
        rows = []
        for trial in self.members:
            own: dict[str, str | int | float] = {
                "study": trial.study,
                "number": trial.number,
                "seeds": len(trial.runs),
                **{name: trial.metrics[name] for name in names if name in trial.metrics},
                "method": trial.method,
                "run_id": trial.run_id,
            }
            rows.append({name: own[name] for name in names if name in own})
        return rows

    def to_json(self) -> str:
        """One JSON document: the question, how the figures were obtained, the members."""
        return front_text.to_json(self)

    def to_csv(self) -> str:
        """The table as comma-separated values with a header row.

        After each accuracy its 95 % interval, <name>_low and <name>_high; of groups of seeds,
        after every metric the <name>_lowest and <name>_highest of their runs.
        """
        return front_text.to_csv(self)

    def range_of(self, trial: Trial, name: str) -> tuple[float, float] | None:
        """What stands beside a figure: lowest and highest over seeds, or else its interval."""
        if isinstance(trial, SeedGroup):
            return trial.spread(name) if name in trial.metrics else None
        return trial.interval(name)

    def _point(self, reference: Mapping[str, float] | None) -> list[float]:
        found = self if reference is None else self.up_to(reference)
        if found.reference is None:
            raise FrontError("the hypervolume needs a reference: give a value for each objective")
        return [found.reference[name] for name in self.objectives]

    def _directions(self) -> list[Direction]:
        return [direction_of(name) for name in self.objectives]

    def _values(self, trials: Sequence[Trial]) -> list[list[float]]:
        return [[trial.metrics[name] for name in self.objectives] for trial in trials]


def check_rule(rule: str) -> None:
    """Raise FrontError when `rule` is not one that `Front.best` knows."""
    if rule not in RULES:
        raise FrontError(f"there is no rule {rule!r}: use {', '.join(RULES[:-1])} or {RULES[-1]}")


def check_objectives(what: str, names: Mapping[str, object], objectives: Sequence[str]) -> None:
    """Raise FrontError when a value is given for a metric that is no objective.

    ConfigError when there is no such metric.
    """
    surplus = [name for name in names if metric(name).name not in objectives]
    if surplus:
        raise FrontError(
            f"{what} names {', '.join(surplus)}, which is no objective here: the objectives are "
            f"{', '.join(objectives)}"
        )


def cost(trial: Trial, name: str) -> float:
    """A metric's value so that less of it is better."""
    value = trial.metrics[name]
    return -value if direction_of(name) == "maximize" else value
