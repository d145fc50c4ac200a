"""What belongs to a unit beside its weights, and how units that were off come back."""

import pytest
import torch
from torch import nn

from spaces.topology import RigLConfig, StaticConfig
from trainers.sparsifier import Sparsifier
from trainers.topology import Layout, build_topology
from trainers.topology.base import Signals
from trainers.units import UnitState
from trainers.wiring import Wiring


def network() -> nn.Sequential:
    """Two channels of four pixels are flattened and read by three neurons; two logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2),
    )  # fmt: skip


class Setting:
    def __init__(self) -> None:
        self.model = network()
        self.parameters = dict(self.model.named_parameters())
        self.weights = {n: p for n, p in self.parameters.items() if p.ndim > 1}
        self.wiring = Wiring.of(self.model)
        self.units = UnitState(self.wiring.groups, self.weights, self.parameters)
        self.masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}

    def switch_off(self, channel: int | None = None, neuron: int | None = None) -> None:
        if channel is not None:
            self.masks["0.weight"][channel] = False
            self.masks["4.weight"][:, 4 * channel : 4 * channel + 4] = False
        if neuron is not None:
            self.masks["4.weight"][neuron] = False
            self.masks["6.weight"][:, neuron] = False

    @torch.no_grad()
    def prune(self) -> None:
        for name, weight in self.weights.items():
            weight.mul_(self.masks[name])
        for vector, on in self.units.pruned_vectors(self.masks):
            vector.mul_(on)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_biases_and_norms_of_units_that_are_off_are_pruned() -> None:
    setting = Setting()
    setting.switch_off(channel=1, neuron=0)
    pruned = {id(vector): on.tolist() for vector, on in setting.units.pruned_vectors(setting.masks)}
    names = {id(p): name for name, p in setting.parameters.items()}
    assert {names[key]: on for key, on in pruned.items()} == {
        "1.weight": [1.0, 0.0], "1.bias": [1.0, 0.0], "4.bias": [0.0, 1.0, 1.0],
    }  # fmt: skip


def test_without_units_that_are_off_nothing_is_pruned() -> None:
    setting = Setting()
    assert setting.units.pruned_vectors(setting.masks) == []
    assert len(setting.units.all_vectors) == 3


def test_the_logits_are_no_units() -> None:
    setting = Setting()
    assert not any(v is setting.parameters["6.bias"] for v in setting.units.all_vectors)


def test_waking_gives_incoming_weights_of_units_that_are_on_and_nothing_else() -> None:
    setting = Setting()
    setting.switch_off(channel=1, neuron=0)
    setting.prune()
    before = {n: p.detach().clone() for n, p in setting.parameters.items()}
    setting.units.wake(setting.masks, seeded())
    after = setting.parameters
    assert after["0.weight"][1].all() and torch.equal(after["0.weight"][0], before["0.weight"][0])
    # The neuron reads channel 0 (columns 0 to 3); channel 1 is off as well.
    assert after["4.weight"][0, :4].all() and not after["4.weight"][0, 4:].any()
    assert torch.equal(after["4.weight"][1:], before["4.weight"][1:])
    assert torch.equal(after["6.weight"], before["6.weight"])
    assert after["1.weight"][1] == 1.0 and after["1.bias"][1] == 0.0 and after["4.bias"][0] == 0.0
    assert torch.equal(after["1.weight"][0], before["1.weight"][0])


def test_waking_changes_no_answer() -> None:
    setting = Setting()
    setting.switch_off(channel=1, neuron=0)
    setting.prune()
    setting.model.eval()
    x = torch.rand(5, 2, 2, 2)
    before = setting.model(x)
    setting.units.wake(setting.masks, seeded())
    torch.testing.assert_close(setting.model(x), before)


def test_woken_weights_are_as_large_as_the_kept_ones() -> None:
    weight = nn.Parameter(torch.full((400, 50), 3.0))
    parameters = {"w": weight, "v": nn.Parameter(torch.ones(2, 400))}
    group = Wiring.of(nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 2))).groups[0]
    group = type(group)("w", 400, ("w",), (("v", 1),), ())
    units = UnitState((group,), parameters, parameters)
    masks = {"w": torch.ones(400, 50, dtype=torch.bool), "v": torch.ones(2, 400).bool()}
    masks["w"][100:] = False
    with torch.no_grad():
        weight[50:100] = -3.0
        weight[100:] = 0.0
    units.wake(masks, seeded())
    woken = weight.detach()[100:]
    # 15,000 draws from N(0, 3^2): means within 0.1, spread within 2 %.
    assert abs(float(woken.mean())) < 0.1
    assert float(woken.std()) == pytest.approx(3.0, rel=0.02)


def test_of_woken_weights_only_those_that_have_grown_are_taken_and_only_once() -> None:
    setting = Setting()
    setting.switch_off(neuron=0)
    setting.switch_off(neuron=2)
    setting.prune()
    setting.units.wake(setting.masks, seeded())
    setting.masks["4.weight"][2, :4] = True
    taken = setting.units.take_woken(setting.masks)
    assert list(taken) == ["4.weight"]
    assert taken["4.weight"].tolist() == [[0.0] * 8, [0.0] * 8, [1.0] * 4 + [0.0] * 4]
    assert setting.units.take_woken(setting.masks) == {}


def test_the_same_generator_wakes_with_the_same_weights() -> None:
    found = []
    for seed in (1, 1, 2):
        setting = Setting()
        setting.switch_off(channel=0)
        setting.prune()
        setting.units.wake(setting.masks, seeded(seed))
        found.append(setting.weights["0.weight"].detach().clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_unit_is_grown_by_the_gradients_of_its_outgoing_weights() -> None:
    setting = Setting()
    layout = Layout({n: w.shape for n, w in setting.weights.items()}, setting.wiring.groups)
    # Of 2 * 2 + 3 * 8 + 2 * 3 = 34 weights two channels and two neurons have 4 + 16 + 4.
    config = RigLConfig(density=24 / 34, granularity="unit", update_every=2, drop_fraction=0.5)
    method = build_topology(config, layout, 20)
    optimizer = torch.optim.Adam(setting.model.parameters(), lr=0.1)
    sparsifier = Sparsifier(setting.weights, optimizer, method, seeded(), setting.units)
    sparsifier.start(Signals({n: w.detach() for n, w in setting.weights.items()}))
    off = ~sparsifier.masks["4.weight"].any(1)
    assert int(off.sum()) == 1, "one neuron of three is off"
    sparsifier.before_step(2)
    setting.model(torch.rand(6, 2, 2, 2)).square().sum().backward()
    gradients = {n: w.grad.clone() for n, w in setting.weights.items()}
    assert not gradients["4.weight"][off].any(), "nobody listens to it yet"
    assert bool(gradients["6.weight"][:, off].any()), "but what it would say is known"
    # Were it to be the best, it comes back with the weights that it was woken with.
    gradients["6.weight"][:, off] = 1e6
    woken = setting.weights["4.weight"].detach()[off].clone()
    sparsifier.update(2, Signals(sparsifier.kept_weights(), gradients=gradients))
    assert sparsifier.masks["4.weight"][off].any() and sparsifier.masks["6.weight"][:, off].all()
    columns = sparsifier.masks["4.weight"][off]
    assert torch.equal(setting.weights["4.weight"].detach()[off], woken * columns)
    assert not setting.weights["6.weight"].detach()[:, off].any()


def test_scores_see_no_weights_that_units_were_woken_with() -> None:
    setting = Setting()
    layout = Layout({n: w.shape for n, w in setting.weights.items()}, setting.wiring.groups)
    config = RigLConfig(density=24 / 34, granularity="unit", update_every=2)
    method = build_topology(config, layout, 20)
    optimizer = torch.optim.SGD(setting.model.parameters(), lr=0.1)
    sparsifier = Sparsifier(setting.weights, optimizer, method, seeded(), setting.units)
    sparsifier.start(Signals({n: w.detach() for n, w in setting.weights.items()}))
    sparsifier.before_step(2)
    assert setting.weights["4.weight"].detach()[~sparsifier.masks["4.weight"]].any()
    for name, weight in sparsifier.kept_weights().items():
        assert not weight[~sparsifier.masks[name]].any()


def test_whatever_is_written_to_a_unit_that_is_off_is_pruned_again_and_gets_no_gradient() -> None:
    setting = Setting()
    layout = Layout({n: w.shape for n, w in setting.weights.items()}, setting.wiring.groups)
    method = build_topology(StaticConfig(density=24 / 34, granularity="unit"), layout, 20)
    optimizer = torch.optim.SGD(setting.model.parameters(), lr=0.1)
    sparsifier = Sparsifier(setting.weights, optimizer, method, seeded(), setting.units)
    sparsifier.start(Signals({n: w.detach() for n, w in setting.weights.items()}))
    on = sparsifier.masks["4.weight"].any(1)
    bias = setting.parameters["4.bias"]
    bias.data.fill_(3.0)
    bias.grad = torch.ones(3)
    sparsifier.prune_again()
    sparsifier.mask_gradients(1)
    assert int(on.sum()) == 2
    assert bias.tolist() == (3.0 * on).tolist() and bias.grad.tolist() == on.float().tolist()
