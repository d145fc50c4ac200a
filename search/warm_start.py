"""Warm start: trials of earlier studies, which the sampler knows before its first proposal.

They are read from MLflow once, when a search begins, and kept in its journal: so a resumed search
knows the same ones, whatever has become of the earlier study. Only what was measured as this study
measures, with settings that this study could have proposed, is used; the rest is told by reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from optuna import Study
from optuna.trial import FrozenTrial

from analysis.recorded import StudyRecord
from analysis.store import ALL, read_study
from search.known_trials import EARLIER_RUN, KnownTrials, Unusable
from spaces.base import ConfigError
from spaces.study import StudyConfig

_ALL_ADDED = "goldenticket.warm_start"
_MOST_REASONS = 5


@dataclass(frozen=True)
class Earlier:
    """Trials of earlier studies that can be used, and a line for people about each study."""

    trials: tuple[FrozenTrial, ...]
    told: tuple[str, ...]


def read_earlier(study: StudyConfig) -> Earlier:
    """Read the studies of `warm_start`; ConfigError when one has no trial of use.

    FrontError when there is no such study or store.
    """
    trials: dict[str, FrozenTrial] = {}
    told = []
    for name in dict.fromkeys(study.warm_start.studies):
        # A study's file says itself where it is recorded.
        own = None if name.endswith((".yaml", ".yml")) else study.tracking.uri
        uri = study.warm_start.tracking_uri or own
        record = read_study(name, tracking_uri=uri, study_run=ALL)
        found, unused = _usable(study, record, trials)
        if not found:
            raise ConfigError(_nothing(study, record, unused))
        trials |= found
        told.append(_told(record, found, unused))
    return Earlier(tuple(trials.values()), tuple(told))


def add_earlier(asked: Study, study: StudyConfig, earlier: Earlier | None) -> tuple[str, ...]:
    """Let a search's Optuna study know the earlier trials, once; what a person is to be told.

    Nothing when it knows them already. `earlier` is read when it is not given.
    """
    if not study.warm_start.studies or _ALL_ADDED in asked.user_attrs:
        return ()
    earlier = earlier or read_earlier(study)
    # Some are there if the search was killed at this point.
    there = {trial.user_attrs.get(EARLIER_RUN) for trial in asked.get_trials(deepcopy=False)}
    for trial in earlier.trials:
        if trial.user_attrs[EARLIER_RUN] not in there:
            asked.add_trial(trial)
    asked.set_user_attr(_ALL_ADDED, earlier.told)
    return earlier.told


def _usable(
    study: StudyConfig, record: StudyRecord, before: Mapping[str, FrozenTrial]
) -> tuple[dict[str, FrozenTrial], Counter[str]]:
    """Known trials by their parameters, and why others are none."""
    reader = KnownTrials(study)
    found: dict[str, FrozenTrial] = {}
    unused: Counter[str] = Counter()
    for trial in record.trials:
        try:
            known = reader.known(trial)
        except Unusable as reason:
            unused[str(reason)] += 1
            continue
        key = json.dumps(known.params, sort_keys=True)
        if key in found or key in before:
            unused["same settings as another trial"] += 1
        else:
            found[key] = known
    return found, unused


def _told(record: StudyRecord, found: Mapping[str, FrozenTrial], unused: Counter[str]) -> str:
    line = (
        f"warm start from {record.name}: the sampler knows {len(found)} of its "
        f"{len(record.trials)} trials"
    )
    return f"{line}; not used: {_reasons(unused)}" if unused else line


def _nothing(study: StudyConfig, record: StudyRecord, unused: Counter[str]) -> str:
    why = f": {_reasons(unused)}" if unused else ""
    return (
        f"warm_start.studies: none of the {len(record.trials)} trials of {record.name} in "
        f"{record.tracking_uri} can be used{why}. Completed trials count that were "
        f"measured on the same data, radius ({study.evaluation.radius:g}), examples and bounds "
        f"after {study.budget.epochs} epochs, with settings inside this space: change the study, "
        f"or leave {record.name} out"
    )


def _reasons(unused: Counter[str]) -> str:
    most = [f"{count} ({reason})" for reason, count in unused.most_common(_MOST_REASONS)]
    rest = unused.total() - sum(count for _, count in unused.most_common(_MOST_REASONS))
    return ", ".join([*most, *([f"{rest} for other reasons"] if rest else [])])
