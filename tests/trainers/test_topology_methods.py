"""Each criterion and each method on cases worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from spaces.topology import (
    DenseConfig,
    RigLConfig,
    SetConfig,
    SlimmingConfig,
    SnipConfig,
    StaticConfig,
)
from trainers.errors import TopologyError
from trainers.topology import METHODS, build_topology
from trainers.topology.base import Signals
from trainers.topology.criteria import DROP, GROW
from trainers.topology.masks import count_ones
from trainers.topology.methods.drop_grow import DropGrow

SHAPES = {"w": torch.Size((2, 4))}
WEIGHTS = torch.tensor([[0.5, -0.1, 0.3, -0.9], [0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True, True], [False, False, False, False]])
GRADIENTS = torch.tensor([[0.1, -2.0, 1.0, 0.2], [-0.7, 0.0, 0.3, 0.9]])
CERTIFIED = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -3.0, 0.0, 0.0]])
SIGNALS = Signals({"w": WEIGHTS}, {"w": GRADIENTS}, {"w": CERTIFIED})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(mask: Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (DROP["magnitude"], [[0.5, 0.1, 0.3, 0.9], [0.0, 0.0, 0.0, 0.0]]),
        (DROP["sensitivity"], [[0.05, 0.2, 0.3, 0.18], [0.0, 0.0, 0.0, 0.0]]),
        (GROW["gradient"], [[0.1, 2.0, 1.0, 0.2], [0.7, 0.0, 0.3, 0.9]]),
        (GROW["certified_gradient"], [[0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]]),
    ],
)
def test_criterion(criterion, expected: list) -> None:
    torch.testing.assert_close(criterion.score("w", SIGNALS, seeded()), torch.tensor(expected))


def test_the_random_criterion_is_a_function_of_the_generator() -> None:
    scores = [GROW["random"].score("w", SIGNALS, seeded(s)) for s in (1, 1, 2)]
    assert scores[0].shape == (2, 4) and torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


@pytest.mark.parametrize(
    ("drop", "grow", "inputs"),
    [
        ("magnitude", "gradient", {"weights", "gradients"}),
        ("magnitude", "random", {"weights"}),
        ("sensitivity", "certified_gradient", {"weights", "gradients", "certified_gradients"}),
    ],
)
def test_a_method_asks_for_what_its_parts_read(drop: str, grow: str, inputs: set[str]) -> None:
    method = build_topology(RigLConfig(drop=drop, grow=grow, density=0.5), SHAPES, 100)
    assert method.inputs == inputs


def drop_grow(kind: type, **settings) -> DropGrow:
    config = kind(density=0.5, drop_fraction=0.5, update_every=10, **settings)
    method = build_topology(config, SHAPES, 100)
    assert isinstance(method, DropGrow)
    return method


def updated(kind: type, seed: int = 0, **settings) -> list[int]:
    method = drop_grow(kind, **settings)
    return flat(method.update_masks(10, {"w": MASK}, SIGNALS, seeded(seed))["w"])


def test_rigl_drops_the_smallest_and_grows_the_largest_gradients() -> None:
    # |w| keeps 0 and 3 of four. Among all others |g| is 2.0 (1), 1.0 (2), 0.9 (7), 0.7 (4), ...:
    # both dropped weights come straight back.
    assert updated(RigLConfig) == [0, 1, 2, 3]


def test_set_with_the_same_parts_grows_only_where_nothing_was() -> None:
    assert updated(SetConfig, grow="gradient") == [0, 3, 4, 7]


def test_drop_by_sensitivity() -> None:
    # |w g| keeps 2 and 1; of the others |g| is 0.9 (7), 0.7 (4), 0.3 (6), 0.2 (3), 0.1 (0).
    assert updated(RigLConfig, drop="sensitivity") == [1, 2, 4, 7]


def test_grow_by_the_certified_gradient_breaks_ties_by_index() -> None:
    # Position 5 has the only certified gradient; the rest tie at zero, and 1 is the first not kept.
    assert updated(RigLConfig, grow="certified_gradient") == [0, 1, 3, 5]


def test_set_grows_at_random_among_the_inactive() -> None:
    outcomes = {tuple(updated(SetConfig, seed)) for seed in range(60)}
    assert all(o[:2] == (0, 3) and set(o[2:]) <= {4, 5, 6, 7} for o in outcomes)
    assert len(outcomes) == math.comb(4, 2)


def test_random_drop_keeps_every_active_weight_now_and_then() -> None:
    kept = {
        tuple(set(updated(SetConfig, seed, drop="random")) & {0, 1, 2, 3}) for seed in range(80)
    }
    assert len(kept) == math.comb(4, 2)


def test_dropping_ties_keeps_the_lowest_index() -> None:
    signals = Signals({"w": torch.where(MASK, 0.5, 0.0)}, {"w": GRADIENTS})
    masks = drop_grow(SetConfig, grow="gradient").update_masks(10, {"w": MASK}, signals, seeded())
    assert flat(masks["w"]) == [0, 1, 4, 7]


def test_a_regrowth_rate_moves_the_density_to_its_final_value() -> None:
    method = drop_grow(RigLConfig, regrowth_rate=0.5, update_end=0.1)  # one update, at step 10
    # 4 / (1 - 0.5 * 0.5) = 5.3 -> 5 at the start; int(0.5 * 5) = 2 dropped, 1 grown.
    assert [method.planned_total(step) for step in (0, 9, 10, 100)] == [5, 5, 4, 4]
    assert method.plan["w"][1] == (10, 2, 1, 4)


@pytest.mark.parametrize("rate", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("kind", [RigLConfig, SetConfig])
def test_without_room_for_an_update_the_start_is_the_final_density(kind: type, rate: float) -> None:
    method = build_topology(kind(density=0.5, update_every=2, regrowth_rate=rate), SHAPES, 2)
    assert not any(method.is_update_step(step) for step in range(3))
    assert method.planned_counts(0) == method.planned_counts(2) == {"w": 4}


def test_an_interval_that_leaves_no_update_is_refused() -> None:
    with pytest.raises(TopologyError, match=r"update_every: 76 .* no update in 100 .*static"):
        build_topology(RigLConfig(density=0.5, update_every=76), SHAPES, 100)
    build_topology(RigLConfig(density=0.5, update_every=75), SHAPES, 100)


def test_drop_fractions_fall_from_the_first_update_and_the_last_one_still_moves_something() -> None:
    config = RigLConfig(density=0.5, drop_fraction=0.4, update_every=10, update_end=0.4,
                        drop_schedule="linear")  # fmt: skip
    method = build_topology(config, {"w": torch.Size((100, 20))}, 100)
    assert isinstance(method, DropGrow)
    assert [u.num_drop for u in method.plan["w"]] == [0, 400, 300, 200, 100]


def test_dense_keeps_everything() -> None:
    method = build_topology(DenseConfig(), SHAPES, 10)
    assert method.init_masks(SIGNALS, seeded())["w"].all()
    assert method.planned_counts(3) == {"w": 8}


def test_static_is_random_with_exact_counts() -> None:
    shapes = {"a": torch.Size((20, 30)), "b": torch.Size((10, 20))}
    signals = Signals({name: torch.zeros(shape) for name, shape in shapes.items()})
    method = build_topology(StaticConfig(density=0.1), shapes, 10)
    # erk: e * (50, 30), 80 weights.
    masks = method.init_masks(signals, seeded())
    assert count_ones(masks) == {"a": 50, "b": 30} == method.planned_counts(0)
    assert not torch.equal(masks["a"], method.init_masks(signals, seeded(1))["a"])


SNIP_SIGNALS = Signals(
    {"a": torch.tensor([[1.0, -2.0, 3.0]]), "b": torch.tensor([[0.1], [0.2], [0.3]])},
    {"a": torch.tensor([[1.0, 1.0, -0.1]]), "b": torch.tensor([[-5.0], [0.1], [4.0]])},
    {"a": torch.tensor([[9.0, 9.0, 9.0]]), "b": torch.tensor([[0.1], [0.3], [0.1]])},
)
SNIP_SHAPES = {"a": torch.Size((1, 3)), "b": torch.Size((3, 1))}


def test_snip_ranks_all_layers_by_weight_times_gradient() -> None:
    # |w g|: a = 1.0, 2.0, 0.3; b = 0.5, 0.02, 1.2. The top three are a1, b2, a0.
    method = build_topology(SnipConfig(density=0.5), SNIP_SHAPES, 10)
    masks = method.init_masks(SNIP_SIGNALS, seeded())
    assert (flat(masks["a"]), flat(masks["b"])) == ([0, 1], [2])
    assert method.planned_total(5) == 3 and method.planned_counts(5) is None
    assert method.init_inputs == {"weights", "gradients"}


def test_snip_with_the_certified_loss_keeps_one_weight_in_the_weak_layer() -> None:
    # a = 9, 18, 27; b = 0.01, 0.06, 0.03: all three would go to a, but b keeps its best.
    method = build_topology(SnipConfig(density=0.5, saliency="certified"), SNIP_SHAPES, 10)
    masks = method.init_masks(SNIP_SIGNALS, seeded())
    assert (flat(masks["a"]), flat(masks["b"])) == ([1, 2], [1])
    assert method.init_inputs == {"weights", "certified_gradients"}


@pytest.mark.parametrize("kind", [k for k in METHODS if k not in (DenseConfig, SlimmingConfig)])
def test_an_impossible_density_is_refused(kind: type) -> None:
    with pytest.raises(TopologyError, match="smallest possible density here is 0.333334"):
        build_topology(kind(density=0.1), SNIP_SHAPES, 10)
