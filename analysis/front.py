"""The Pareto front of one study or of several, and the answers to questions about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import pareto
from analysis.answers import Names, holds, nearest_miss, with_all
from analysis.comparable import check_comparable
from analysis.epsilon import Tolerance, parse_tolerances, stand_ins
from analysis.errors import FrontError
from analysis.front_model import COLUMNS, RULES, Front, check_objectives, check_rule, cost
from analysis.pareto import direction_of
from analysis.recorded import StudyRecord, Trial
from analysis.seeds import group_by_seed
from analysis.store import ALL, NEWEST, are_there, read_study
from spaces.constraint import Constraint
from spaces.study import DEFAULT_OBJECTIVES

__all__ = ["COLUMNS", "RULES", "Front", "check_rule", "load_front", "read_studies"]

Studies = str | Path | Sequence[str | Path]
"""A study's name in the tracking store or its YAML file, or several of them."""


def load_front(
    study: Studies,
    *,
    tracking_uri: str | None = None,
    where: Sequence[str | Constraint] = (),
    objectives: Sequence[str] | None = None,
    study_run: str = NEWEST,
    epsilon: Mapping[str, str | float] | None = None,
    group_seeds: bool = False,
) -> Front:
    """The front of one study or of several, by name in the tracking store or YAML file.

    Only completed trials count: a stopped trial was measured at low fidelity. `where` holds
    constraints such as "verified_accuracy >= 0.8"; `objectives` default to those of the first
    study. `study_run` is `newest`, `all` searches of that name together, or the run id of one of
    them. `epsilon` maps objectives to what does not matter there ({"natural_accuracy": 0.005,
    "inference_flops": "5%"}) and thins the front (analysis/epsilon.py). With `group_seeds`, trials
    that differ in their seed alone are one, with the means of their figures: constraints and front
    are those of the means (analysis/seeds.py).

    FrontError when the store or a study does not exist, no trial of it has completed or recorded
    the objectives, studies were measured differently, or no trial satisfies `where`: it then names
    the nearest trial and by how much it misses.
    """
    asked = _Question(
        tuple(c if isinstance(c, Constraint) else Constraint.parse(c) for c in where),
        None if objectives is None else tuple(objectives),
        dict(epsilon or {}),
        group_seeds,
    )
    studies = read_studies(study, tracking_uri=tracking_uri, study_run=study_run)
    found = asked.answer(studies)
    if _all_there(found):
        return found
    return asked.answer(
        read_studies(study, tracking_uri=tracking_uri, study_run=study_run, use_index=False)
    )


def read_studies(
    study: Studies,
    *,
    tracking_uri: str | None = None,
    study_run: str = NEWEST,
    use_index: bool = True,
) -> StudyRecord:
    """Read one study, or several as one; FrontError when there is none, or one is named twice."""
    names = [study] if isinstance(study, str | Path) else list(study)
    if not names:
        raise FrontError("no study is named: give at least one, by its name or its YAML file")
    if len(names) > 1 and study_run not in (NEWEST, ALL):
        raise FrontError(
            f"study_run {study_run} is a search of one study, but {len(names)} studies are named: "
            f"use {NEWEST} or {ALL}, or name that study alone"
        )
    found = [
        read_study(name, tracking_uri=tracking_uri, study_run=study_run, use_index=use_index)
        for name in names
    ]
    for place, record in enumerate(found):
        if any(set(record.run_ids) & set(other.run_ids) for other in found[:place]):
            raise FrontError(f"study {record.name!r} is named twice: leave one of them out")
    return StudyRecord.together(found)


@dataclass(frozen=True)
class _Question:
    where: tuple[Constraint, ...]
    objectives: tuple[str, ...] | None
    epsilon: Mapping[str, str | float]
    group_seeds: bool

    def answer(self, study: StudyRecord) -> Front:
        """The front of what has been read."""
        parts = study.parts or (study,)
        completed = [_completed(part) for part in parts]
        every = [trial for some in completed for trial in some]
        check_comparable(every)
        recorded_as = Names(every)
        names = recorded_as.of(self.objectives or study.objectives or DEFAULT_OBJECTIVES)
        for name in names:
            direction_of(name)  # refuses what is no objective
        where = tuple(recorded_as.constraint(c) for c in self.where)
        epsilon = recorded_as.keys(self.epsilon)
        check_objectives("epsilon", epsilon, names)
        tolerances = parse_tolerances(epsilon, names) if epsilon else {}

        pairs = zip(parts, completed, strict=True)
        ranked = [t for part, some in pairs for t in with_all(part, some, names)]
        num_repeats, rows = None, ranked
        if self.group_seeds:
            rows, num_repeats = group_by_seed(ranked)
        candidates = [trial for trial in rows if all(holds(trial, c) for c in where)]
        if not candidates:
            raise FrontError(nearest_miss(rows, where))
        members, thinned = _members(candidates, names, tolerances)
        has_all = {trial.run_id for trial in ranked}
        return Front(
            study=study,
            objectives=names,
            where=where,
            candidates=tuple(candidates),
            members=tuple(members),
            unranked=tuple(trial for trial in every if trial.run_id not in has_all),
            epsilon=tolerances,
            thinned=thinned,
            num_repeats=num_repeats,
        )


def _completed(study: StudyRecord) -> list[Trial]:
    return [trial for trial in study.trials if trial.state == "completed"]


def _members(
    candidates: Sequence[Trial], names: Sequence[str], tolerances: Mapping[str, Tolerance]
) -> tuple[list[Trial], dict[str, Trial]]:
    """The front, best verified first; and what was thinned out of it, by run id."""
    directions = [direction_of(name) for name in names]
    values = [[trial.metrics[name] for name in names] for trial in candidates]
    keep = pareto.nondominated(values, directions)
    members = [trial for trial, kept in zip(candidates, keep, strict=True) if kept]
    members.sort(key=lambda trial: [cost(trial, name) for name in _table_order(names)])
    if not tolerances:
        return members, {}
    values = [[trial.metrics[name] for name in names] for trial in members]
    places = stand_ins(values, directions, [tolerances[name] for name in names])
    kept = [trial for place, trial in enumerate(members) if places[place] == place]
    thinned = {
        trial.run_id: members[places[place]]
        for place, trial in enumerate(members)
        if places[place] != place
    }
    return kept, thinned


def _table_order(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: name != "verified_accuracy")


def _all_there(found: Front) -> bool:
    """Whether the store still has the trials that the front rests on, but for its index's word."""
    used = {trial.run_id for trial in found.members} | found.thinned.keys()
    if found.num_repeats is not None:  # a group may be off the front by a run that is gone
        used = {trial.run_id for trial in found.study.trials if trial.state == "completed"}
    return all(are_there(s.tracking_uri, s.unconfirmed & used) for s in found.studies)
