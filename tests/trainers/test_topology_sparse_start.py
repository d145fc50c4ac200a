"""Methods that are sparse from the first step, on cases worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from spaces.topology import CtreConfig, GraspConfig, SnipConfig, SparseVlrConfig, SynFlowConfig
from trainers.topology import Layout, build_topology
from trainers.topology.base import Signals
from trainers.wiring import UnitGroup

SHAPES = {"a": torch.Size((2, 2)), "b": torch.Size((1, 2))}
LAYOUT = Layout(SHAPES, (UnitGroup("a", 2, ("a",), (("b", 1),), ()),))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ones(mask: Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def test_snip_by_unit_ranks_units_by_mean_sensitivities() -> None:
    signals = Signals(
        {"a": torch.tensor([[1.0, -1.0], [2.0, 2.0]]), "b": torch.tensor([[1.0, 1.0]])},
        gradients={"a": torch.tensor([[4.0, 2.0], [0.1, -0.1]]), "b": torch.tensor([[1.0, 2.0]])},
    )
    # Unit 0: rows of a 4 and 2 -> 3, column of b 1 -> 2. Unit 1: 0.2 and 2 -> 1.1.
    method = build_topology(SnipConfig(density=0.5, granularity="unit"), LAYOUT, 10)
    masks = method.init_masks(signals, seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([0, 1], [0])
    assert method.by_unit and method.planned_total(0) == 3


def test_grasp_keeps_what_the_gradient_s_norm_needs() -> None:
    signals = Signals(
        {"a": torch.tensor([[1.0, -2.0], [3.0, 0.5]]), "b": torch.tensor([[-1.0, 2.0]])},
        hessian_gradients={
            "a": torch.tensor([[2.0, -3.0], [-5.0, 0.2]]),
            "b": torch.tensor([[0.5, 0.4]]),
        },
        certified_hessian_gradients={
            "a": torch.tensor([[0.0, 0.0], [1.0, 9.0]]),
            "b": torch.tensor([[-9.0, -9.0]]),
        },
    )
    # w * (H g): a = 2, 6, -15, 0.1; b = -0.5, 0.8. Neither |w * (H g)| nor its negative.
    method = build_topology(GraspConfig(density=0.5), SHAPES, 10)
    masks = method.init_masks(signals, seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([0, 1], [1])
    assert method.init_inputs == {"weights", "hessian_gradients"}
    # Certified: a = 0, 0, 3, 4.5; b = 9, -18.
    certified = build_topology(GraspConfig(density=0.5, saliency="certified"), SHAPES, 10)
    masks = certified.init_masks(signals, seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([2, 3], [0])
    assert certified.init_inputs == {"weights", "certified_hessian_gradients"}


class Flow:
    """|w dR/dw| of out = b . a . (1, 1), written out, and the masks it was asked about."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b, self.asked = a, b, []

    def __call__(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        self.asked.append({name: int(mask.sum()) for name, mask in masks.items()})
        a, b = (self.a * masks["a"]).abs().double(), (self.b * masks["b"]).abs().double()
        return {"a": a * b.T, "b": b * a.sum(1)}


def synflow(flow: Flow, **settings: float) -> tuple[list[int], list[int]]:
    method = build_topology(SynFlowConfig(**settings), SHAPES, 10)
    masks = method.init_masks(Signals({"a": flow.a, "b": flow.b}, synaptic_flow=flow), seeded())
    return ones(masks["a"]), ones(masks["b"])


def test_synflow_in_one_round_keeps_the_largest_flows() -> None:
    flow = Flow(torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[-5.0, 1.0]]))
    # a: 1 * 5, 2 * 5, 3 * 1, 4 * 1; b: 5 * 3, 1 * 7. The best three: b0 15, a1 10, b1 7.
    assert synflow(flow, density=0.5, rounds=1) == ([1], [0, 1])
    assert flow.asked == [{"a": 4, "b": 2}]


def test_synflow_scores_again_after_each_round() -> None:
    flow = Flow(torch.tensor([[4.0, 2.0], [2.9, 2.8]]), torch.tensor([[1.0, 1.0]]))
    # a: 4, 2, 2.9, 2.8; b: 6, 5.7. One round to 2 of 6 keeps the best of each layer.
    assert synflow(flow, density=2 / 6, rounds=1) == ([0], [0])
    # 3 of 6 in one round are b0, b1, a0: b1 leads nowhere.
    assert synflow(flow, density=0.5, rounds=1) == ([0], [0, 1])
    # Two rounds: 6 * 0.5^(1/2) = 4.2 -> 4 keep b0, b1, a0, a2; then b is 4 and 2.9, so the best
    # three are a0 and b0 with 4, and a2 before b1, with 2.9 each, by index.
    flow.asked.clear()
    assert synflow(flow, density=0.5, rounds=2) == ([0, 2], [0])
    assert flow.asked == [{"a": 4, "b": 2}, {"a": 2, "b": 2}]


def test_synflow_never_brings_back_what_a_round_has_pruned() -> None:
    first = {"a": torch.tensor([[4.0, 3.0], [0.0, 0.0]]), "b": torch.tensor([[2.0, 1.0]])}
    then = {"a": torch.tensor([[1.0, 2.0], [9.0, 9.0]]), "b": torch.tensor([[0.5, 0.6]])}
    answers = iter([first, then])
    method = build_topology(SynFlowConfig(density=0.5, rounds=2), SHAPES, 10)
    signals = Signals(
        {n: torch.zeros(s) for n, s in SHAPES.items()}, synaptic_flow=lambda masks: next(answers)
    )
    masks = method.init_masks(signals, seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([0, 1], [1])


MASK = torch.tensor([[True, True, True, True], [False, False, False, False]])
WEIGHTS = torch.tensor([[0.5, -0.1, 0.3, -0.9], [0.0, 0.0, 0.0, 0.0]])
COSINES = torch.tensor([[0.0, 0.9, 0.1, 0.0], [0.2, 0.8, 0.3, 0.4]])


def ctre(seed: int = 0, stall: int = 0, cosines: Tensor = COSINES, **settings: object) -> list[int]:
    config = CtreConfig(density=0.5, drop_fraction=0.5, update_every=10, **settings)
    method = build_topology(config, {"w": MASK.shape}, 100)
    signals = Signals({"w": WEIGHTS}, cosines={"w": cosines}, longest_stall=stall)
    return ones(method.update_masks(10, {"w": MASK}, signals, seeded(seed))["w"])


def test_ctre_in_sequence_grows_new_weights_by_cosine() -> None:
    # |w| keeps 0 and 3; the dropped 1 has the best cosine, but it is not new.
    assert ctre() == [0, 3, 5, 7]
    assert ctre(stall=39) == [0, 3, 5, 7]


def test_ctre_in_sequence_explores_at_random_after_a_stall() -> None:
    outcomes = {tuple(ctre(seed, stall=40)) for seed in range(60)}
    assert all(o[:2] == (0, 3) and set(o[2:]) <= {4, 5, 6, 7} for o in outcomes)
    assert len(outcomes) == math.comb(4, 2)
    assert len({tuple(ctre(seed, stall=3, patience=3)) for seed in range(60)}) == 6


def test_ctre_at_once_puts_random_weights_in_the_place_of_those_it_has_just_dropped() -> None:
    # The best two cosines are those of 1, just dropped, and 5: a random one of 4, 6, 7 joins 5.
    outcomes = {tuple(ctre(seed, mode="simultaneous")) for seed in range(40)}
    assert outcomes == {(0, 3, 4, 5), (0, 3, 5, 6), (0, 3, 5, 7)}


def test_ctre_at_once_is_not_random_when_nothing_was_dropped_in_vain() -> None:
    cosines = COSINES.clone()
    cosines[0, 1] = 0.0
    assert ctre(cosines=cosines, mode="simultaneous") == [0, 3, 5, 7]


@pytest.mark.parametrize(
    ("mode", "inputs"),
    [
        ("sequential", {"weights", "cosines", "longest_stall"}),
        ("simultaneous", {"weights", "cosines"}),
    ],
)
def test_ctre_asks_for_no_gradient(mode: str, inputs: set[str]) -> None:
    method = build_topology(CtreConfig(density=0.5, mode=mode), {"w": MASK.shape}, 100)
    assert method.inputs == inputs


def test_sparsevlr_grows_by_the_certified_gradient_what_was_dropped_too() -> None:
    config = SparseVlrConfig(density=0.5, drop_fraction=0.5, update_every=10)
    method = build_topology(config, {"w": MASK.shape}, 100)
    certified = torch.tensor([[0.0, -9.0, 0.0, 9.0], [0.0, 0.0, 0.1, 0.0]])
    signals = Signals({"w": WEIGHTS}, certified_gradients={"w": certified})
    masks = method.update_masks(10, {"w": MASK}, signals, seeded())
    assert ones(masks["w"]) == [0, 1, 3, 6]
    assert method.inputs == {"weights", "certified_gradients"}


def test_sparsevlr_by_unit_replaces_the_unit_with_the_smallest_weights() -> None:
    config = SparseVlrConfig(density=6 / 9, granularity="unit", drop_fraction=0.5, update_every=10)
    layout = Layout(
        {"a": torch.Size((3, 2)), "b": torch.Size((1, 3))},
        (UnitGroup("a", 3, ("a",), (("b", 1),), ()),),
    )
    method = build_topology(config, layout, 100)
    weights = {"a": torch.tensor([[1.0, 1.0], [0.0, 0.0], [3.0, 3.0]]),
               "b": torch.tensor([[9.0, 0.0, 2.0]])}  # fmt: skip
    masks = {"a": torch.tensor([[True] * 2, [False] * 2, [True] * 2]),
             "b": torch.tensor([[True, False, True]])}  # fmt: skip
    # Magnitudes: unit 0 (1 + 9) / 2 = 5, unit 2 (3 + 2) / 2 = 2.5, which goes. Of units 1 and 2
    # the gradients are (0 + 4) / 2 and (1 + 1) / 2.
    gradients = {"a": torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
                 "b": torch.tensor([[0.0, -4.0, 1.0]])}  # fmt: skip
    signals = Signals(weights, certified_gradients=gradients)
    found = method.update_masks(10, masks, signals, seeded())
    assert ones(found["a"]) == [0, 1, 2, 3] and ones(found["b"]) == [0, 1]
