"""Methods whose masks are gates for a while, on cases worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from spaces.topology import GibbsConfig, HardConcreteConfig, JackpotsConfig
from trainers.sparsifier import Sparsifier
from trainers.topology import build_topology
from trainers.topology.base import Phase, Signals, TopologyMethod
from trainers.topology.methods import hard_concrete
from trainers.topology.methods.gibbs import Gibbs

SHAPES = {"a": torch.Size((1, 4)), "b": torch.Size((1, 2))}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ones(mask: Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def relaxed_steps(method: TopologyMethod) -> tuple[int, int, int]:
    """First, last and number of relaxed steps of a hundred."""
    steps = [step for step in range(101) if method.phase(step).relaxed]
    return steps[0], steps[-1], len(steps)


# Gibbs


def gibbs(shapes: dict[str, torch.Size] = SHAPES, **settings: object) -> Gibbs:
    config = GibbsConfig(**{"density": 0.5, "end": 0.64, **settings})  # type: ignore[arg-type]
    method = build_topology(config, shapes, 100)
    assert isinstance(method, Gibbs)
    return method


def test_beta_grows_geometrically_to_the_end_of_the_relaxed_phase() -> None:
    method = gibbs(beta_start=1.0, beta_end=1e4)
    assert [method.beta(s) for s in (0, 16, 32, 64)] == pytest.approx([1.0, 10.0, 100.0, 1e4])
    assert relaxed_steps(method) == (1, 64, 64)
    assert method.phase(10) == Phase(relaxed=True), "weights train, nothing is attacked"
    other = gibbs(beta_start=0.01, beta_end=100.0)
    assert [other.beta(s) for s in (0, 32, 64)] == pytest.approx([0.01, 1.0, 100.0])


def frequencies(method: Gibbs, step: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    generator, draws = seeded(), 3000
    signals = Signals(weights)
    sums = {name: torch.zeros_like(w) for name, w in weights.items()}
    for _ in range(draws):
        for name, gate in method.gates(step, signals, generator).items():
            assert set(gate.unique().tolist()) <= {0.0, 1.0}
            sums[name] += gate
    return {name: total / draws for name, total in sums.items()}


def kept(*energies: float) -> Tensor:
    """1 - 1 / (1 + exp(beta (w^2 - Q))), from beta (w^2 - Q)."""
    return torch.tensor([[1.0 - 1.0 / (1.0 + math.exp(e)) for e in energies]])


SQUARES = {"a": torch.tensor([[0.99, 1.00, 1.01, 1.02]]), "b": torch.tensor([[0.98, 1.03]])}
WEIGHTS = {name: square.sqrt() * torch.tensor([-1.0]) for name, square in SQUARES.items()}


def test_masks_are_drawn_with_gibbs_probabilities() -> None:
    # Of each layer half stay. Q is the largest square that does not: 1.00 and 0.98. Beta is 100.
    found = frequencies(gibbs(distribution="uniform"), 32, WEIGHTS)
    # Four standard deviations of 3000 draws are 0.037.
    torch.testing.assert_close(found["a"], kept(-1.0, 0.0, 1.0, 2.0), atol=0.037, rtol=0.0)
    torch.testing.assert_close(found["b"], kept(0.0, 5.0), atol=0.037, rtol=0.0)


def test_a_global_ranking_has_one_threshold() -> None:
    # Three of six stay: 1.03, 1.02, 1.01. Q is 1.00 for both layers.
    found = frequencies(gibbs(), 32, WEIGHTS)
    torch.testing.assert_close(found["a"], kept(-1.0, 0.0, 1.0, 2.0), atol=0.037, rtol=0.0)
    torch.testing.assert_close(found["b"], kept(-2.0, 3.0), atol=0.037, rtol=0.0)


def test_kernels_are_drawn_whole_by_their_mean_square() -> None:
    shapes = {"w": torch.Size((1, 2, 1, 2))}
    weights = {"w": torch.tensor([[[[1.00, 1.02]], [[1.05, 0.99]]]]).sqrt()}
    # Means 1.01 and 1.02, of which the first is Q.
    method = gibbs(shapes, granularity="kernel", distribution="uniform")
    found = frequencies(method, 32, weights)["w"].flatten()
    assert found[0] == found[1] and found[2] == found[3]
    torch.testing.assert_close(found[[0, 2]], kept(0.0, 1.0)[0], atol=0.037, rtol=0.0)


def test_a_full_layer_is_never_dropped() -> None:
    method = gibbs(density=1.0, distribution="uniform", beta_start=1e-6)
    assert all(gate.all() for gate in method.gates(1, Signals(WEIGHTS), seeded()).values())


def test_in_the_limit_the_largest_squares_stay() -> None:
    method, full = gibbs(), {name: torch.ones(1, n).bool() for name, n in (("a", 4), ("b", 2))}
    masks = method.update_masks(0, full, Signals(WEIGHTS), seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([2, 3], [1])
    found = frequencies(gibbs(beta_start=1e8, beta_end=1e8), 1, WEIGHTS)
    # At beta 1e8 only the weight at the threshold itself is open: its chance is one half.
    assert ones(found["a"] > 0.9) == [2, 3] and 0.4 < found["a"][0, 1] < 0.6


# Hard concrete


def hard(**settings: object) -> TopologyMethod:
    config = HardConcreteConfig(density=0.5, search_start=0.4, search_end=0.6, **settings)
    return build_topology(config, SHAPES, 100)


def test_the_search_moves_gates_alone_on_attacked_inputs() -> None:
    method = hard(attack_steps=3)
    assert relaxed_steps(method) == (41, 60, 20)
    assert method.phase(50) == Phase(relaxed=True, frozen=True, attack_steps=3)
    assert method.phase(40) == method.phase(61) == Phase()
    assert [method.planned_total(s) for s in (40, 41, 100)] == [6, 3, 3]


def test_gates_are_stretched_and_clipped_sigmoids_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {4: torch.tensor([[0.5, 0.2, 0.9, 0.5]]), 2: torch.tensor([[0.0, 1.0]])}
    monkeypatch.setattr(hard_concrete, "random_scores", lambda like, generator: noise[like.numel()])
    variables = {
        "a": torch.tensor([[0.0, 0.0, 0.0, math.log(4.0)]], requires_grad=True),
        "b": torch.zeros(1, 2, requires_grad=True),
    }
    weights = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    gates = hard().gates(50, Signals(weights, variables=variables), seeded())
    # s = 1 / (1 + ((1 - u) / u e^-theta)^(3/2)): 1/2, 1/9, 27/28, 8/9; then 1.2 s - 0.1.
    torch.testing.assert_close(
        gates["a"].detach(), torch.tensor([[0.5, 1.2 / 9 - 0.1, 1.0, 1.2 * 8 / 9 - 0.1]])
    )
    # Noise at the ends of its range is no infinity.
    assert gates["b"].tolist() == [[0.0, 1.0]]
    gates["a"].sum().backward()
    # d gate / d theta = 1.2 s (1 - s) 3/2, and nothing where the gate is clipped.
    expected = [[1.8 / 4, 1.8 * 8 / 81, 0.0, 1.8 * 8 / 81]]
    torch.testing.assert_close(variables["a"].grad, torch.tensor(expected))


def test_noise_comes_from_the_generator_given() -> None:
    variables = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    signals = Signals(variables, variables=variables)
    first, second, third = (hard().gates(50, signals, seeded(s))["a"] for s in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_the_penalty_is_the_mean_chance_of_an_open_gate() -> None:
    variables = {
        "a": torch.zeros(1, 4, requires_grad=True),
        "b": torch.full((1, 2), math.log(2.0), requires_grad=True),
    }
    signals = Signals(WEIGHTS, variables=variables)
    # sigmoid(theta - 2/3 ln(0.1 / 1.1)) = 1 / (1 + e^-theta 11^(-2/3)).
    chance = [1.0 / (1.0 + 11 ** (-2 / 3)), 1.0 / (1.0 + 0.5 * 11 ** (-2 / 3))]
    mean = (4 * chance[0] + 2 * chance[1]) / 6
    method = hard(penalty=2.0)
    # From step 40 on 20 steps: none for a tenth, then rising over three tenths, then full.
    for step, share in ((41, 0.0), (42, 0.0), (45, 0.5), (48, 1.0), (60, 1.0)):
        penalty = method.penalty(step, signals)
        assert penalty is not None
        assert penalty.item() == pytest.approx(2.0 * share * mean, rel=1e-5)
    assert method.penalty(40, signals) is None and method.penalty(61, signals) is None


def test_the_ticket_is_made_of_the_gates_that_are_most_open() -> None:
    theta = {"a": torch.tensor([[1.0, -2.0, 3.0, 0.0]]), "b": torch.tensor([[-1.0, 2.0]])}
    masks = hard().update_masks(0, {}, Signals(WEIGHTS, variables=theta), seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([0, 2], [1])


def test_gates_start_where_the_stretched_sigmoid_is_nine_tenths() -> None:
    theta = hard().init_variables(WEIGHTS)
    assert {name: value.shape for name, value in theta.items()} == SHAPES
    torch.testing.assert_close(1.2 * theta["a"].sigmoid() - 0.1, torch.full((1, 4), 0.9))


# Lottery jackpots


def jackpots(**settings: object) -> TopologyMethod:
    config = JackpotsConfig(**{"density": 0.5, "search_start": 0.2, **settings})  # type: ignore[arg-type]
    return build_topology(config, {"w": torch.Size((1, 4))}, 100)


def test_the_search_on_a_frozen_network_lasts_to_the_end() -> None:
    method = jackpots()
    assert relaxed_steps(method) == (21, 100, 80)
    assert method.phase(30) == Phase(relaxed=True, frozen=True)
    assert relaxed_steps(jackpots(search_start=0.0)) == (1, 100, 100)
    assert [method.planned_total(s) for s in (0, 20, 21)] == [4, 4, 2]


def test_the_rate_of_the_scores_is_a_cosine_over_the_search() -> None:
    method = jackpots(mask_lr=0.3)
    rates = [method.variable_lr(step) for step in (21, 61, 100)]
    # 0, 40 and 79 of 80 steps have gone.
    last = 0.15 * (1.0 + math.cos(math.pi * 79 / 80))
    assert rates == pytest.approx([0.3, 0.15, last])


def search(gradient: Tensor, steps: int = 1) -> tuple[nn.Parameter, Sparsifier]:
    """Steps of the search with a loss whose gradient for the weights in use is `gradient`."""
    weight = nn.Parameter(torch.tensor([[4.0, 3.0, -2.0, 1.0]]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    sparsifier = Sparsifier({"w": weight}, optimizer, jackpots(search_start=0.0), seeded())
    sparsifier.start(Signals({"w": weight.detach()}))
    for step in range(1, steps + 1):
        sparsifier.before_step(step)
        assert torch.equal(weight.detach(), weight.detach() * sparsifier.relaxation._gates["w"])
        (weight * gradient).sum().backward()
        sparsifier.mask_gradients(step)
        optimizer.step()
        sparsifier.after_step(step)
    sparsifier.settle()
    return weight, sparsifier


def test_a_gradient_swaps_weights_across_the_border() -> None:
    # Scores 1, 1, 0.99, 0.99 move by -0.1 * gradient * weight, through the mask: weight 1 loses
    # 0.1 * 0.02 * 3 = 0.006, weight 2 gains 0.1 * 0.03 * 2 = 0.006, and 0.996 > 0.994.
    weight, sparsifier = search(torch.tensor([[0.0, 0.02, 0.03, 0.0]]))
    assert ones(sparsifier.masks["w"]) == [0, 2]
    assert weight.tolist() == [[4.0, 0.0, -2.0, 0.0]]
    assert sparsifier.relaxation.values["w"].tolist() == [[4.0, 3.0, -2.0, 1.0]]


def test_a_smaller_gradient_swaps_nothing() -> None:
    # 1 - 0.0045 = 0.9955 against 0.99 + 0.0045 = 0.9945.
    weight, sparsifier = search(torch.tensor([[0.0, 0.015, 0.0225, 0.0]]))
    assert ones(sparsifier.masks["w"]) == [0, 1]
    assert weight.tolist() == [[4.0, 3.0, 0.0, 0.0]]
    # Two steps of it do.
    assert ones(search(torch.tensor([[0.0, 0.015, 0.0225, 0.0]]), 2)[1].masks["w"]) == [0, 2]


def test_the_gates_are_exactly_zero_or_one() -> None:
    moved = {"w": torch.tensor([[0.3, 0.1, -0.7, 1e-4]], requires_grad=True)}
    signals = Signals({"w": torch.tensor([[4.0, 3.0, 2.0, 1.0]])}, variables=moved)
    gates = jackpots().gates(30, signals, seeded())["w"]
    assert gates.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    gates.sum().backward()
    assert moved["w"].grad.tolist() == [[1.0] * 4]


def test_each_layer_keeps_as_many_as_magnitudes_give_it() -> None:
    method = build_topology(JackpotsConfig(density=4 / 6), SHAPES, 100)
    # The largest four are 9, 8, 7 and 6: three of a and one of b, but not these ones.
    weights = {"a": torch.tensor([[9.0, 8.0, 7.0, 1.0]]), "b": torch.tensor([[6.0, 1.0]])}
    moved = {"a": torch.tensor([[-1.0, 0.0, 0.0, 5.0]]), "b": torch.tensor([[0.0, 0.5]])}
    masks = method.update_masks(0, {}, Signals(weights, variables=moved), seeded())
    assert (ones(masks["a"]), ones(masks["b"])) == ([1, 2, 3], [1])
