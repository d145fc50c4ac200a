"""Weights multiplied by gates: values, gradients of both, and rest in between."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.relaxation import Relaxation
from trainers.sparsifier import Sparsifier
from trainers.topology.base import FixedTopology, Phase, Signals


class Gated(FixedTopology):
    """Gates are theta, at steps 2 to 4; weights with theta >= 1/2 are kept."""

    frozen = False

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta

    def init_masks(self, signals: Signals, generator: Any) -> dict[str, Tensor]:
        return {name: torch.ones_like(w).bool() for name, w in signals["weights"].items()}

    def planned_total(self, step: int) -> int:
        return 2

    def phase(self, step: int) -> Phase:
        return Phase(relaxed=True, frozen=self.frozen) if 2 <= step <= 4 else Phase()

    def init_variables(self, weights: Any) -> dict[str, Tensor]:
        return {"w": self.theta.clone()}

    def build_optimizer(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(variables, lr=0.1)

    def gates(self, step: int, signals: Signals, generator: Any) -> dict[str, Tensor]:
        return {"w": signals["variables"]["w"] * 1.0}

    def update_masks(self, step: int, masks: Any, signals: Signals, generator: Any) -> Any:
        return {"w": signals["variables"]["w"].detach() >= 0.5}


class FrozenGated(Gated):
    frozen = True


def relaxation(theta: Tensor, weight: nn.Parameter) -> tuple[Relaxation, Tensor]:
    variable = theta.clone().requires_grad_()
    return Relaxation({"w": weight}, Gated(theta), {"w": variable}, torch.Generator()), variable


def test_gradients_reach_values_through_gates_and_gates_through_values() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, -1.0]]))
    relaxed, theta = relaxation(torch.tensor([[0.5, 0.0]]), weight)
    relaxed.apply(2)
    assert weight.tolist() == [[1.0, 0.0]] and relaxed.counts == {"w": 1}
    (weight * torch.tensor([[3.0, 4.0]])).sum().backward()
    relaxed.pull_back()
    assert weight.tolist() == [[2.0, -1.0]]
    assert weight.grad.tolist() == [[3.0 * 0.5, 4.0 * 0.0]]
    assert theta.grad.tolist() == [[3.0 * 2.0, 4.0 * -1.0]]


def test_what_the_optimizer_does_between_pull_back_and_store_stays() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, -1.0]]))
    relaxed, _ = relaxation(torch.tensor([[0.5, 0.0]]), weight)
    relaxed.apply(2)
    weight.grad = torch.tensor([[3.0, 4.0]])
    relaxed.pull_back()
    torch.optim.SGD([weight], lr=1.0).step()
    relaxed.store()
    relaxed.rest({"w": torch.tensor([[True, False]])}, [])
    assert weight.tolist() == [[0.5, 0.0]]
    assert relaxed.values is not None and relaxed.values["w"].tolist() == [[0.5, -1.0]]
    relaxed.rest({"w": torch.tensor([[False, True]])}, [])
    assert weight.tolist() == [[0.0, -1.0]], "pruned weights keep their values underneath"
    relaxed.apply(3)
    assert weight.tolist() == [[0.25, 0.0]]


def test_vectors_rest_too_and_come_back() -> None:
    weight, bias = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.tensor([3.0, 5.0]))
    theta = torch.ones(2, 1)
    relaxed = Relaxation(
        {"w": weight}, Gated(theta), {"w": theta.clone()}, torch.Generator(), [bias]
    )
    relaxed.apply(2)
    for _ in range(2):  # resting twice is resting once
        relaxed.rest({"w": torch.tensor([[True], [False]])}, [(bias, torch.tensor([1.0, 0.0]))])
        assert bias.tolist() == [3.0, 0.0]
    relaxed.apply(3)
    assert bias.tolist() == [3.0, 5.0]


def setup(kind: type[Gated]) -> tuple[nn.Parameter, torch.optim.Optimizer, Sparsifier]:
    weight = nn.Parameter(torch.tensor([[4.0, 3.0, 2.0]]))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    method = kind(torch.tensor([[1.0, 0.5, 0.0]]))
    sparsifier = Sparsifier({"w": weight}, optimizer, method, torch.Generator())
    sparsifier.start(Signals({"w": weight.detach()}))
    return weight, optimizer, sparsifier


def step(number: int, weight: nn.Parameter, optimizer: Any, sparsifier: Sparsifier) -> None:
    sparsifier.before_step(number)
    optimizer.zero_grad()
    (weight * torch.tensor([[1.0, 1.0, -1.0]])).sum().backward()
    sparsifier.mask_gradients(number)
    optimizer.step()
    sparsifier.after_step(number)


def test_a_relaxed_phase_from_beginning_to_end() -> None:
    weight, optimizer, sparsifier = setup(Gated)
    step(2, weight, optimizer, sparsifier)
    # Values move by 0.5 * gradient * gate; theta by 0.1 * gradient * value.
    assert sparsifier.relaxation.values["w"].tolist() == [[3.5, 2.75, 2.0]]
    torch.testing.assert_close(sparsifier.variables["w"].detach(), torch.tensor([[0.6, 0.2, 0.2]]))
    assert sparsifier.counts_in_use == {"w": 2}, "the third gate was shut"
    sparsifier.settle()
    assert sparsifier.masks["w"].tolist() == [[True, False, False]]
    assert weight.tolist() == [[3.5, 0.0, 0.0]] and sparsifier.counts == {"w": 1}
    step(3, weight, optimizer, sparsifier)
    assert sparsifier.counts_in_use == {"w": 3}
    step(4, weight, optimizer, sparsifier)
    sparsifier.before_step(5)
    # From here on values and momenta of what is pruned are gone.
    kept = sparsifier.masks["w"]
    assert sparsifier.relaxation.values is None
    assert not weight.detach()[~kept].any()
    assert not optimizer.state[weight]["momentum_buffer"][~kept].any()
    assert sparsifier.counts_in_use == sparsifier.counts


def test_in_a_frozen_phase_only_variables_move() -> None:
    weight, optimizer, sparsifier = setup(FrozenGated)
    step(1, weight, optimizer, sparsifier)
    values = weight.detach().clone()
    momentum = optimizer.state[weight]["momentum_buffer"].clone()
    step(2, weight, optimizer, sparsifier)
    assert torch.equal(sparsifier.relaxation.values["w"], values)
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], momentum)
    assert not torch.equal(sparsifier.variables["w"].detach(), torch.tensor([[1.0, 0.5, 0.0]]))


@pytest.mark.parametrize("settled", [False, True])
def test_a_relaxed_phase_is_resumed_with_what_is_underneath(settled: bool) -> None:
    weight, optimizer, sparsifier = setup(Gated)
    step(2, weight, optimizer, sparsifier)
    if settled:
        sparsifier.settle()
    saved, values = sparsifier.state_dict(), weight.detach().clone()
    other_weight, other_optimizer, other = setup(Gated)
    other_weight.data.copy_(values)
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(saved)
    for number in (3, 4):
        step(number, weight, optimizer, sparsifier)
        step(number, other_weight, other_optimizer, other)
    for found in (sparsifier, other):
        found.before_step(5)
    assert torch.equal(weight, other_weight)
    assert torch.equal(sparsifier.masks["w"], other.masks["w"])
