"""The corners of a space: rules between fields must hold wherever the holes' ends meet.

A rule that pydantic checks on a whole configuration (`ramp_end` above `warmup`) cannot be checked
on one hole. So configurations are built from the ends of the ranges and all choices: every
combination while there are few; else combinations that have every pair of values (a rule between
two holes is always met) and a sample of the rest, the same ones each time.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping

from pydantic import ValidationError

from spaces.base import Config
from spaces.holes import (
    Choice,
    Fixed,
    Node,
    Part,
    Range,
    Scalar,
    Variants,
    collect,
    fill,
    holes_of,
)
from spaces.reading import explain

MAX_CORNERS = 4096
_MAX_CULPRITS = 8

Assignment = dict[str, Scalar]


def impossible_combinations(part: Part, locate: Callable[[str], str]) -> list[str]:
    """One line per combination of values for which a rule of a part, or of the whole, fails.

    Inner parts are built first: what holds them is not looked at when one of them fails.
    """
    inner = [
        line for child in _inner_parts(part) for line in impossible_combinations(child, locate)
    ]
    if inner or part.cls is None or not _has_rules(part.cls):
        return inner
    culprits: list[Assignment] = []
    lines: list[str] = []
    for assignment in _assignments(part):
        explained = any(culprit.items() <= assignment.items() for culprit in culprits)
        problems = [] if explained else _problems(part, assignment, locate)
        if not problems:
            continue
        culprits.append(_culprit(part, assignment, problems, locate))
        when = " and ".join(f"{path} = {value}" for path, value in culprits[-1].items())
        lines += [f"{line}; happens with {when}" if when else line for line in problems]
        if len(culprits) == _MAX_CULPRITS:
            break
    return lines


def _has_rules(cls: type[Config]) -> bool:
    return bool(cls.__pydantic_decorators__.model_validators)


def _inner_parts(node: Node) -> Iterator[Part]:
    """The nearest parts below a node, through choices of variants."""
    if isinstance(node, Part):
        for member in node.members.values():
            if isinstance(member, Part):
                yield member
            else:
                yield from _inner_parts(member)
    elif isinstance(node, Variants):
        yield from node.parts.values()


def _problems(
    part: Part, assignment: Mapping[str, Scalar], locate: Callable[[str], str]
) -> list[str]:
    assert part.cls is not None
    tree = fill(part, lambda hole: assignment.get(hole.path, hole.corners[0]))
    try:
        part.cls.model_validate(tree)
    except ValidationError as error:
        return explain(error, locate(part.path))
    return []


def _culprit(
    part: Part, assignment: Assignment, problems: list[str], locate: Callable[[str], str]
) -> Assignment:
    """The holes whose values matter: another value would not have had just these problems."""
    culprit: Assignment = {}
    for hole in holes_of(part):
        if hole.path not in assignment:
            continue
        others = [value for value in hole.corners if value != assignment[hole.path]]
        changed = ({**assignment, hole.path: other} for other in others)
        if any(_problems(part, other, locate) != problems for other in changed):
            culprit[hole.path] = assignment[hole.path]
    return culprit


def _assignments(part: Part) -> Iterator[Assignment]:
    if _count(part) <= MAX_CORNERS:
        yield from _product(part)
        return
    rng = random.Random(0)
    num_sampled, met = 0, set[frozenset[tuple[str, Scalar]]]()
    for pins, pair in _pairs(part):
        if pair not in met:
            assignment = _complete(part, pins, rng)
            met |= {frozenset(values) for values in itertools.combinations(assignment.items(), 2)}
            num_sampled += 1
            yield assignment
    for _ in range(num_sampled, MAX_CORNERS):
        yield _complete(part, {}, rng)


def _complete(part: Part, pins: Assignment, rng: random.Random) -> Assignment:
    return collect(part, lambda h: pins[h.path] if h.path in pins else rng.choice(h.corners))


def _count(node: Node) -> int:
    if isinstance(node, Range | Choice):
        return len(node.corners)
    if isinstance(node, Variants):
        return sum(_count(part) for part in node.parts.values())
    if isinstance(node, Part):
        return math.prod(_count(member) for member in node.members.values())
    return 1


def _product(node: Node) -> Iterator[Assignment]:
    if isinstance(node, Fixed):
        yield {}
    elif isinstance(node, Part):
        for parts in itertools.product(*(list(_product(m)) for m in node.members.values())):
            yield {path: value for part in parts for path, value in part.items()}
    elif isinstance(node, Variants):
        for label, part in node.parts.items():
            for rest in _product(part):
                yield {node.hole.path: label, **rest}
    else:
        for value in node.corners:
            yield {node.path: value}


def _pairs(part: Part) -> Iterator[tuple[Assignment, frozenset[tuple[str, Scalar]]]]:
    """All pairs of values of two holes that can be active together, after what makes them so."""
    for first, second in itertools.combinations(holes_of(part), 2):
        for a, b in itertools.product(first.corners, second.corners):
            pins: Assignment = {}
            wanted = [*first.condition, *second.condition, (first.path, a), (second.path, b)]
            if all(pins.setdefault(path, value) == value for path, value in wanted):
                yield pins, frozenset([(first.path, a), (second.path, b)])
