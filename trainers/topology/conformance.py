"""What every topology method must satisfy, as checks that its author can run.

    from trainers.sparsifier import Sparsifier
    from trainers.topology.conformance import CHECKS, Case

    for check in CHECKS:
        check(Case(MyConfig(density=0.1, update_every=3), MyMethod, Sparsifier))

`check_new_process` is not among them because it starts a Python process. Each check trains a small
network for a few steps and raises AssertionError, saying what was expected.
"""

from __future__ import annotations

import copy
import hashlib
import math
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers.errors import TopologyError
from trainers.topology.base import Shapes, Signals, TopologyMethod
from trainers.topology.masks import Masks, count_ones


@dataclass(frozen=True)
class Case:
    """A method under test.

    config: choose intervals such that the masks change within `total_steps`.
    build: (config, shapes, total_steps) -> TopologyMethod; a class or `build_topology`.
    sparsifier: the Sparsifier class: it is given so that topology/ need not import it.
    """

    config: Any
    build: Callable[[Any, Shapes, int], TopologyMethod]
    sparsifier: Callable[..., Any]
    total_steps: int = 24
    device: str = "cpu"


class SmallTraining:
    """A convolution and two linear layers fitted to random data under a case's method."""

    def __init__(self, case: Case, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(7)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.model = nn.Sequential(
                nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(),
                nn.Linear(96, 20), nn.ReLU(), nn.Linear(20, 4),
            ).to(case.device)  # fmt: skip
        self.x = torch.rand(16, 2, 6, 6, generator=generator).to(case.device)
        self.y = torch.randint(0, 4, (16,), generator=generator).to(case.device)
        self.weights = {n: p for n, p in self.model.named_parameters() if p.ndim > 1}
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, weight_decay=0.01)
        self.method = case.build(case.config, shapes_of(self.weights), case.total_steps)
        self.sparsifier = case.sparsifier(
            self.weights, self.optimizer, self.method, torch.Generator().manual_seed(seed)
        )
        self.sparsifier.start(self.signals(self.method.init_inputs))
        self.done = 0

    @property
    def masks(self) -> Masks:
        """The masks in force."""
        masks: Masks = self.sparsifier.masks
        return masks

    def step(self) -> bool:
        """One iteration; returns whether it changed the masks."""
        self.done += 1
        if self.method.is_update_step(self.done):
            assert self.sparsifier.update(self.done, self.signals(self.method.inputs))
            return True
        self.optimizer.zero_grad()
        cross_entropy(self.model(self.x), self.y).backward()
        self.sparsifier.mask_gradients()
        self.optimizer.step()
        self.sparsifier.after_step()
        return False

    def signals(self, names: frozenset[str]) -> Signals:
        """Exactly the signals named; the certified loss is played by one on worse inputs."""
        known = {field.name for field in fields(Signals)}
        assert names <= known, f"unknown signals {sorted(names - known)}: there are {sorted(known)}"
        values: dict[str, Mapping[str, Tensor]] = {}
        if "gradients" in names:
            values["gradients"] = self._gradients(self.x)
        if "certified_gradients" in names:
            values["certified_gradients"] = self._gradients(0.5 - self.x)
        return Signals({n: w.detach() for n, w in self.weights.items()}, **values)

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
        self.optimizer.load_state_dict(state["optimizer"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.done = state["done"]

    def state_tensors(self, name: str) -> list[Tensor]:
        """The optimizer's tensors that have an entry per weight."""
        weight = self.weights[name]
        state = self.optimizer.state.get(weight, {}).values()
        return [v for v in state if isinstance(v, Tensor) and v.shape == weight.shape]

    def _gradients(self, x: Tensor) -> dict[str, Tensor]:
        loss = cross_entropy(self.model(x), self.y)
        return dict(
            zip(self.weights, torch.autograd.grad(loss, list(self.weights.values())), strict=True)
        )


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes by name, as methods are built from them."""
    return {name: weight.shape for name, weight in weights.items()}


def check_exact_counts(case: Case) -> None:
    """After each step each layer has a bool mask, with exactly the planned number of ones."""
    training = SmallTraining(case)
    for step in range(case.total_steps + 1):
        assert training.masks.keys() == training.weights.keys()
        for name, weight in training.weights.items():
            mask = training.masks[name]
            found = (mask.dtype, mask.shape, mask.device)
            assert found == (torch.bool, weight.shape, weight.device), f"{name}: {found}"
        counts = count_ones(training.masks)
        total, planned = sum(counts.values()), training.method.planned_total(step)
        assert total == planned, f"step {step}: {total} weights kept, {planned} planned"
        by_layer = training.method.planned_counts(step)
        assert by_layer is None or counts == by_layer, f"step {step}: {counts}, not {by_layer}"
        assert training.sparsifier.counts == counts, f"step {step}: stale counts"
        if step < case.total_steps:
            training.step()


def check_final_density(case: Case) -> None:
    """A density in the config is the final one, to the weight."""
    if not hasattr(case.config, "density"):
        return
    training = SmallTraining(case)
    expected = round(case.config.density * sum(w.numel() for w in training.weights.values()))
    planned = training.method.planned_total(case.total_steps)
    assert planned == expected, f"the last step leaves {planned} weights, not {expected}"


def check_update_steps(case: Case) -> None:
    """Masks change at update steps only, and those exclude step 0 and the last step."""
    training = SmallTraining(case)
    for step in (0, case.total_steps):
        assert not training.method.is_update_step(step), f"step {step} is an update step"
    for step in range(1, case.total_steps + 1):
        before = training.masks
        if not training.step():
            assert _equal(before, training.masks), (
                f"step {step} is no update step but changed masks"
            )


def check_pruned_is_zero(case: Case) -> None:
    """After each step pruned weights, their gradients and their optimizer state are zero."""
    training = SmallTraining(case)
    for step in range(1, case.total_steps + 1):
        updated = training.step()
        for name, weight in training.weights.items():
            values = [weight, *training.state_tensors(name)]
            if not updated:
                assert weight.grad is not None
                values.append(weight.grad)
            for value in values:
                pruned = value[~training.masks[name]]
                assert not pruned.any(), f"step {step}: pruned entries of {name} are not zero"


def check_grown_is_zero(case: Case) -> None:
    """Weights that grow start at zero with zero optimizer state; survivors keep theirs."""
    training = SmallTraining(case)
    for step in range(1, case.total_steps + 1):
        before, old_masks = training.state(), training.masks
        if not training.step():
            continue
        for name, weight in training.weights.items():
            grown = training.masks[name] & ~old_masks[name]
            kept = training.masks[name] & old_masks[name]
            for value in (weight, *training.state_tensors(name)):
                assert not value[grown].any(), f"step {step}: {name} grows with a value"
            assert torch.equal(weight[kept], before["model"][name][kept]), f"step {step}: {name}"


def check_no_empty_layer(case: Case) -> None:
    """Not even the smallest possible density empties a layer."""
    if not hasattr(case.config, "density"):
        return
    weights = SmallTraining(case).weights
    smallest = len(weights) / sum(weight.numel() for weight in weights.values())
    config = case.config.model_copy(update={"density": math.nextafter(smallest, 1.0)})
    training = SmallTraining(replace(case, config=config))
    for step in range(case.total_steps):
        counts = count_ones(training.masks)
        assert min(counts.values()) >= 1, f"after step {step}: {counts}"
        training.step()


def check_impossible_density(case: Case) -> None:
    """A density with fewer weights than layers is refused when the method is built."""
    if not hasattr(case.config, "density"):
        return
    shapes = shapes_of(SmallTraining(case).weights)
    config = case.config.model_copy(update={"density": 1e-9})
    try:
        case.build(config, shapes, case.total_steps)
    except TopologyError as error:
        assert "density" in str(error), f"the message does not name the density: {error}"
    else:
        raise AssertionError("density 1e-9 was accepted; raise TopologyError (see weight_budget)")


def check_purity(case: Case) -> None:
    """Masks depend on arguments and generator alone; nothing given is changed."""
    training = SmallTraining(case)
    method = training.method
    signals = training.signals(method.init_inputs)
    _check_pure(lambda generator: method.init_masks(signals, generator), signals, {})
    for step in range(1, case.total_steps + 1):
        if method.is_update_step(step):
            signals, masks = training.signals(method.inputs), training.masks
            update = partial(method.update_masks, step, masks, signals)
            _check_pure(update, signals, masks)
        training.step()


def check_resume(case: Case) -> None:
    """Stopping after any step and going on elsewhere ends where an uninterrupted run ends."""
    whole = SmallTraining(case)
    states = [whole.state()]
    for _ in range(case.total_steps):
        whole.step()
        states.append(whole.state())
    for stopped in (0, 1, case.total_steps // 2, case.total_steps - 1):
        resumed = SmallTraining(case, seed=1)
        resumed.resume(states[stopped])
        for _ in range(case.total_steps - stopped):
            resumed.step()
        assert _equal(whole.masks, resumed.masks), f"resumed after step {stopped}: other masks"
        for name, weight in whole.weights.items():
            assert torch.equal(weight, resumed.weights[name]), f"resumed after {stopped}: {name}"


def check_same_seed(case: Case) -> None:
    """The same seed gives the same masks at every step, whatever the global generator says."""
    torch.rand(3)  # moves the global generator between the two runs
    assert masks_digest(case) == masks_digest(case), "two runs with one seed differ"


def check_new_process(*cases: Case) -> None:
    """The same seed gives the same masks in a new process, one for all cases; they are pickled."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for case, elsewhere in zip(cases, pool.map(masks_digest, cases), strict=True):
            assert elsewhere == masks_digest(case), f"{case.config!r}: other masks in a new process"


def masks_digest(case: Case) -> str:
    """SHA-256 of the masks after each step of a run."""
    training = SmallTraining(case)
    digest = hashlib.sha256()
    for _ in range(case.total_steps):
        for mask in training.masks.values():
            digest.update(mask.cpu().numpy().tobytes())
        training.step()
    return digest.hexdigest()


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_exact_counts,
    check_final_density,
    check_update_steps,
    check_pruned_is_zero,
    check_grown_is_zero,
    check_no_empty_layer,
    check_impossible_density,
    check_purity,
    check_resume,
    check_same_seed,
)
"""All checks that run in this process."""


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _check_pure(choose: Callable[[torch.Generator], Masks], signals: Signals, masks: Masks) -> None:
    given = {
        "masks": masks,
        **{field.name: getattr(signals, field.name) for field in fields(signals)},
    }
    given = {key: tensors for key, tensors in given.items() if tensors is not None}
    before = copy.deepcopy(given)
    global_state = torch.get_rng_state()
    first = choose(torch.Generator().manual_seed(3))
    second = choose(torch.Generator().manual_seed(3))
    assert _equal(first, second), "two calls with equal arguments gave different masks"
    for key, tensors in before.items():
        assert _equal(tensors, given[key]), f"{key} were changed in place"
    assert torch.equal(global_state, torch.get_rng_state()), "the global generator was used"
