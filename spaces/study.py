"""StudyConfig: the one file that says what a study is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from spaces.base import Config, ConfigError, Seed
from spaces.constraint import Constraint
from spaces.metrics import METRICS, Direction, metric, radius_metric
from spaces.reading import join, read_yaml
from spaces.running import BudgetConfig, ResourcesConfig, StorageConfig, TrackingConfig
from spaces.sampler import SamplerConfig, TpeConfig, WarmStartConfig
from spaces.scheduler import AshaConfig, FifoConfig, MoashaConfig, SchedulerConfig
from spaces.schema import STUDY_LEVEL_KEYS, study_schema
from spaces.space import SearchSpace, in_space
from spaces.training import EvaluationConfig
from spaces.trial import TrialConfig
from spaces.walk import read_config


def _checked_objective(name: str) -> str:
    if metric(name).direction == "none":
        raise ConfigError(f"{name} cannot be an objective: neither more nor less of it is better")
    return name


_OBJECTIVE_SCHEMA = {
    "anyOf": [
        {"enum": [name for name, m in METRICS.items() if m.is_objective]},
        {"type": "string", "pattern": f"^{radius_metric(0).removesuffix('0')}[0-9]"},
    ]
}
Objective = Annotated[str, AfterValidator(_checked_objective), WithJsonSchema(_OBJECTIVE_SCHEMA)]
"""The name of a metric of which more, or less, is better."""
_NAME = "Letters, digits, '.', '_' and '-', at most 64, since it also names a folder."
DEFAULT_OBJECTIVES = ("natural_accuracy", "verified_accuracy", "inference_flops")


class StudyConfig(Config):
    """What is searched, how it is judged, and what may be spent.

    `space` holds the settings of a trial, with holes; `data` may have holes in `augment` only, so
    that all trials are measured on the same examples. Relative paths (data, storage, tracking) are
    relative to the current directory of the process, not to the study file.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?$", description=_NAME
    )
    seed: Seed = Field(0, description="Fixes the sampler and every trial.")
    data: dict[str, Any]
    evaluation: EvaluationConfig
    space: dict[str, Any] = Field(default_factory=dict)
    objectives: tuple[Objective, ...] = Field(
        DEFAULT_OBJECTIVES, min_length=1, description="Also `verified_accuracy_at_<radius>`."
    )
    constraints: tuple[Constraint, ...] = Field(
        (), description="Conditions on metrics, such as `natural_accuracy >= 0.85`."
    )
    sampler: SamplerConfig = TpeConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    scheduler: SchedulerConfig = FifoConfig()
    budget: BudgetConfig
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: StorageConfig = StorageConfig()
    _built: tuple[dict[str, Any], SearchSpace] | None = PrivateAttr(None)

    @field_validator("objectives")
    @classmethod
    def _objectives_are_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ConfigError(f"{name} appears twice: remove it")
        return names

    @classmethod
    def from_yaml(cls, path: str | Path) -> StudyConfig:
        """Read a study file; raise ConfigError with file, place, value and rule per problem."""
        return cls.from_dict(read_yaml(path), source=str(path))

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], *, source: str | None = None) -> StudyConfig:
        """Read a study from a mapping; ConfigError tells all its problems, `space` included."""
        try:
            return read_config(cls, tree, source=source)
        except ConfigError as error:
            problems = (*error.problems, *_problems_of_space(tree))
            raise ConfigError(*dict.fromkeys(problems), source=source) from None

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """JSON Schema of a study file, holes included."""
        return study_schema(super().model_json_schema(*args, **kwargs))

    @property
    def directions(self) -> tuple[Direction, ...]:
        """For each objective, whether more or less of it is better."""
        return tuple(metric(name).direction for name in self.objectives)

    def search_space(self) -> SearchSpace:
        """`space` together with what the study sets for every trial."""
        tree = self._trial_tree()
        if self._built is None or self._built[0] != tree:  # a copy may have another budget
            self._built = (tree, SearchSpace(tree, locate=_locate))
        return self._built[1]

    def shared_settings(self) -> TrialConfig:
        """What all trials share outside `space`, in a trial with defaults for all else.

        `data.augment`, which may have holes, is the default too.
        """
        tree = {key: self._trial_tree()[key] for key in STUDY_LEVEL_KEYS}
        tree["data"] = {key: value for key, value in self.data.items() if key != "augment"}
        return TrialConfig.model_validate(tree)

    def _trial_tree(self) -> dict[str, Any]:
        resources = self.resources
        compute = {
            "device": resources.device,
            "threads": resources.cpus_per_trial,
            "bf16": resources.bf16,
            "compile": resources.compile,
        }
        return {
            "data": self.data,
            "evaluation": self.evaluation.model_dump(mode="json"),
            "epochs": self.budget.epochs,
            "seed": self.seed,
            "compute": compute,
            **self.space,
        }

    @model_validator(mode="after")
    def _parts_fit(self) -> StudyConfig:
        problems = [*self._problems_of_scheduler(), *self._problems_of_metrics()]
        problems += [*_misplaced(self.space), *self._problems_of_fidelity()]
        if not problems:
            space = self.search_space()
            problems += [*_holes_in_data(space), *self._problems_of_methods(space)]
            problems += self._problems_of_sampler(space)
        if problems:
            raise ConfigError(*problems)
        return self

    def _problems_of_scheduler(self) -> Iterator[str]:
        scheduler = self.scheduler
        if not isinstance(scheduler, AshaConfig | MoashaConfig):
            return
        first_rung = scheduler.grace_epochs * scheduler.reduction_factor ** (scheduler.brackets - 1)
        if first_rung >= self.budget.epochs:
            settings = f"scheduler.grace_epochs: {scheduler.grace_epochs}"
            if scheduler.brackets > 1:
                settings += (
                    f" with brackets {scheduler.brackets} and reduction_factor "
                    f"{scheduler.reduction_factor} puts a first rung at epoch {first_rung}, which"
                )
            yield (
                f"{settings} must be less than budget.epochs ({self.budget.epochs}), or no trial "
                "could be stopped: lower it, or use scheduler {name: fifo}"
            )

    def _problems_of_metrics(self) -> Iterator[str]:
        known = {*METRICS, *(radius_metric(radius) for radius in self.evaluation.radii)}
        for where, name in self._metrics_used():
            if metric(name).of_front:
                yield (
                    f"{where}: {name} is found once the search has ended, for members of the "
                    f"front: use {name.removeprefix('exact_')} here, and choose by "
                    f"`goldenticket front {self.name} --where`"
                )
            if metric(name).of_plan:
                yield (
                    f"{where}: {name} is what is planned before the end, for early stopping: use "
                    f"{name.removeprefix('planned_')} here"
                )
            if metric(name).on_request and not self.evaluation.latency:
                yield (
                    f"{where}: {name} is measured when {metric(name).on_request} is true: set "
                    "evaluation: {latency: true}"
                )
            if name == radius_metric(self.evaluation.radius):
                yield (
                    f"{where}: {name} is at evaluation.radius: its name is verified_accuracy here"
                )
            elif name not in known:
                radius = name.removeprefix(radius_metric(0).removesuffix("0"))
                yield (
                    f"{where}: {name} is not measured: add {radius} to evaluation.radii "
                    f"(now {list(self.evaluation.radii)})"
                )

        yield from self._contradictions()

    def _contradictions(self) -> Iterator[str]:
        for index, first in enumerate(self.constraints):
            for second in self.constraints[index + 1 :]:
                if first.excludes(second):
                    yield f"constraints: no trial satisfies both `{first}` and `{second}`"

    def _problems_of_fidelity(self) -> Iterator[str]:
        fidelity = self.space.get("fidelity")
        if isinstance(fidelity, Mapping) and fidelity.get("data_start", 1.0) == 1.0:
            if "data_full_at" in fidelity:
                yield (
                    "space.fidelity.data_full_at: changes nothing while all data is used from the "
                    "start: set data_start below 1, or leave it out"
                )

    def _problems_of_methods(self, space: SearchSpace) -> Iterator[str]:
        for where, name in self._metrics_used():
            having = metric(name).methods
            others = [method for method in space.topology_methods() if method not in having]
            if having and others:
                yield (
                    f"{where}: {name} is measured for topology methods {' and '.join(having)} "
                    f"only, so trials with {', '.join(others)} would fail: search those methods "
                    "alone, or leave this metric out (it is recorded all the same)"
                )

    def _problems_of_sampler(self, space: SearchSpace) -> Iterator[str]:
        if self.warm_start.studies and self.sampler.name in ("random", "qmc"):
            yield (
                f"warm_start.studies: {', '.join(self.warm_start.studies)} would change nothing, "
                f"since sampler {self.sampler.name} does not learn from trials: leave warm_start "
                "out, or use sampler {name: tpe}"
            )
        holes = space.parameters()
        branching = {path for hole in holes for path, _ in hole.condition}
        modelled = [h for h in holes if not h.condition and h.path not in branching]
        if self.sampler.name == "gp" and holes and not modelled:
            yield (
                "sampler.name: gp models parameters that every trial has, but all of this space "
                f"depend on {' and '.join(sorted(branching))}: use tpe"
            )

    def _metrics_used(self) -> Iterator[tuple[str, str]]:
        """Places and names."""
        yield from ((f"objectives.{i}", name) for i, name in enumerate(self.objectives))
        yield from ((f"constraints.{i}", c.metric) for i, c in enumerate(self.constraints))


def _locate(path: str) -> str:
    """Where a study file says what stands at a path of the trial."""
    top, _, rest = path.partition(".")
    if top not in STUDY_LEVEL_KEYS:
        return in_space(path)
    return join({"epochs": "budget.epochs", "compute": "resources"}.get(top, top), rest)


def _misplaced(space: Mapping[str, Any]) -> Iterator[str]:
    places = {"epochs": "write budget: {epochs: ...}", "compute": "write it under resources"}
    for key in STUDY_LEVEL_KEYS:
        if key in space:
            place = places.get(key, f"write {key} at the top level of the study file")
            yield f"space.{key}: is set for the whole study: {place}"


def _holes_in_data(space: SearchSpace) -> Iterator[str]:
    for hole in space.parameters():
        top, *inner = hole.path.split(".")
        if top == "data" and inner[1:2] != ["augment"]:
            yield (
                f"{hole.path}: must be one fixed value, so that all trials are measured on the "
                "same examples; only data.augment may have holes"
            )


def _problems_of_space(tree: Any) -> list[str]:
    """What is wrong with `data` and `space`, whatever else is wrong with the study."""
    data, space = (tree.get(key) for key in ("data", "space"))
    if not isinstance(data, Mapping) or not isinstance(space, Mapping):
        return []
    stand_in = {"evaluation": {"radius": 0.1}}
    own = {key: value for key, value in space.items() if key not in STUDY_LEVEL_KEYS}
    problems = list(_misplaced(space))
    try:
        problems += _holes_in_data(SearchSpace({**stand_in, "data": data, **own}, locate=_locate))
    except ConfigError as error:
        problems += error.problems
    return problems
