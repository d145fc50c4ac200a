"""What a sampler may learn from a trial of another study, if anything.

A figure counts when it was measured as this study measures: on the same split of the same data, at
the same radius, by the same bounds on as many examples, after as many epochs. Settings count when
this study could have proposed them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.trial import FrozenTrial, create_trial

from analysis.recorded import Trial
from search.samplers import distribution_of, generation_mark
from spaces.base import ConfigError
from spaces.holes import Scalar
from spaces.study import StudyConfig
from spaces.trial import TrialConfig, flatten

EARLIER_RUN = "goldenticket.earlier_run"
"""The attribute of a known trial that names its MLflow run; a search's own trials have none."""
_MEASURED_BY = ("radius", "examples", "methods", "attack_steps", "attack_restarts")
_LIMITS = ("timeout_s", "budget_s")
# That a trial was stopped early was a verdict on it among the others of its search: as something to
# learn from in another one it did not pay (benchmarks/warm_start.py).
_INCOMPLETE = {"stopped": "stopped early", "failed": "failed"}
# The space says which augmentation there may be; data sets with a name may lie anywhere.
_MAY_DIFFER = ("data.augment.", "data.folder", "data.download")


class Unusable(ValueError):
    """Why a trial cannot be used, in words that other trials share."""


class KnownTrials:
    """Makes known trials of a study out of the recorded trials of others."""

    def __init__(self, study: StudyConfig) -> None:
        self._study = study
        self._space = study.search_space()
        self._shared = study.shared_settings()
        self._texts = {name: str(value) for name, value in flatten(self._shared).items()}
        self._domains = {hole.path: distribution_of(hole) for hole in self._space.parameters()}
        self._mark = generation_mark(study)

    def known(self, trial: Trial) -> FrozenTrial:
        """What the sampler may know of a trial; Unusable when that is nothing."""
        if trial.state != "completed":
            raise Unusable(_INCOMPLETE.get(trial.state, "not ended"))
        for name in self._names_compared(trial):
            ours, theirs = self._texts.get(name, "absent"), trial.params.get(name, "absent")
            if ours != theirs:
                raise Unusable(f"{name}: {theirs}, not {ours}")
        if trial.split != "validation":
            raise Unusable(f"measured on the {trial.split} split, not on validation")
        params = self._params(trial)
        values, constraints = self._outcome(trial)
        return create_trial(
            values=values,
            constraints=constraints,
            params=params,
            distributions={name: self._domains[name] for name in params},
            user_attrs={EARLIER_RUN: trial.run_id},
            system_attrs=self._mark,
        )

    def _names_compared(self, trial: Trial) -> Iterator[str]:
        for name in dict.fromkeys((*self._texts, *trial.params)):
            if name.startswith("data.") and not name.startswith(_MAY_DIFFER):
                yield name
        yield "epochs"
        # Limits of time matter where they were reached.
        for name in (*_MEASURED_BY, *(_LIMITS if trial.num_timeouts else ())):
            yield f"evaluation.{name}"

    def _outcome(self, trial: Trial) -> tuple[list[float], dict[str, float]]:
        study, metrics = self._study, trial.metrics
        for name in (*study.objectives, *(c.metric for c in study.constraints)):
            if name not in metrics:
                raise Unusable(f"{name} was not measured")
            if name == "duration_s":
                raise Unusable("duration_s depends on the machine and on what else it did")
        values = [metrics[name] for name in study.objectives]
        return values, {str(c): c.violation(metrics) for c in study.constraints}

    def _params(self, trial: Trial) -> dict[str, Scalar]:
        shared = self._shared
        tree = _unflatten(trial.params)
        data = {**shared.data.model_dump(), "augment": tree.get("data", {}).get("augment", {})}
        tree |= {"data": data, "evaluation": shared.evaluation}
        tree |= {"seed": shared.seed, "compute": shared.compute}
        try:
            config = TrialConfig.model_validate(tree)
        except ValueError as error:
            raise Unusable("settings that this version does not know") from error
        try:
            params = self._space.encode(config)
        except ConfigError as error:
            raise Unusable(error.problems[1]) from error
        for path in params:
            if not _is_recorded(path, trial.params):
                raise Unusable(f"{path}: not recorded")
        return params


def _is_recorded(path: str, settings: Mapping[str, str]) -> bool:
    """Whether the settings of a trial, which have no labels of variants, have a parameter."""
    parts = path.split(".")
    without_one = [parts[:index] + parts[index + 1 :] for index in range(len(parts))]
    names = [".".join(some) for some in (parts, *without_one)]
    # A list is recorded as one text.
    return any(f"{name}.".startswith(f"{known}.") for name in names for known in settings)


def _unflatten(params: Mapping[str, str]) -> dict[str, Any]:
    """The tree of settings behind the texts that MLflow has of them."""
    tree: dict[str, Any] = {}
    for name, text in params.items():
        *outer, leaf = name.split(".")
        part = tree
        for key in outer:
            part = part.setdefault(key, {})
        part[leaf] = _value(text)
    return tree


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text
