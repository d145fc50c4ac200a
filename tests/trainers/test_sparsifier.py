"""The one place where masks meet weights and optimizer state."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces.topology import DenseConfig, RigLConfig, StaticConfig
from trainers.errors import TopologyError
from trainers.sparsifier import Sparsifier
from trainers.topology import build_topology
from trainers.topology.base import FixedTopology, Phase, Signals


class Scripted(FixedTopology):
    """Masks given by hand: the first at the start, the second at step 5."""

    def __init__(self, *masks: list[int]) -> None:
        self.masks = [{"w": torch.tensor([mask]).bool()} for mask in masks]

    def init_masks(self, signals: Signals, generator: torch.Generator) -> dict[str, Tensor]:
        return self.masks[0]

    def is_update_step(self, step: int) -> bool:
        return step == 5

    def update_masks(self, step: int, masks: Any, signals: Any, generator: Any) -> Any:
        return self.masks[1]

    def planned_total(self, step: int) -> int:
        return int(self.masks[step >= 5]["w"].sum())


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1),
}


def setup(
    optimizer: str = "adam", *masks: list[int]
) -> tuple[nn.Parameter, torch.optim.Optimizer, Sparsifier]:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    built = OPTIMIZERS[optimizer]([weight])
    method = Scripted(*(masks or ([1, 1, 0, 0], [1, 0, 1, 0])))
    sparsifier = Sparsifier({"w": weight}, built, method, torch.Generator().manual_seed(0))
    return weight, built, sparsifier


def signals(weight: Tensor) -> Signals:
    return Signals({"w": weight.detach()})


def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer, sparsifier: Sparsifier) -> None:
    sparsifier.before_step(1)
    weight.grad = torch.tensor([[0.5, -0.5, 2.0, 1.0]])
    sparsifier.mask_gradients(1)
    optimizer.step()
    sparsifier.after_step(1)


def moments(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = optimizer.state.get(weight, {}).values()
    return [v for v in state if isinstance(v, Tensor) and v.shape == weight.shape]


def test_start_zeroes_what_the_masks_prune() -> None:
    weight, _, sparsifier = setup()
    sparsifier.start(signals(weight))
    assert weight.tolist() == [[1.0, 2.0, 0.0, 0.0]]
    assert sparsifier.counts == {"w": 2}
    assert isinstance(weight, nn.Parameter) and weight.requires_grad


def test_start_zeroes_momenta_of_an_optimizer_that_has_run() -> None:
    weight, optimizer, sparsifier = setup("momentum")
    weight.grad = torch.ones(1, 4)
    optimizer.step()
    sparsifier.start(signals(weight))
    assert moments(weight, optimizer)[0][0, 2:].tolist() == [0.0, 0.0]


def test_gradients_are_masked_so_that_clipping_ignores_pruned_weights() -> None:
    weight, _, sparsifier = setup()
    sparsifier.start(signals(weight))
    weight.grad = torch.tensor([[3.0, 4.0, 100.0, 100.0]])
    sparsifier.mask_gradients(1)
    assert weight.grad.tolist() == [[3.0, 4.0, 0.0, 0.0]]
    assert float(nn.utils.clip_grad_norm_([weight], 10.0)) == 5.0


def test_a_weight_without_gradient_is_left_alone() -> None:
    weight, _, sparsifier = setup()
    sparsifier.start(signals(weight))
    sparsifier.mask_gradients(1)
    assert weight.grad is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_and_their_state_stay_zero(optimizer: str) -> None:
    weight, built, sparsifier = setup(optimizer)
    sparsifier.start(signals(weight))
    for _ in range(4):
        step(weight, built, sparsifier)
        assert weight[0, 2:].tolist() == [0.0, 0.0]
        assert all(not m[0, 2:].any() for m in moments(weight, built))
    assert weight[0, 0] != 1.0 and weight[0, 1] != 2.0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_update_zeroes_dropped_and_grown_weights_and_leaves_survivors(optimizer: str) -> None:
    weight, built, sparsifier = setup(optimizer)
    sparsifier.start(signals(weight))
    step(weight, built, sparsifier)
    survivor = weight[0, 0].item()
    before = [m[0, 0].item() for m in moments(weight, built)]
    assert sparsifier.update(5, signals(weight))
    assert weight.tolist() == [[survivor, 0.0, 0.0, 0.0]]
    for moment, value in zip(moments(weight, built), before, strict=True):
        assert moment.tolist() == [[value, 0.0, 0.0, 0.0]]
    step(weight, built, sparsifier)
    assert weight[0, 2] != 0.0, "the grown weight is trained"
    assert weight[0, 1] == 0.0, "the dropped weight is not"


def test_a_grown_weight_starts_at_zero_even_if_somebody_wrote_to_it_while_it_was_pruned() -> None:
    weight, _, sparsifier = setup()
    sparsifier.start(signals(weight))
    with torch.no_grad():
        weight[0, 2] = 7.0
    sparsifier.update(5, signals(weight))
    assert weight.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_between_updates_nothing_happens_and_the_optimizer_may_step() -> None:
    weight, _, sparsifier = setup()
    sparsifier.start(signals(weight))
    assert not sparsifier.update(4, signals(weight))
    assert sparsifier.counts == {"w": 2} and weight.tolist() == [[1.0, 2.0, 0.0, 0.0]]


def test_a_weight_dropped_and_regrown_in_one_rigl_update_keeps_value_and_state() -> None:
    weight = nn.Parameter(torch.tensor([[0.5, -0.1, 0.3, -0.9], [1.0, 1.0, 1.0, 1.0]]))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    config = RigLConfig(density=0.5, drop_fraction=0.5, update_every=5)
    method = build_topology(config, {"w": weight.shape}, 20)
    sparsifier = Sparsifier({"w": weight}, optimizer, method, torch.Generator())
    mask = torch.tensor([[True] * 4, [False] * 4])
    sparsifier.start(masks={"w": mask})
    weight.grad = torch.zeros_like(weight)
    weight.grad[0, 1] = 1.0
    optimizer.step()
    # |w| = .5 .2 .3 .9 drops positions 1 and 2; |g| then grows position 1 again, and 4 anew.
    gradients = torch.tensor([[0.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    sparsifier.update(5, Signals({"w": weight.detach()}, {"w": gradients}))
    torch.testing.assert_close(
        weight.detach(), torch.tensor([[0.5, -0.2, 0.0, -0.9], [0.0, 0.0, 0.0, 0.0]])
    )
    assert moments(weight, optimizer)[0].tolist() == [[0.0, 1.0, 0.0, 0.0], [0.0] * 4]
    assert sparsifier.masks["w"].tolist() == [
        [True, True, False, True],
        [True, False, False, False],
    ]


def test_parameters_that_are_not_prunable_are_left_alone() -> None:
    weight, bias = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight, bias], lr=0.1)
    sparsifier = Sparsifier({"w": weight}, optimizer, Scripted([1, 0, 0, 0]), torch.Generator())
    sparsifier.start(signals(weight))
    assert bias.tolist() == [1.0] * 4


def test_state_dict_restores_masks_counts_and_generator() -> None:
    weight, _, sparsifier = setup()
    sparsifier.start(signals(weight))
    state = sparsifier.state_dict()
    expected = torch.rand(3, generator=sparsifier.generator)
    _, _, other = setup("adam", [0, 0, 1, 1], [0, 0, 0, 1])
    other.start(signals(weight))
    other.load_state_dict(state)
    assert torch.equal(other.masks["w"], sparsifier.masks["w"]) and other.counts == {"w": 2}
    assert torch.equal(torch.rand(3, generator=other.generator), expected)
    other.weights["w"].data.fill_(1.0)
    other.prune_again()
    assert other.weights["w"].tolist() == [[1.0, 1.0, 0.0, 0.0]]


def static(density: float) -> Sparsifier:
    weights = {"a": nn.Parameter(torch.ones(2, 4)), "b": nn.Parameter(torch.ones(2, 2))}
    shapes = {name: weight.shape for name, weight in weights.items()}
    method = build_topology(StaticConfig(density=density), shapes, 10)
    return Sparsifier(weights, torch.optim.Adam(weights.values()), method, torch.Generator())


def given(a: int, b: int) -> dict[str, Tensor]:
    return {
        "a": (torch.arange(8) < a).reshape(2, 4),
        "b": (torch.arange(4) < b).reshape(2, 2),
    }


def test_a_ticket_is_trained_again_with_its_own_masks() -> None:
    sparsifier = static(0.5)
    sparsifier.start(masks=given(5, 1))  # not what erk would give, but six of twelve
    assert sparsifier.counts == {"a": 5, "b": 1}
    assert sparsifier.weights["a"].flatten().tolist() == [1.0] * 5 + [0.0] * 3


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (given(4, 1), r"keep 5 of 12 weights, .* plans to start with 6.*method: static.*0.41"),
        ({"a": given(5, 1)["a"]}, r"masks are for \['a'\]"),
        ({**given(5, 1), "b": torch.ones(3, 2).bool()}, r"mask of b .*\(3, 2\).*\(2, 2\)"),
        ({**given(5, 1), "b": torch.ones(2, 2)}, "mask of b is torch.float32"),
        (given(6, 0), "mask of b keeps no weight"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: dict[str, Tensor], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        static(0.5).start(masks=masks)


def test_drop_grow_needs_masks_that_its_plan_can_start_from() -> None:
    weight = nn.Parameter(torch.ones(2, 4))
    method = build_topology(RigLConfig(density=0.5, update_every=2), {"w": weight.shape}, 20)
    sparsifier = Sparsifier({"w": weight}, torch.optim.Adam([weight]), method, torch.Generator())
    with pytest.raises(TopologyError, match="keep 3 weights of w, but .* starts with 4"):
        sparsifier.start(masks={"w": (torch.arange(8) < 3).reshape(2, 4)})


def test_a_dense_network_costs_nothing() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    method = build_topology(DenseConfig(), {"w": weight.shape}, 10)
    sparsifier = Sparsifier({"w": weight}, torch.optim.Adam([weight]), method, torch.Generator())
    sparsifier.start(signals(weight))
    version = weight._version
    sparsifier.prune_again()
    assert weight._version == version, "no multiplication by ones"


class Forgetful(Scripted):
    """Forgets the optimizer's state when the masks change."""

    def phase(self, step: int) -> Phase:
        return Phase(resets_optimizer=step == 5)


def test_an_update_may_make_the_optimizer_forget_everything_step_counts_included() -> None:
    weight, bias = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([weight, bias], lr=0.1)
    method = Forgetful([1, 1, 0, 0], [1, 1, 1, 1])
    sparsifier = Sparsifier({"w": weight}, optimizer, method, torch.Generator())
    sparsifier.start(signals(weight))
    for _ in range(3):
        weight.grad, bias.grad = torch.ones(1, 4), torch.ones(1)
        sparsifier.mask_gradients(1)
        optimizer.step()
    sparsifier.update(5, signals(weight))
    assert not optimizer.state
    before = weight.detach().clone()
    weight.grad, bias.grad = torch.full((1, 4), 1e-3), torch.ones(1)
    optimizer.step()
    # The first step of Adam is lr long, however small the gradient: nothing is left of the old.
    torch.testing.assert_close(before - weight, torch.full((1, 4), 0.1), rtol=1e-4, atol=0.0)


class Growing(Scripted):
    """Grows by momentum."""

    inputs = frozenset({"weights", "momenta"})


def test_momenta_are_an_exponential_mean_of_dense_gradients_updates_included() -> None:
    weight = nn.Parameter(torch.ones(1, 4))
    sparsifier = Sparsifier(
        {"w": weight}, torch.optim.SGD([weight], lr=0.1), Growing([1, 1, 0, 0], [1, 0, 1, 0]),
        torch.Generator(),
    )  # fmt: skip
    sparsifier.start(signals(weight))
    weight.grad = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    sparsifier.mask_gradients(1)
    torch.testing.assert_close(sparsifier.momenta["w"], torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    weight.grad = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    sparsifier.update(5, signals(weight))
    torch.testing.assert_close(sparsifier.momenta["w"], torch.tensor([[0.09, 0.18, 0.37, 0.36]]))


class Priced(Scripted):
    """Trains a price of its own, whose penalty is 2 * price, also at the update."""

    def init_variables(self, weights: Any) -> dict[str, Tensor]:
        return {"price": torch.tensor(1.0)}

    def build_optimizer(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(variables, lr=7.0)

    def variable_lr(self, step: int) -> float | None:
        return 0.5 if step == 1 else None

    def penalty(self, step: int, signals: Signals) -> Tensor:
        return 2.0 * signals["variables"]["price"]


def test_variables_are_trained_beside_the_weights_but_not_by_an_update() -> None:
    weight = nn.Parameter(torch.ones(1, 4))
    method = Priced([1, 1, 0, 0], [1, 0, 1, 0])
    sparsifier = Sparsifier(
        {"w": weight}, torch.optim.SGD([weight], lr=0.1), method, torch.Generator()
    )
    sparsifier.start(signals(weight))
    prices = []
    for number in (1, 5, 6):
        sparsifier.before_step(number)
        live = Signals(sparsifier.weights, variables=sparsifier.variables)
        (weight.sum() + method.penalty(number, live)).backward()
        if method.is_update_step(number):
            sparsifier.update(number, signals(weight))
        else:
            sparsifier.mask_gradients(number)
            sparsifier.after_step(number)
        prices.append(sparsifier.variables["price"].item())
    # 1 - 0.5 * 2 = 0 at the first step's rate, which stays; nothing at the update, whose gradient
    # does not linger: 0 - 0.5 * 2.
    assert prices == [0.0, 0.0, -1.0]
