"""Methods that cut a dense network down, on cases worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from spaces.topology import (
    AcdcConfig,
    DeadwoodingConfig,
    GapConfig,
    GmpConfig,
    SlimmingConfig,
    StabilityConfig,
)
from trainers.errors import TopologyError
from trainers.sparsifier import Sparsifier
from trainers.topology import Layout, build_topology
from trainers.topology.base import Phase, Signals, TopologyMethod
from trainers.topology.masks import full_masks
from trainers.wiring import UnitGroup

SHAPES = {"a": torch.Size((2, 2)), "b": torch.Size((1, 2))}
SHAPES_OF_TEN = {"w": torch.Size((100, 10))}
LAYOUT = Layout(SHAPES, (UnitGroup("a", 2, ("a",), (("b", 1),), ()),))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def ones(mask: Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def updates(method: TopologyMethod, total_steps: int = 100) -> list[int]:
    return [step for step in range(total_steps + 1) if method.is_update_step(step)]


def test_gradual_density_falls_by_the_cube_of_the_time_left() -> None:
    config = GmpConfig(density=0.1, start=0.1, end=0.6, update_every=10)
    method = build_topology(config, {"w": torch.Size((100, 10))}, 100)
    assert updates(method) == [20, 30, 40, 50, 60]
    # 0.1 + 0.9 * (0.8, 0.6, 0.4, 0.2, 0)^3 = 0.5608, 0.2944, 0.1576, 0.1072, 0.1.
    planned = [method.planned_total(s) for s in (0, 19, 20, 29, 30, 40, 50, 60, 100)]
    assert planned == [1000, 1000, 561, 561, 294, 158, 107, 100, 100]


def test_the_last_gradual_pruning_is_at_the_end_whatever_the_interval() -> None:
    config = GmpConfig(density=0.1, start=0.0, end=0.5, update_every=35)
    method = build_topology(config, {"w": torch.Size((100, 10))}, 100)
    assert updates(method) == [36, 50]
    # Never at the last step of a training.
    late = GmpConfig(density=0.1, start=0.0, end=0.9, update_every=1)
    short = build_topology(late, {"w": torch.Size((9, 9))}, 4)
    assert updates(short, 4) == [2, 3] and short.planned_total(4) == 8


def test_gradual_pruning_is_no_single_cut() -> None:
    config = GmpConfig(density=0.1, start=0.1, end=0.9, update_every=80)
    with pytest.raises(TopologyError, match="80 leaves a single cut in the 80 steps .* 40 or less"):
        build_topology(config, {"w": torch.Size((9, 9))}, 100)


@pytest.mark.parametrize(("total_steps", "first"), [(10_000, 1100), (1000, 200), (100, 20)])
def test_without_an_interval_there_are_five_prunings_or_more(total_steps: int, first: int) -> None:
    # start 0.1, end 0.6: 5000, 500 and 50 steps; every 100, 100 and 10.
    found = updates(build_topology(GmpConfig(), SHAPES_OF_TEN, total_steps), total_steps)
    assert found[0] == first and len(found) >= 5


def prune(config: object, signals: Signals, shapes: dict = SHAPES) -> tuple[list[int], ...]:
    method = build_topology(config, shapes, 10)  # type: ignore[arg-type]
    (step,) = updates(method, 10)
    masks = full_masks(signals["weights"])
    found = method.update_masks(step, masks, signals, seeded())
    return tuple(ones(mask) for mask in found.values())


ONCE = {"start": 0.0, "end": 0.3, "update_every": 100}
SIGNALS = Signals(
    {"a": torch.tensor([[4.0, -3.0], [2.0, 0.1]]), "b": torch.tensor([[0.5, -5.0]])},
    adversarial_gradients={
        "a": torch.tensor([[9.0, 0.1], [-8.0, 0.2]]),
        "b": torch.tensor([[-0.3, 7.0]]),
    },
    instability={"a": torch.tensor([0.9, -1.0]), "b": torch.tensor([-1.0])},
)


def test_gradual_magnitude_pruning_keeps_the_largest() -> None:
    assert prune(GmpConfig(density=0.5, **ONCE), SIGNALS) == ([0, 1], [1])
    assert prune(GmpConfig(density=0.5, distribution="uniform", **ONCE), SIGNALS) == ([0, 1], [1])
    assert prune(GmpConfig(density=5 / 6, **ONCE), SIGNALS) == ([0, 1, 2], [0, 1])


def test_stability_pruning_removes_what_feeds_unstable_relus() -> None:
    # (1 - NRS) / 2 is 0.05 for unit 0: 0.2, 0.15; unit 1 keeps 2, 0.1, and b 0.5, 5.
    assert prune(StabilityConfig(density=0.5, **ONCE), SIGNALS) == ([2], [0, 1])


def test_stability_pruning_by_unit_looks_at_nothing_but_stability() -> None:
    config = StabilityConfig(density=0.5, granularity="unit", **ONCE)
    weights = {"a": torch.tensor([[9.0, 9.0], [0.1, 0.1]]), "b": torch.tensor([[9.0, 0.1]])}
    instability = {"a": torch.tensor([0.2, -0.9]), "b": torch.tensor([-1.0])}
    assert prune(config, Signals(weights, instability=instability), LAYOUT) == ([2, 3], [1])


def test_a_unit_without_weights_is_not_stable_but_dead() -> None:
    method = build_topology(StabilityConfig(density=0.5, granularity="unit", **ONCE), LAYOUT, 10)
    weights = {"a": torch.tensor([[0.0, 0.0], [0.1, 0.1]]), "b": torch.tensor([[0.0, 0.1]])}
    instability = {"a": torch.tensor([-1.0, 0.99]), "b": torch.tensor([-1.0])}
    signals = Signals(weights, instability=instability)
    found = method.update_masks(5, full_masks(weights), signals, seeded())
    assert ones(found["a"]) == [2, 3]


def test_greedy_adversarial_pruning_removes_the_largest_gradients() -> None:
    assert prune(GapConfig(density=0.5, **ONCE), SIGNALS) == ([1, 3], [0])


def test_gradual_pruning_brings_nothing_back() -> None:
    method = build_topology(GmpConfig(density=0.5, start=0.0, end=0.9, update_every=1), SHAPES, 10)
    masks = {"a": torch.tensor([[False, True], [True, True]]), "b": torch.tensor([[True, True]])}
    # 6 * (0.5 + 0.5 * (6/8)^3) = 4.3: four stay, and the strong one that is gone is not one.
    signals = Signals({"a": torch.tensor([[99.0, 1.0], [2.0, 3.0]]), "b": torch.ones(1, 2) * 4})
    found = method.update_masks(3, masks, signals, seeded())
    assert (ones(found["a"]), ones(found["b"])) == ([2, 3], [0, 1])


# AC/DC


def acdc(density: float = 0.5, **settings: float) -> TopologyMethod:
    config = AcdcConfig(density=density, **{"warmup": 0.1, "final": 0.1, "cycles": 2, **settings})
    return build_topology(config, SHAPES, 100)


def test_acdc_phases_alternate_and_end_compressed() -> None:
    # Between 10 and 90 there are two pairs of phases of 20 steps; the last phase starts at 90.
    method = acdc()
    assert updates(method) == [10, 30, 50, 70, 90]
    planned = {s: method.planned_total(s) for s in (0, 9, 10, 29, 30, 49, 50, 69, 70, 89, 90, 100)}
    assert planned == {0: 6, 9: 6, 10: 3, 29: 3, 30: 6, 49: 6, 50: 3, 69: 3, 70: 6, 89: 6, 90: 3,
                       100: 3}  # fmt: skip


def test_acdc_forgets_momenta_when_it_decompresses_and_keeps_the_twin_before_the_last_cut() -> None:
    method = acdc()
    assert [s for s in range(101) if method.phase(s).resets_optimizer] == [30, 70]
    assert [s for s in range(101) if method.phase(s).keeps_twin] == [90]
    assert {method.phase(s) for s in (1, 10, 20, 31, 50, 91)} == {Phase()}


def test_acdc_compresses_to_the_largest_weights_and_decompresses_to_all() -> None:
    method, masks = acdc(), full_masks(SIGNALS["weights"])
    compressed = method.update_masks(50, masks, SIGNALS, seeded())
    assert (ones(compressed["a"]), ones(compressed["b"])) == ([0, 1], [1])
    restored = method.update_masks(70, compressed, SIGNALS, seeded())
    assert all(mask.all() for mask in restored.values())
    # What is large now decides, not what was kept before.
    turned = Signals({"a": torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "b": torch.tensor([[1.0, 0.0]])})
    again = method.update_masks(90, restored, turned, seeded())
    assert (ones(again["a"]), ones(again["b"])) == ([2, 3], [0])


@pytest.mark.parametrize("total_steps", range(1, 60))
def test_acdc_ends_compressed_and_trains_in_every_phase_or_is_refused(total_steps: int) -> None:
    try:
        method = build_topology(AcdcConfig(density=0.5, cycles=4), SHAPES, total_steps)
    except TopologyError as error:
        assert "cycles: 4" in str(error) and total_steps < 24
        return
    steps = updates(method, total_steps)
    assert len(steps) == 9 and steps[-1] < total_steps
    assert all(b - a >= 2 for a, b in zip(steps, steps[1:], strict=False))
    assert method.planned_total(total_steps) == 3


def test_decompressed_weights_restart_at_zero_without_momenta() -> None:
    weight = nn.Parameter(torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    config = AcdcConfig(density=0.5, warmup=0.1, final=0.1, cycles=2)
    method = build_topology(config, {"w": weight.shape}, 100)
    sparsifier = Sparsifier({"w": weight}, optimizer, method, seeded())
    sparsifier.start(Signals({"w": weight.detach()}))
    sparsifier.update(10, Signals({"w": weight.detach()}))
    weight.grad = torch.ones(2, 2)
    sparsifier.mask_gradients(11)
    optimizer.step()
    survivors = [[4.0 - 0.1, 3.0 - 0.1], [0.0, 0.0]]
    torch.testing.assert_close(weight.detach(), torch.tensor(survivors))
    sparsifier.update(30, Signals({"w": weight.detach()}))
    torch.testing.assert_close(weight.detach(), torch.tensor(survivors))
    weight.grad = torch.ones(2, 2)
    sparsifier.mask_gradients(31)
    optimizer.step()
    # By 0.1 each: with the old momentum survivors would move by 0.19.
    expected = torch.tensor([[3.8, 2.8], [-0.1, -0.1]])
    torch.testing.assert_close(weight.detach(), expected)


# Deadwooding

DEADWOOD = {"a": torch.tensor([[0.02, 0.0], [-0.01, 0.03]]), "b": torch.tensor([[0.0, 0.0]])}
SOFT_COUNT = (1 - math.exp(-4)) + (1 - math.exp(-1)) + (1 - math.exp(-9))


def deadwooding(**settings: float) -> TopologyMethod:
    config = DeadwoodingConfig(**{"density": 2 / 6, "cut": 0.5, "scale": 0.01, **settings})
    return build_topology(config, SHAPES, 100)


def test_deadwooding_presses_on_weights_beyond_the_budget() -> None:
    weights = {name: w.clone().requires_grad_() for name, w in DEADWOOD.items()}
    signals = Signals(weights, variables={"multiplier": torch.tensor(0.5)})
    penalty = deadwooding().penalty(7, signals)
    assert penalty is not None
    violation = (SOFT_COUNT - 2) / 6
    assert penalty.item() == pytest.approx(0.5 * violation, rel=1e-5)
    penalty.backward()
    # d/dw of 1 - exp(-(w / s)^2) is 2 w / s^2 exp(-(w / s)^2).
    slope = 0.5 / 6 * 2 * 0.02 / 0.01**2 * math.exp(-4)
    assert weights["a"].grad[0, 0].item() == pytest.approx(slope, rel=1e-4)


def test_within_the_budget_nothing_is_pressed() -> None:
    signals = Signals(DEADWOOD, variables={"multiplier": torch.tensor(0.5)})
    penalty = deadwooding(density=0.5).penalty(7, signals)
    assert penalty is not None and penalty.item() == 0.0


def test_the_multiplier_climbs_by_the_violation() -> None:
    weights = {name: nn.Parameter(w.clone()) for name, w in DEADWOOD.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.0)
    method = deadwooding(dual_rate=0.2)
    sparsifier = Sparsifier(weights, optimizer, method, seeded())
    sparsifier.start(Signals({name: w.detach() for name, w in weights.items()}))
    assert sparsifier.variables["multiplier"].item() == 0.0
    for step in (1, 2):
        sparsifier.before_step(step)
        optimizer.zero_grad()
        live = Signals(weights, variables=sparsifier.variables)
        method.penalty(step, live).backward()
        sparsifier.mask_gradients(step)
        optimizer.step()
        sparsifier.after_step(step)
        expected = step * 0.2 * (SOFT_COUNT - 2) / 6
        assert sparsifier.variables["multiplier"].item() == pytest.approx(expected, rel=1e-5)


def test_deadwooding_cuts_once_keeps_the_twin_and_distils() -> None:
    method = deadwooding(distillation=0.7)
    assert updates(method) == [50]
    assert method.phase(49) == Phase() and method.phase(50) == Phase(keeps_twin=True)
    assert method.phase(51) == Phase(distillation=0.7)
    assert [method.planned_total(s) for s in (0, 49, 50, 100)] == [6, 6, 2, 2]
    signals = Signals(SIGNALS["weights"], variables={"multiplier": torch.tensor(1.0)})
    assert method.penalty(49, signals) is not None
    assert method.penalty(50, signals) is None
    masks = method.update_masks(50, full_masks(signals["weights"]), signals, seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([0], [1])


# Slimming


def slimming(**settings: float) -> TopologyMethod:
    return build_topology(SlimmingConfig(**{"density": 0.5, **settings}), LAYOUT, 100)


def test_slimming_adds_the_l1_norm_of_the_scales_up_to_the_cut() -> None:
    scale, other = torch.tensor([-0.5, 0.2], requires_grad=True), torch.full((3,), 2.0)
    gains = {"a": scale.abs(), "b": torch.ones(1), "c": other.requires_grad_().abs()}
    method = slimming(penalty=0.1)
    penalty = method.penalty(49, Signals(SIGNALS["weights"], gains=gains))
    # 0.1 * (0.5 + 0.2 + 3 * 2); the layer without batch normalisation adds nothing.
    assert penalty is not None and penalty.item() == pytest.approx(0.67)
    penalty.backward()
    torch.testing.assert_close(scale.grad, torch.tensor([-0.1, 0.1]))
    assert method.penalty(50, Signals(SIGNALS["weights"], gains=gains)) is None
    assert updates(method) == [50]


def test_slimming_keeps_the_units_with_the_largest_scales_whatever_their_weights() -> None:
    signals = Signals(
        SIGNALS["weights"], gains={"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([1.0])}
    )
    masks = slimming().update_masks(50, full_masks(signals["weights"]), signals, seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([2, 3], [1])


def test_slimming_needs_scales() -> None:
    gains = {"a": torch.ones(2), "b": torch.ones(1)}
    with pytest.raises(TopologyError, match="model.batch_norm: true"):
        slimming().penalty(1, Signals(SIGNALS["weights"], gains=gains))
    assert slimming(penalty=0.0).penalty(1, Signals(SIGNALS["weights"], gains=gains)) is None
