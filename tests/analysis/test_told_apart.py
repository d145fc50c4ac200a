"""Members that may owe their difference to the examples: pairs, and groups of them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from analysis.recorded import Trial
from analysis.told_apart import alike, compared, groups


def trial(natural: int, verified: int, n: int | None = 100) -> Trial:
    metrics = {"natural_accuracy": natural / 100, "verified_accuracy": verified / 100}
    tags = {} if n is None else {"goldenticket.num_examples": f"{n}"}
    return Trial("run", 0, "completed", {**metrics, "density": 0.5}, {}, tags, "sqlite://")


BOTH = ["natural_accuracy", "verified_accuracy"]


def test_members_are_alike_when_no_accuracy_tells_them_apart() -> None:
    members = [trial(95, 80), trial(94, 79), trial(95, 40), trial(60, 80)]
    assert alike(members, BOTH) == {0: {1}, 1: {0}, 2: set(), 3: set()}
    assert alike(members, ["natural_accuracy"]) == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: set()}


def test_without_an_accuracy_nothing_is_said() -> None:
    members = [trial(95, 80), trial(94, 79)]
    assert compared(members, ["density", "inference_flops"]) == []
    assert alike(members, []) == {}
    assert groups({}) == []


def test_accuracies_count_that_are_objectives_and_shares_of_known_examples() -> None:
    assert compared([trial(95, 80)], ["verified_accuracy", "density"]) == ["verified_accuracy"]
    assert compared([trial(95, 80, None)], BOTH) == []
    assert compared([trial(95, 80), trial(95, 80, 50)], BOTH) == []


def test_a_member_may_be_in_two_groups() -> None:
    found = {0: frozenset({1}), 1: frozenset({0, 2}), 2: frozenset({1}), 3: frozenset()}
    assert groups(found) == [[0, 1], [1, 2]]
    assert groups({0: frozenset({1, 2}), 1: frozenset({0, 2}), 2: frozenset({0, 1})}) == [[0, 1, 2]]


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda e: e[0] < e[1])))
def test_groups_are_the_sets_that_nothing_can_be_added_to(edges: set[tuple[int, int]]) -> None:
    found = {a: frozenset(b for b in range(8) if (min(a, b), max(a, b)) in edges) for a in range(8)}

    def all_alike(some: tuple[int, ...]) -> bool:
        return all(b in found[a] for a, b in itertools.combinations(some, 2))

    cliques = [set(c) for k in range(2, 9) for c in itertools.combinations(range(8), k)
               if all_alike(c)]  # fmt: skip
    expected = [sorted(c) for c in cliques if not any(c < other for other in cliques)]
    assert sorted(groups(found)) == sorted(expected)
