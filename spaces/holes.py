"""What a configuration with holes is made of: fixed values, holes, parts and choices of parts.

`Range` and `Choice` are the holes that a sampler fills; `Part` is a configuration class (or a
plain mapping or tuple) whose members may have holes; `Variants` is a union in which the sampler
picks one part. `fill` walks the active branch only, so that a space is conditional by its shape.
"""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from spaces.base import Config, ConfigError
from spaces.reading import show

Scalar: TypeAlias = str | int | float | bool | None
"""The value of a parameter, as samplers, stores and the command line exchange it."""
Condition: TypeAlias = tuple[tuple[str, str], ...]
"""(path of a choice of variants, label that it must have), from the outside in."""


class SuggestingTrial(Protocol):
    """What a sampler's trial must offer; Optuna's Trial does."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number in [low, high]."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Return an integer in [low, high]."""

    def suggest_categorical(self, name: str, choices: tuple[Scalar, ...]) -> Scalar:
        """Return one of the choices."""


@dataclass(frozen=True)
class Fixed:
    """A value that every trial shares."""

    value: Any


@dataclass(frozen=True)
class Range:
    """A number between two ends, both included; `step` and `log` exclude each other."""

    path: str
    condition: Condition
    kind: Literal["int", "float"]
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def corners(self) -> tuple[Scalar, ...]:
        """Both ends."""
        return (self.low, self.high)

    def suggest(self, trial: SuggestingTrial) -> Scalar:
        """Ask a sampler's trial."""
        if self.kind == "float":
            return trial.suggest_float(self.path, self.low, self.high, step=self.step, log=self.log)
        low, high, step = int(self.low), int(self.high), int(self.step or 1)
        return trial.suggest_int(self.path, low, high, step=step, log=self.log)

    def sample(self, rng: random.Random) -> Scalar:
        """Draw uniformly, or uniformly in the logarithm."""
        if self.step is not None:
            steps = rng.randint(0, round((self.high - self.low) / self.step))
            return self._clip(self.low + steps * self.step)
        half = 0.5 if self.kind == "int" else 0.0  # so that both end integers get a full share
        low, high = self.low - half, self.high + half
        if self.log:
            return self._clip(math.exp(rng.uniform(math.log(low), math.log(high))))
        return self._clip(rng.uniform(low, high))

    def _clip(self, value: float) -> Scalar:
        clipped = min(max(value, self.low), self.high)
        return round(clipped) if self.kind == "int" else float(clipped)

    def value(self, param: Scalar) -> Any:
        """The configuration's value for a parameter; ConfigError if it is not in the range."""
        number_type = numbers.Integral if self.kind == "int" else numbers.Real
        if isinstance(param, bool) or not isinstance(param, number_type):
            name = "an integer" if self.kind == "int" else "a number"
            raise ConfigError(f"{self.path}: {show(param)} must be {name}")
        number: float = int(param) if self.kind == "int" else float(param)
        if not self.low <= number <= self.high:
            raise ConfigError(f"{self.path}: {number!r} must lie in {self.describe()}")
        if self.step is not None and not is_multiple(number - self.low, self.step):
            raise ConfigError(f"{self.path}: {number!r} is not a step of {self.describe()}")
        return number

    def param(self, value: Any) -> Scalar:
        """The parameter for a configuration's value; ConfigError if it is not in the range."""
        self.value(value)
        return value  # type: ignore[no-any-return]

    def describe(self) -> str:
        """The domain in words."""
        suffix = ", log" if self.log else "" if self.step is None else f", step {self.step!r}"
        return f"[{self.low!r}, {self.high!r}]{suffix}"


@dataclass(frozen=True)
class Choice:
    """One of some values; `labels` are their names: themselves if scalar, else compact JSON."""

    path: str
    condition: Condition
    labels: tuple[Scalar, ...]
    values: tuple[Any, ...]
    kind: Literal["categorical"] = "categorical"

    @property
    def corners(self) -> tuple[Scalar, ...]:
        """All labels."""
        return self.labels

    def suggest(self, trial: SuggestingTrial) -> Scalar:
        """Ask a sampler's trial."""
        return trial.suggest_categorical(self.path, self.labels)

    def sample(self, rng: random.Random) -> Scalar:
        """Draw uniformly."""
        return rng.choice(self.labels)

    def value(self, param: Scalar) -> Any:
        """The configuration's value for a label; raise ConfigError for an unknown one."""
        if param not in self.labels:
            raise ConfigError(f"{self.path}: {show(param)} must be one of {self.describe()}")
        return self.values[self.labels.index(param)]

    def param(self, value: Any) -> Scalar:
        """The label of a configuration's value; ConfigError if it is not a choice."""
        if value not in self.values:
            raise ConfigError(f"{self.path}: {show(value)} must be one of {self.describe()}")
        return self.labels[self.values.index(value)]

    def describe(self) -> str:
        """The domain in words."""
        return "{" + ", ".join(str(label) for label in self.labels) + "}"


Hole: TypeAlias = Range | Choice


@dataclass(frozen=True)
class Part:
    """Members by name or position; `cls` is the configuration class that they make, if any."""

    path: str
    cls: type[Config] | None
    members: Mapping[str, Node] = field(default_factory=dict)
    sequence: bool = False


@dataclass(frozen=True)
class Variants:
    """A union in which the sampler picks a part; the hole's values are the labels themselves."""

    hole: Choice
    parts: Mapping[str, Part]


Node: TypeAlias = Fixed | Range | Choice | Part | Variants


def fill(node: Node, ask: Callable[[Hole], Scalar]) -> Any:
    """The tree with every active hole filled by `ask`, asked in the order of the file."""
    if isinstance(node, Fixed):
        return node.value
    if isinstance(node, Variants):
        label = node.hole.value(ask(node.hole))
        return fill(node.parts[label], ask)
    if isinstance(node, Part):
        filled = {name: fill(member, ask) for name, member in node.members.items()}
        return tuple(filled.values()) if node.sequence else filled
    return node.value(ask(node))


def collect(node: Node, ask: Callable[[Hole], Scalar]) -> dict[str, Scalar]:
    """The parameters of the active branch, by path, as `ask` gives them."""
    params: dict[str, Scalar] = {}

    def answer(hole: Hole) -> Scalar:
        params[hole.path] = ask(hole)
        return params[hole.path]

    fill(node, answer)
    return params


def holes_of(node: Node) -> Iterator[Hole]:
    """All holes, of every branch, in the order of the file."""
    if isinstance(node, Range | Choice):
        yield node
    elif isinstance(node, Variants):
        yield node.hole
        for part in node.parts.values():
            yield from holes_of(part)
    elif isinstance(node, Part):
        for member in node.members.values():
            yield from holes_of(member)


def is_multiple(length: float, step: float) -> bool:
    """Whether `length` is a whole number of steps, up to rounding."""
    return math.isclose(length / step, round(length / step), rel_tol=1e-9, abs_tol=1e-9)
