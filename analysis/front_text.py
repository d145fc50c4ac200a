"""A front as JSON, as comma-separated values, and in sentences."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.intervals import LEVEL
from analysis.pareto import direction_of
from analysis.recorded import StudyRecord, Trial
from analysis.seeds import SeedGroup
from analysis.told_apart import alike, compared, groups

if TYPE_CHECKING:
    from analysis.front_model import Front

_MOST_GROUPS, _MOST_NAMES = 4, 8


def to_json(front: Front) -> str:
    """One JSON document: the question, how the figures were obtained, the members."""
    first, study = front.members[0], front.study
    document: dict[str, Any] = {
        "study": study.name,
        "tracking_uri": study.tracking_uri,
        "study_runs": list(study.run_ids),
        "studies": [_of_study(part) for part in front.studies],
        "objectives": {name: direction_of(name) for name in front.objectives},
        "where": [str(constraint) for constraint in front.where],
        "split": first.split,
        "radius": first.radius,
        "bound": first.bound,
        "num_examples": first.num_examples,
        **_counts(study),
        "num_candidates": len(front.candidates),
        "num_unranked": len(front.unranked),
        "epsilon": {name: str(tolerance) for name, tolerance in front.epsilon.items()},
        "num_thinned": len(front.thinned),
        "thinned": {run_id: kept.run_id for run_id, kept in front.thinned.items()},
        "hypervolume": None
        if front.reference is None
        else {"value": front.hypervolume(), "reference": dict(front.reference)},
        "grouped_by_seed": front.num_repeats is not None,
        "confidence": {
            "level": LEVEL,
            "intervals": "Wilson",
            "told_apart": "McNemar's exact test at the least favourable pairing of the examples",
            "told_apart_by": compared(front.members, front.objectives),
        },
        "members": _members(front),
    }
    return json.dumps(document, indent=2, allow_nan=False)


def _of_study(study: StudyRecord) -> dict[str, Any]:
    return {
        "study": study.name,
        "tracking_uri": study.tracking_uri,
        "study_runs": list(study.run_ids),
        **_counts(study),
    }


def _counts(study: StudyRecord) -> dict[str, int]:
    return {f"num_{state}": study.count(state) for state in ("completed", "stopped", "failed")}


def _members(front: Front) -> list[dict[str, Any]]:
    members = front.members
    like = alike(members, compared(members, front.objectives))
    shares = None if front.reference is None else front.contributions()
    found = []
    for place, trial in enumerate(members):
        own = {
            "number": trial.number,
            "study": trial.study,
            "run_id": trial.run_id,
            "exact": trial.exact,
            "metrics": dict(sorted(trial.metrics.items())),
            "intervals": _intervals(trial),
            "cannot_be_told_apart_from": [members[b].run_id for b in sorted(like.get(place, ()))],
        }
        if shares is not None:
            own["hypervolume_contribution"] = shares[place]
        if isinstance(trial, SeedGroup):
            own |= _of_runs(trial)
        found.append({**own, "params": dict(sorted(trial.params.items()))})
    return found


def _intervals(trial: Trial) -> dict[str, tuple[float, float]]:
    found = {name: trial.interval(name) for name in sorted(trial.metrics)}
    return {name: interval for name, interval in found.items() if interval is not None}


def _of_runs(group: SeedGroup) -> dict[str, Any]:
    return {
        "num_seeds": len(group.runs),
        "lowest": {name: group.spread(name)[0] for name in sorted(group.metrics)},
        "highest": {name: group.spread(name)[1] for name in sorted(group.metrics)},
        "runs": [
            {
                "number": run.number,
                "study": run.study,
                "run_id": run.run_id,
                "seed": run.params.get("seed"),
                "metrics": dict(sorted(run.metrics.items())),
            }
            for run in group.runs
        ],
    }


def to_csv(front: Front) -> str:
    """The table as comma-separated values, with what each figure may vary by."""
    low, high = ("low", "high") if front.num_repeats is None else ("lowest", "highest")
    columns: list[str] = []
    for name in front.columns():
        columns.append(name)
        if any(front.range_of(trial, name) for trial in front.members):
            columns += [f"{name}_{low}", f"{name}_{high}"]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for trial, row in zip(front.members, front.table(), strict=True):
        for name in list(row):
            if found := front.range_of(trial, name):
                row |= {f"{name}_{low}": found[0], f"{name}_{high}": found[1]}
        writer.writerow(row)
    return out.getvalue()


def notes(front: Front) -> list[str]:
    """What else to know of the figures, for people: a sentence each."""
    found = [] if front.num_repeats is None else _about_seeds(front)
    if front.epsilon:
        found.append(_about_thinning(front))
    if front.reference is not None:
        found.append(_about_hypervolume(front))
    return [*found, *_about_likeness(front)]


def _about_seeds(front: Front) -> list[str]:
    found = [
        "figures are means over the seeds of a configuration, and the front is that of the means; "
        "trial and run are those of the best verified one"
    ]
    if max(len(trial.runs) for trial in front.candidates) == 1:
        found = ["no configuration has completed with more than one seed"]
        if len(front.study.run_ids) == len(front.studies):
            found[0] += '; --study-run all (study_run="all") takes all searches of a study together'
    if front.num_repeats:
        found.append(
            f"{front.num_repeats} runs repeat the configuration and seed of a later one, and do "
            "not count"
        )
    return found


def _about_thinning(front: Front) -> str:
    given = ", ".join(f"{name}={text}" for name, text in front.epsilon.items())
    total = len(front.members) + len(front.thinned)
    return (
        f"thinned by {given}: {len(front.thinned)} of {total} members of the front left out, "
        "none better by more than that than the one kept for it"
    )


def _about_hypervolume(front: Front) -> str:
    assert front.reference is not None
    point = ", ".join(f"{name}={value:g}" for name, value in front.reference.items())
    idle = sum(not _is_better(trial, front.reference) for trial in front.members)
    what = f"{idle} of {len(front.members)} members are not better than it in all, and add nothing"
    return f"hypervolume {front.hypervolume():.6g} up to {point}" + f"; {what}" * (idle > 0)


def _is_better(trial: Trial, reference: Any) -> bool:
    return all(
        trial.metrics[name] > value
        if direction_of(name) == "maximize"
        else trial.metrics[name] < value
        for name, value in reference.items()
    )


def _about_likeness(front: Front) -> list[str]:
    members, labels = front.members, front.labels()
    names = compared(members, front.objectives)
    like = alike(members, names)
    found = groups(like)
    if not found:
        return []
    what = f"in {_accuracies(names)} on {members[0].num_examples} examples (95 %)"
    if len(found[0]) == len(members) > 2:
        return [f"no two of the members can be told apart {what}"]
    if len(found) > _MOST_GROUPS:
        every = len(members) * (len(members) - 1) // 2
        pairs = sum(map(len, like.values())) // 2
        return [
            f"{pairs} of the {every} pairs of members cannot be told apart {what}: --format json "
            "says which"
        ]
    texts = [_listed([labels[members[place].run_id] for place in group]) for group in found]
    if len(texts) == 1:
        return [f"members {texts[0]} cannot be told apart {what}"]
    return [f"cannot be told apart {what}: {'; '.join(texts)}"]


def _listed(words: Sequence[str]) -> str:
    if len(words) > _MOST_NAMES:
        return f"{', '.join(words[: _MOST_NAMES - 2])} and {len(words) - _MOST_NAMES + 2} others"
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _accuracies(names: Sequence[str]) -> str:
    """`natural and verified accuracy`; whole names where they have more to say."""
    short = [name.removesuffix("_accuracy").replace("_", " ") for name in names]
    if all(name.endswith("_accuracy") for name in names):
        return f"{_listed(short)} accuracy"
    return _listed([name.replace("_", " ") for name in names])
