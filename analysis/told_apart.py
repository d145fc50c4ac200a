"""Which members of a front may owe their difference to the examples they were measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.intervals import can_be_told_apart
from analysis.recorded import Trial, is_accuracy

Alike = dict[int, frozenset[int]]
"""Places of members, and of those that each cannot be told apart from."""


def compared(members: Sequence[Trial], objectives: Sequence[str]) -> list[str]:
    """The objectives that members are told apart by: accuracies on the same examples."""
    return [
        name
        for name in objectives
        if is_accuracy(name)
        and all(trial.counted(name) is not None for trial in members)
        and len({trial.num_examples for trial in members}) == 1
    ]


def alike(members: Sequence[Trial], names: Sequence[str]) -> Alike:
    """For each member those from which it cannot be told apart in any of these accuracies."""
    counts = [[trial.counted(name) for name in names] for trial in members]

    def differ(a: int, b: int) -> bool:
        pairs = zip(counts[a], counts[b], strict=True)
        return any(x and y and can_be_told_apart(x[0], y[0], x[1]) for x, y in pairs)

    places = range(len(members) if names else 0)
    return {a: frozenset(b for b in places if b != a and not differ(a, b)) for a in places}


def groups(found: Alike) -> list[list[int]]:
    """The largest sets in which no two members can be told apart, as many as there are.

    A member may be in several: if a is like b and b like c, a need not be like c. Largest first.
    """
    cliques = [sorted(clique) for clique in _cliques(found, set(), set(found), set())]
    return sorted((c for c in cliques if len(c) > 1), key=lambda clique: (-len(clique), clique))


def _cliques(found: Alike, chosen: set[int], open_: set[int], done: set[int]) -> Iterator[set[int]]:
    """All sets of members that are alike which no other member fits into (Bron and Kerbosch)."""
    if not open_ and not done:
        yield chosen
        return
    pivot = max(open_ | done, key=lambda a: (len(found[a] & open_), -a))
    for a in sorted(open_ - found[pivot]):
        yield from _cliques(found, chosen | {a}, open_ & found[a], done & found[a])
        open_ = open_ - {a}
        done = done | {a}
