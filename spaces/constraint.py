"""Conditions on metrics: `natural_accuracy >= 0.85`, `flash_bytes <= 64KiB`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
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
from spaces.metrics import SHARE, metric
from spaces.reading import show

_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bound: value >= bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    "<": lambda value, bound: value < bound,
}


_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "us": 1e-6, "ms": 1e-3}


def number(text: str) -> float:
    """A number with or without a unit, such as 64KiB; NaN when it is neither."""
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
        name, operator, digits = match.groups()
        metric(name)
        if operator not in _HOLDS:
            raise ConfigError(f"{show(text)}: the operator must be >=, <=, > or <, not {operator}")
        bound = number(digits)
        if not math.isfinite(bound):
            share = number(digits.removesuffix("%")) / 100 if digits.endswith("%") else math.nan
            hint = form if math.isnan(share) else f"{digits} is written {share:g}"
            raise ConfigError(
                f"{show(text)}: {show(digits)} must be a finite number, which may end in "
                f"{', '.join(_UNITS)}: {hint}"
            )
        if metric(name).unit == SHARE and not 0.0 <= bound <= 1.0:
            raise ConfigError(
                f"{show(text)}: {name} is a share, from 0 to 1: {digits} of a hundred is written "
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
        return f"{self.metric} {self.operator} {repr(self.bound).removesuffix('.0')}"

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
