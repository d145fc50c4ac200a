"""SearchSpace: a TrialConfig with holes, and the two directions between it and parameters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spaces.base import ConfigError
from spaces.corners import impossible_combinations
from spaces.holes import (
    Choice,
    Hole,
    Node,
    Part,
    Range,
    Scalar,
    SuggestingTrial,
    Variants,
    collect,
    fill,
    holes_of,
)
from spaces.reading import explain, join, read_yaml
from spaces.schema import space_schema
from spaces.topology import DenseConfig
from spaces.trial import TrialConfig, flatten
from spaces.walk import Walker


def in_space(path: str) -> str:
    """Where a path of the configuration stands in a study file."""
    return join("space", path)


class SearchSpace:
    """All trials that a study may run, read from a tree shaped like a TrialConfig.

    In the place of a value may stand `{low, high, log?, step?}` or `{choice: [...]}`, in the place
    of a union `{choice: [variant, ...]}`. A parameter is named by its path, with the variant's
    label after each union: `topology.method`, `topology.rigl.drop_fraction`. Raises ConfigError
    with a line per problem, for refused values and for combinations that are impossible.
    """

    def __init__(self, tree: Mapping[str, Any], *, locate: Callable[[str], str] = in_space) -> None:
        walker = Walker(holes=True, locate=locate)
        self._root = walker.part(TrialConfig, tree, "")
        problems = walker.problems or impossible_combinations(self._root, locate)
        if problems:
            raise ConfigError(*problems)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self._root == other._root

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_yaml(cls, path: str | Path) -> SearchSpace:
        """Read a file whose top-level keys are those of a TrialConfig."""
        tree = read_yaml(path)
        try:
            return cls(tree, locate=str)
        except ConfigError as error:
            raise ConfigError(*error.problems, source=str(path)) from None

    @staticmethod
    def model_json_schema() -> dict[str, Any]:
        """JSON Schema of such a file."""
        return space_schema()

    def parameters(self) -> tuple[Hole, ...]:
        """All holes, of every branch: `.path`, `.kind`, `.condition`, `.describe()`."""
        return tuple(holes_of(self._root))

    def topology_methods(self) -> tuple[str, ...]:
        """Names of the methods that a trial may have, without repetition."""
        node = self._root.members.get("topology")
        parts = node.parts.values() if isinstance(node, Variants) else [node]
        classes = [p.cls for p in parts if isinstance(p, Part) and p.cls] or [DenseConfig]
        return tuple(dict.fromkeys(cls.model_fields["method"].default for cls in classes))

    def suggest(self, trial: SuggestingTrial) -> dict[str, Scalar]:
        """Ask a sampler for the parameters on the active branch, and for no others."""
        return collect(self._root, lambda hole: hole.suggest(trial))

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """Draw parameters uniformly (uniformly in the logarithm where `log` is set)."""
        return collect(self._root, lambda hole: hole.sample(rng))

    def decode(self, params: Mapping[str, Scalar]) -> TrialConfig:
        """The trial that parameters stand for; ConfigError if one is missing, surplus or wrong."""
        asked: set[str] = set()

        def answer(hole: Hole) -> Scalar:
            asked.add(hole.path)
            if hole.path not in params:
                raise ConfigError(f"{hole.path}: the parameter is missing: {hole.describe()}")
            return params[hole.path]

        tree = fill(self._root, answer)
        surplus = sorted(params.keys() - asked)
        if surplus:
            raise ConfigError(
                *(f"{path}: the space has no such parameter here" for path in surplus)
            )
        try:
            return TrialConfig.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(*explain(error, "")) from None

    def encode(self, config: TrialConfig) -> dict[str, Scalar]:
        """The parameters that decode to `config`; ConfigError if the space does not contain it.

        Where several variants of a union contain it, the first in the file is named. The problems
        of the error are, after a heading, what does not fit, with the space's rule for it.
        """
        misfits: list[str] = []
        for params in _encodings(self._root, config, misfits):
            found = self.decode(params)
            if found == config:
                return params
            misfits.append(_difference(found, config))
        raise ConfigError("the search space does not contain this trial configuration", *misfits)


def _encodings(node: Node, value: Any, misfits: list[str]) -> Iterator[dict[str, Scalar]]:
    """Candidates: each hole holds what stands in its place; fixed values are not compared."""
    if isinstance(node, Range | Choice):
        try:
            yield {node.path: node.param(value)}
        except ConfigError:
            misfits.append(f"{node.path}: not in {node.describe()}")
    elif isinstance(node, Variants):
        fitting = {k: part for k, part in node.parts.items() if isinstance(value, part.cls or ())}
        if not fitting:
            misfits.append(f"{node.hole.path}: not in {node.hole.describe()}")
        for label, part in fitting.items():
            found = _encodings(part, value, misfits)
            yield from ({node.hole.path: label, **rest} for rest in found)
    elif isinstance(node, Part):
        pairs = [(member, _member(node, value, name)) for name, member in node.members.items()]
        absent = [n for n, (_, found) in zip(node.members, pairs, strict=True) if found is _ABSENT]
        if absent:
            misfits.append(f"{join(node.path, absent[0])}: the trial has none")
            return
        candidates = (list(_encodings(member, found, misfits)) for member, found in pairs)
        for parts in itertools.product(*candidates):
            yield {path: param for part in parts for path, param in part.items()}
    else:
        yield {}


def _difference(ours: TrialConfig, theirs: TrialConfig) -> str:
    """The first fixed setting of the space that a trial does not share."""
    fixed, other = flatten(ours), flatten(theirs)
    name = next(n for n in (*fixed, *other) if fixed.get(n) != other.get(n))
    return f"{name}: not {fixed.get(name, 'absent')}"


_ABSENT = object()


def _member(part: Part, value: Any, name: str) -> Any:
    """What a configuration holds in the place of a part's member."""
    if part.cls is not None:
        return getattr(value, name, _ABSENT)
    if part.sequence:
        return value[int(name)] if int(name) < len(value) else _ABSENT
    return value.get(name, _ABSENT)


def suggest(space: SearchSpace, trial: SuggestingTrial) -> dict[str, Scalar]:
    """Ask a sampler's trial for the parameters of one trial (define-by-run)."""
    return space.suggest(trial)


def decode(space: SearchSpace, params: Mapping[str, Scalar]) -> TrialConfig:
    """Parameters to the trial that they stand for: the inverse of asking."""
    return space.decode(params)
