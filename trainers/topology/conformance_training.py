"""A small training that a topology method under test takes part in, and a record of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers import signals as sources
from trainers.bounds import IntervalPass
from trainers.models import prunable_weights
from trainers.models.layers import Residual
from trainers.models.modes import evaluating, preserved_buffers
from trainers.topology.base import Shapes, Signals, TopologyMethod
from trainers.topology.layout import Layout
from trainers.topology.masks import Masks
from trainers.units import UnitState
from trainers.wiring import Wiring


@dataclass(frozen=True)
class Case:
    """A method under test.

    config: choose intervals such that the masks change within `total_steps`.
    build: (config, layout, total_steps) -> TopologyMethod; a class or `build_topology`.
    sparsifier: the Sparsifier class: it is given so that topology/ need not import it.
    """

    config: Any
    build: Callable[[Any, Shapes, int], TopologyMethod]
    sparsifier: Callable[..., Any]
    total_steps: int = 24
    device: str = "cpu"


class SmallTraining:
    """Convolutions, a residual sum and linear layers, fitted to random data under a case's method.

    Each iteration is that of `Training.train_step`, with the masks in force after it. Other inputs
    play the adversarial ones, and their loss the certified one; there is no attack and no twin.
    """

    def __init__(self, case: Case, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(7)
        self.model = _network().to(case.device)
        self.x = torch.rand(16, 2, 4, 4, generator=generator).to(case.device)
        self.y = torch.randint(0, 4, (16,), generator=generator).to(case.device)
        self.weights = prunable_weights(self.model)
        self.wiring = Wiring.of(self.model)
        self.interval = IntervalPass(self.model)
        shapes = {name: weight.shape for name, weight in self.weights.items()}
        self.layout = Layout(shapes, self.wiring.groups)
        self.method = case.build(case.config, self.layout, case.total_steps)
        self.units = UnitState(
            self.wiring.groups, self.weights, dict(self.model.named_parameters())
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, weight_decay=0.01)
        self.sparsifier = case.sparsifier(
            self.weights,
            self.optimizer,
            self.method,
            torch.Generator().manual_seed(seed),
            self.units,
        )
        self.sparsifier.start(self.signals(self.method.init_inputs))
        self.done = 0

    @property
    def masks(self) -> Masks:
        """The masks in force."""
        masks: Masks = self.sparsifier.masks
        return masks

    def step(self, *, settle: bool = True) -> bool:
        """One iteration; returns whether it was an update of the masks."""
        self.done += 1
        updates = self.method.is_update_step(self.done)
        self.sparsifier.before_step(self.done)
        gains = self._gains() if "gains" in self.method.inputs else None
        live = Signals(self.weights, gains=gains, variables=self.sparsifier.variables)
        loss = cross_entropy(self.model(self.x), self.y)
        penalty = self.method.penalty(self.done, live)
        self.optimizer.zero_grad(set_to_none=True)
        (loss if penalty is None else loss + penalty).backward()
        if updates:
            assert self.sparsifier.update(self.done, self.signals(self.method.inputs))
        else:
            self.sparsifier.mask_gradients(self.done)
            self.optimizer.step()
            self.sparsifier.after_step(self.done)
        if settle:
            self.sparsifier.settle()
        return updates

    def signals(self, names: frozenset[str]) -> Signals:
        """Exactly the signals named."""
        known = {field.name for field in fields(Signals)}
        assert names <= known, f"unknown signals {sorted(names - known)}: there are {sorted(known)}"
        suppliers: dict[str, Callable[[], Any]] = {
            "gradients": lambda: self._gradients(self.x),
            "certified_gradients": lambda: self._gradients(0.5 - self.x),
            "adversarial_gradients": lambda: self._gradients(1.0 - self.x),
            "momenta": lambda: dict(self.sparsifier.momenta),
            "cosines": self._cosines,
            "hessian_gradients": lambda: self._hessian_gradients(self.x),
            "certified_hessian_gradients": lambda: self._hessian_gradients(0.5 - self.x),
            "instability": self._instability,
            "gains": lambda: {name: gain.detach() for name, gain in self._gains().items()},
            "synaptic_flow": self._synaptic_flow,
            "longest_stall": lambda: self.done // 6,
            "variables": lambda: self.sparsifier.variables,
        }
        weights = self.sparsifier.kept_weights() if self.sparsifier.masks else self._detached()
        return Signals(weights, **{name: suppliers[name]() for name in names - {"weights"}})

    def state(self) -> dict[str, Any]:
        """All that `resume` needs, as a copy."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "sparsifier": self.sparsifier.state_dict(),
                "done": self.done,
            }
        )

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.done = state["done"]

    def state_tensors(self, parameter: nn.Parameter) -> list[Tensor]:
        """The optimizer's tensors that have an entry for each of a parameter's."""
        state = self.optimizer.state.get(parameter, {}).values()
        return [v for v in state if isinstance(v, Tensor) and v.shape == parameter.shape]

    def outputs(self) -> Tensor:
        """What the network answers in evaluation mode."""
        with torch.no_grad(), evaluating(self.model):
            answer: Tensor = self.model(self.x)
        return answer

    def _detached(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}

    def _loss(self, x: Tensor) -> Tensor:
        return cross_entropy(self.model(x), self.y)

    def _gradients(self, x: Tensor) -> dict[str, Tensor]:
        with preserved_buffers(self.model):
            found = torch.autograd.grad(self._loss(x), list(self.weights.values()))
        return dict(zip(self.weights, found, strict=True))

    def _hessian_gradients(self, x: Tensor) -> dict[str, Tensor]:
        return sources.hessian_gradients(self.model, self.weights, lambda: self._loss(x))

    def _cosines(self) -> dict[str, Tensor]:
        return sources.cosines(self.wiring.program, self.weights, self.x)

    def _instability(self) -> dict[str, Tensor]:
        return sources.instability(self.interval, self.wiring, self.x, self.y, 0.1)

    def _gains(self) -> dict[str, Tensor]:
        return sources.gains(self.model, self.wiring, self.weights)

    def _synaptic_flow(self) -> Callable[[Masks], dict[str, Tensor]]:
        return sources.synaptic_flow(self.wiring.program, self.weights, self.x.shape[1:])


@dataclass(frozen=True)
class Moment:
    """The network after a step (0: at the start), and whether that step updated the masks.

    state: of the optimizer, by parameter. outputs: what the network answers after an update, and
    what it would answer if nothing had grown; None elsewhere. saved: `SmallTraining.state`.
    """

    step: int
    updated: bool
    relaxed: bool
    masks: Masks
    parameters: dict[str, Tensor]
    gradients: dict[str, Tensor]
    state: dict[str, list[Tensor]]
    outputs: tuple[Tensor, Tensor] | None
    saved: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A whole small training of a case."""

    case: Case
    method: TopologyMethod
    layout: Layout
    moments: tuple[Moment, ...]

    @property
    def pairs(self) -> list[tuple[Moment, Moment]]:
        """Each moment but the first, with the one before it in front."""
        return list(zip(self.moments, self.moments[1:], strict=False))


def record(case: Case) -> Run:
    """Train a case to the end and write down every step."""
    training = SmallTraining(case)
    moments = [_moment(training, updated=False)]
    for _ in range(case.total_steps):
        moments.append(_moment(training, training.step(), moments[-1]))
    return Run(case, training.method, training.layout, tuple(moments))


def _moment(training: SmallTraining, updated: bool, before: Moment | None = None) -> Moment:
    parameters = dict(training.model.named_parameters())
    return Moment(
        training.done,
        updated,
        training.done > 0 and training.method.phase(training.done).relaxed,
        dict(training.masks),
        {name: p.detach().clone() for name, p in parameters.items()},
        {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None},
        {n: [v.clone() for v in training.state_tensors(p)] for n, p in parameters.items()},
        (training.outputs(), _without_growth(training, before)) if updated and before else None,
        training.state(),
    )


@torch.no_grad()
def _without_growth(training: SmallTraining, before: Moment) -> Tensor:
    """Outputs of the network that has lost what an update dropped, and gained nothing."""
    network = copy.deepcopy(training.model).eval()
    parameters = dict(network.named_parameters())
    for name, mask in training.masks.items():
        parameters[name].copy_(before.parameters[name] * mask)
    if training.method.by_unit:
        for group in training.layout.groups:
            on = training.units.on(group, training.masks)
            for name in group.vectors:
                parameters[name].copy_(before.parameters[name] * on)
    outputs: Tensor = network(training.x)
    return outputs


def _network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            Residual(nn.Conv2d(6, 6, 3, padding=1), nn.Identity()), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4),
        )  # fmt: skip
