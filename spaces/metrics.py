"""The names of what is measured, and conditions on them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import (
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from spaces.base import Config, ConfigError
from spaces.reading import show, suggest_name

Direction = Literal["maximize", "minimize", "none"]


@dataclass(frozen=True)
class Metric:
    """A measured number: which way is better, its unit, and what it is.

    `methods` are the topology methods whose trials have it; empty when every trial has it.
    `of_front`: it is found after the search, for members of the front only. `of_plan`: it is what
    is planned for the end, known before it; for early stopping, never an aim of its own.
    `stand_in`: what is compared in its place before the end of training. `on_request`: the setting
    without which it is not measured.
    """

    name: str
    direction: Direction
    unit: str
    description: str
    methods: tuple[str, ...] = ()
    of_front: bool = False
    of_plan: bool = False
    stand_in: str = ""
    on_request: str = ""

    @property
    def is_objective(self) -> bool:
        """Whether trials can be searched by it: more or less is better, and all end with it."""
        return self.direction != "none" and not self.of_front and not self.of_plan

    @property
    def has_plan(self) -> bool:
        """Whether reports say, as planned_<name>, what it will be at the end of training."""
        return self.name in ("density", "num_active_parameters", "inference_flops")

    @property
    def is_static(self) -> bool:
        """Whether it is known from a trial's beginning, and training barely moves it."""
        return self.has_plan or self.name == "dense_inference_flops" or bool(self.stand_in)


_SHARE = "fraction"
_WITH_TWIN = ("acdc", "deadwooding")
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("natural_accuracy", "maximize", _SHARE, "Correctly classified examples."),
        Metric("verified_accuracy", "maximize", _SHARE, "Examples proved robust at the radius."),
        Metric(
            "falsified_accuracy_bound",
            "maximize",
            _SHARE,
            "1 - falsified share: an upper bound on the robust accuracy.",
        ),
        Metric("density", "minimize", _SHARE, "Non-zero weights over all prunable weights."),
        Metric("num_active_parameters", "minimize", "count", "Parameters that are not zero."),
        Metric("num_grafted_units", "none", "count", "ReLUs replaced by learned lines."),
        Metric(
            "inference_flops",
            "minimize",
            "flop",
            "One example, non-zero weights that can influence the logits: what compaction leaves.",
        ),
        *(
            Metric(
                f"planned_{name}",
                "minimize",
                unit,
                f"{name} at the end of training, as planned now{how}.",
                of_plan=True,
            )
            for name, unit, how in (
                ("density", _SHARE, ""),
                ("num_active_parameters", "count", ""),
                ("inference_flops", "flop", ": an estimate while weights are still to be pruned"),
            )
        ),
        Metric("dense_inference_flops", "minimize", "flop", "The same network without zeros."),
        *(
            Metric(name, "minimize", unit, text, stand_in=f"planned_{stand_in}")
            for name, unit, text, stand_in in (
                (
                    "compacted_flops",
                    "flop",
                    "One example, the compacted network with its zeros: what dense code computes.",
                    "inference_flops",
                ),
                (
                    "flash_bytes",
                    "B",
                    "Weights, indices and constants of the generated C.",
                    "num_active_parameters",
                ),
                (
                    "ram_bytes",
                    "B",
                    "Static memory of the generated C: all activations of one example.",
                    "inference_flops",
                ),
            )
        ),
        *(
            Metric(
                name,
                "minimize",
                "s",
                f"{text} through the compacted network: ONNX Runtime, one thread, median.",
                stand_in="planned_inference_flops",
                on_request="evaluation.latency",
            )
            for name, text in (("latency_s", "One example"), ("latency_256_s", "256 examples"))
        ),
        Metric(
            "training_flops",
            "minimize",
            "flop",
            "The whole training as it was spent: dense phases, gradients and searches included.",
        ),
        Metric("epoch", "none", "count", "Epochs trained."),
        Metric("train_epsilon", "none", "data units", "Training radius at the end of the epoch."),
        Metric(
            "rung_score",
            "maximize",
            _SHARE,
            "IBP-verified accuracy, as evaluation.rung_score says.",
        ),
        *(
            Metric(f"unstable_{what}_{bound}", "minimize", unit, f"{text} {means}.")
            for what, unit, text in (
                ("relus", "count", "ReLUs per example that may be on either side of zero by"),
                ("share", _SHARE, "The same, over all ReLUs, by"),
            )
            for bound, means in (("ibp", "interval bounds"), ("crown", "CROWN's bounds"))
        ),
        Metric(
            "exact_verified_accuracy",
            "maximize",
            _SHARE,
            "Examples proved robust by exact verdicts; of members of the front.",
            of_front=True,
        ),
        Metric(
            "exact_falsified_accuracy_bound",
            "maximize",
            _SHARE,
            "1 - falsified share by exact verdicts; the same where none is open.",
            of_front=True,
        ),
        Metric("duration_s", "minimize", "s", "Wall time of the trial."),
        Metric(
            "dense_twin_natural_accuracy",
            "maximize",
            _SHARE,
            "natural_accuracy of the dense network as it was just before the last cut.",
            _WITH_TWIN,
        ),
        Metric(
            "dense_twin_verified_accuracy",
            "maximize",
            _SHARE,
            "verified_accuracy of the dense network as it was just before the last cut.",
            _WITH_TWIN,
        ),
    )
}
_AT = "verified_accuracy_at_"


def radius_metric(radius: float) -> str:
    """The metric of a further radius: `verified_accuracy_at_0.1`."""
    return f"{_AT}{radius:g}"


def metric(name: str) -> Metric:
    """The metric of a name; raise ConfigError with the nearest known name otherwise."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith(_AT):
        try:
            radius = float(name.removeprefix(_AT))
        except ValueError:
            radius = math.nan
        if math.isfinite(radius) and radius > 0.0 and name == radius_metric(radius):
            return Metric(name, "maximize", _SHARE, f"Examples proved robust at radius {radius:g}.")
        raise ConfigError(
            f"{show(name)}: the radius must be written as a plain positive number, "
            f"for example {radius_metric(0.1)}"
        )
    hint = suggest_name(name, (*METRICS, f"{_AT}<radius>"))
    raise ConfigError(f"{show(name)} is no metric{hint}")


_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bound: value >= bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    "<": lambda value, bound: value < bound,
}


_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "us": 1e-6, "ms": 1e-3}


def _number(text: str) -> float:
    """A number with or without a unit; NaN when it is neither."""
    digits = text.rstrip("".join(_UNITS))
    try:
        return float(digits) * _UNITS.get(text[len(digits) :], math.nan if digits != text else 1.0)
    except ValueError:
        return math.nan


class Constraint(Config):
    """A condition on one metric, written as text: `natural_accuracy >= 0.85`."""

    metric: str
    operator: Literal[">=", "<=", ">", "<"]
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read `<metric> <operator> <number>`; raise ConfigError if it is not that."""
        match = re.fullmatch(r"\s*(\S+?)\s*(>=|<=|==|=|>|<)\s*(\S+)\s*", text)
        form = "write it as `<metric> <operator> <number>`, for example `natural_accuracy >= 0.85`"
        if match is None:
            raise ConfigError(f"{show(text)} is no constraint: {form}")
        name, operator, number = match.groups()
        metric(name)
        if operator not in _HOLDS:
            raise ConfigError(f"{show(text)}: the operator must be >=, <=, > or <, not {operator}")
        bound = _number(number)
        if not math.isfinite(bound):
            raise ConfigError(
                f"{show(text)}: {show(number)} must be a finite number, which may end in "
                f"{', '.join(_UNITS)}: {form}"
            )
        if metric(name).unit == _SHARE and not 0.0 <= bound <= 1.0:
            raise ConfigError(
                f"{show(text)}: {name} is a share, from 0 to 1: {number} of a hundred is written "
                f"{bound / 100:g}"
                if 1.0 < bound <= 100.0
                else f"{show(text)}: {name} is a share, from 0 to 1"
            )
        return cls.model_validate({"metric": name, "operator": operator, "bound": bound})

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, name: str) -> str:
        return metric(name).name

    @model_validator(mode="wrap")
    @classmethod
    def _from_text(cls, value: Any, handler: ModelWrapValidatorHandler[Constraint]) -> Constraint:
        if isinstance(value, str):
            return cls.parse(value)
        if not isinstance(value, Mapping | Constraint):
            raise ConfigError(f"{show(value)} must be text such as `natural_accuracy >= 0.85`")
        return handler(value)

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Text of the form that `parse` reads."""
        return {"type": "string", "pattern": r"^\s*\S+?\s*(>=|<=|>|<)\s*\S+\s*$"}

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.bound!r}"

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metrics satisfy the condition; NaN does not."""
        return _HOLDS[self.operator](self._value(metrics), self.bound)

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far the metrics are from satisfying it, in the metric's unit; <= 0 if they do."""
        value = self._value(metrics)
        if math.isnan(value):
            return math.inf
        distance = self.bound - value if ">" in self.operator else value - self.bound
        if distance == 0.0 and not self.holds(metrics):
            return math.ulp(0.0)  # on the boundary of a strict inequality
        return distance

    def excludes(self, other: Constraint) -> bool:
        """Whether no value of a metric satisfies both; False when they are on different ones."""
        low, high = sorted((self.bound, other.bound))
        values = ({self.metric: v} for v in (low - 1.0, low, (low + high) / 2, high, high + 1.0))
        same = self.metric == other.metric
        return same and not any(self.holds(value) and other.holds(value) for value in values)

    def _value(self, metrics: Mapping[str, float]) -> float:
        if self.metric not in metrics:
            known = ", ".join(metrics) or "nothing"
            raise ConfigError(
                f"{self.metric}: was not measured, so `{self}` cannot be checked; measured: {known}"
            )
        return metrics[self.metric]
