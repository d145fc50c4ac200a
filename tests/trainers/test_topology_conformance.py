"""Every topology method passes the shipped conformance suite; a new method is one line in CASES."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from spaces.sparsity import SparseConfig
from spaces.topology import (
    AcdcConfig,
    CtreConfig,
    DeadwoodingConfig,
    DenseConfig,
    GapConfig,
    GibbsConfig,
    GmpConfig,
    GraspConfig,
    HardConcreteConfig,
    JackpotsConfig,
    RigLConfig,
    SetConfig,
    SlimmingConfig,
    SnipConfig,
    SparseVlrConfig,
    StabilityConfig,
    StaticConfig,
    SynFlowConfig,
)
from trainers.errors import TopologyError
from trainers.sparsifier import Sparsifier
from trainers.topology import METHODS, build_topology
from trainers.topology.base import FixedTopology, Phase
from trainers.topology.conformance import (
    CHECKS,
    Case,
    Run,
    SmallTraining,
    check_exact_counts,
    check_final_density,
    check_frozen,
    check_grown_is_zero,
    check_impossible_density,
    check_new_process,
    check_no_empty_layer,
    check_pattern,
    check_pruned_is_zero,
    check_purity,
    check_resume,
    check_same_seed,
    check_settling,
    check_survivors,
    check_units_are_off,
    check_update_steps,
    record,
)
from trainers.topology.masks import random_masks, top_k_mask

# At single weights. The network has four layers, of 108, 324, 384 and 64 weights.
BY_WEIGHT: dict[str, Any] = {
    "dense": DenseConfig(),
    "static": StaticConfig(density=0.1),
    "snip": SnipConfig(density=0.1),
    "snip certified": SnipConfig(density=0.05, saliency="certified"),
    "grasp": GraspConfig(density=0.1),
    "grasp certified": GraspConfig(density=0.05, saliency="certified"),
    "synflow": SynFlowConfig(density=0.05, rounds=10),
    "set": SetConfig(density=0.1, update_every=3),
    "rigl": RigLConfig(density=0.1, update_every=3),
    "sparsevlr": SparseVlrConfig(density=0.1, update_every=3),
    "ctre": CtreConfig(density=0.2, update_every=3, patience=2),
    "ctre simultaneous": CtreConfig(density=0.2, update_every=3, mode="simultaneous"),
    "gmp": GmpConfig(density=0.1, update_every=3),
    "stability": StabilityConfig(density=0.1, update_every=3),
    "gap": GapConfig(density=0.1, update_every=3),
    "acdc": AcdcConfig(density=0.1, cycles=2),
    "deadwooding": DeadwoodingConfig(density=0.1, scale=0.1, dual_rate=1.0),
    "gibbs": GibbsConfig(density=0.1),
    "hard concrete": HardConcreteConfig(density=0.1),
    "jackpots": JackpotsConfig(density=0.1),
}
SLIMMING = {"slimming": SlimmingConfig(density=0.3, penalty=0.1)}
SLIMMING = {"slimming": SlimmingConfig(density=0.3, penalty=0.1)}
GRANULARITIES = ("kernel", "unit", "2:4")
COMBINATIONS: dict[str, Any] = {
    "rigl, getting sparser": RigLConfig(density=0.1, update_every=2, regrowth_rate=0.5),
    "set, getting denser": SetConfig(density=0.3, update_every=3, regrowth_rate=2.0),
    "rigl, other parts": RigLConfig(
        density=0.2, distribution="uniform", drop="sensitivity", grow="certified_gradient",
        drop_schedule="constant", update_every=1, update_end=1.0,
    ),
    "set, all random": SetConfig(
        density=0.3, distribution="erdos_renyi", drop="random", drop_schedule="linear",
        update_every=4,
    ),
    "rigl, searched": RigLConfig(
        density=0.2, distribution="searched", layer_ratios=(5.0, 0.5, 1.0, 2.0), update_every=3
    ),
    "gmp, searched": GmpConfig(
        density=0.2, distribution="searched", layer_ratios=(5.0, 0.5, 1.0, 2.0), update_every=1
    ),
    "snip, erk": SnipConfig(density=0.2, distribution="erk"),
    "synflow, uniform": SynFlowConfig(density=0.2, distribution="uniform", rounds=10),
    "gmp by momentum": GmpConfig(density=0.2, drop="momentum", update_every=3),
    "gmp by sensitivity": GmpConfig(density=0.2, drop="sensitivity", update_every=3),
    "rigl by momentum": RigLConfig(density=0.2, drop="momentum", grow="momentum", update_every=3),
    "rigl by cosine": RigLConfig(density=0.2, drop="cosine", grow="cosine", update_every=3),
    "rigl by stability": RigLConfig(density=0.2, drop="stability", grow="random", update_every=3),
    "set against attacks": SetConfig(
        density=0.2, drop="adversarial_gradient", grow="gradient", update_every=3
    ),
    "gibbs, uniform": GibbsConfig(density=0.2, distribution="uniform", beta_end=1e6),
    "jackpots, erk": JackpotsConfig(density=0.2, distribution="erk", search_start=0.0),
    "units, getting sparser": RigLConfig(
        density=0.3, granularity="unit", update_every=2, regrowth_rate=0.5, drop_fraction=0.5
    ),
    "units, getting denser": SetConfig(
        density=0.4, granularity="unit", update_every=2, regrowth_rate=2.0, drop_fraction=0.5
    ),
    "units by stability": RigLConfig(
        density=0.3, granularity="unit", drop="stability", update_every=2, drop_fraction=0.5
    ),
    "units, step by step": GmpConfig(
        density=0.2, granularity="unit", distribution="uniform", update_every=1
    ),
    "kernels, step by step": GmpConfig(
        density=0.2, granularity="kernel", distribution="erdos_renyi", update_every=1
    ),
    "1:4": RigLConfig(density=0.2, granularity="1:4", update_every=3),
    "full 2:4": SnipConfig(density=0.5, granularity="2:4"),
}  # fmt: skip


def accepted(config: Any, granularity: str) -> Any:
    """The config with another granularity, or None where the method does not offer it."""
    if not isinstance(config, SparseConfig):
        return None
    given = config.model_dump(exclude_unset=True)
    try:
        return type(config)(**{**given, "density": 0.3, "granularity": granularity})
    except ValueError:
        return None


BY_GROUP = {
    f"{name} {granularity}": found
    for name, config in BY_WEIGHT.items()
    for granularity in GRANULARITIES
    if (found := accepted(config, granularity)) is not None
}
CASES = BY_WEIGHT | BY_GROUP | SLIMMING | COMBINATIONS
QUICK = (*BY_WEIGHT, *SLIMMING, *COMBINATIONS, *(name for name in BY_GROUP if "unit" in name))
"""What is always run; kernels and 2:4 of each method are marked slow."""


def case(config: Any) -> Case:
    return Case(config, build_topology, Sparsifier)


def marked(name: str) -> Any:
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More would only wait for each other over networks as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=map(marked, CASES))
def run(one_thread: None, request: pytest.FixtureRequest) -> Iterator[Run]:
    yield record(case(CASES[request.param]))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(run: Run, check: Any) -> None:
    check(run)


def test_every_method_is_covered_with_every_granularity_it_accepts() -> None:
    assert {type(config) for config in (BY_WEIGHT | SLIMMING).values()} == set(METHODS)
    # All but dense and CTRE (twice) go by kernel, unit and 2:4, but for Gibbs, which has no 2:4.
    assert len(BY_GROUP) == 3 * (len(BY_WEIGHT) - 3) - 1


@pytest.mark.slow
def test_same_masks_in_a_new_process() -> None:
    check_new_process(*map(case, BY_WEIGHT.values()), case(CASES["rigl unit"]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_conforms_on_cuda(name: str) -> None:
    on_gpu = record(replace(case(CASES[name]), device="cuda"))
    for check in CHECKS:
        check(on_gpu)


def changes(config: Any) -> list[int]:
    moments = record(case(config)).moments
    return [
        after.step
        for before, after in zip(moments, moments[1:], strict=False)
        if any(not torch.equal(before.masks[n], after.masks[n]) for n in after.masks)
    ]


@pytest.mark.parametrize("granularity", ["weight", "kernel", "unit", "2:4"])
@pytest.mark.parametrize("kind", [SetConfig, RigLConfig])
def test_the_suite_sees_masks_change(kind: type, granularity: str) -> None:
    settings = {"density": 0.4, "drop_fraction": 0.5, "drop_schedule": "constant"}
    config = kind(**settings, granularity=granularity, update_every=3)
    assert changes(config) == [3, 6, 9, 12, 15, 18]  # 18 = 0.75 * 24


def test_the_suite_sees_units_that_were_off_come_back() -> None:
    moments = record(case(CASES["rigl unit"])).moments
    woken = 0
    for before, after in zip(moments, moments[1:], strict=False):
        for name, mask in after.masks.items():
            off = ~before.masks[name].flatten(1).any(1)
            woken += int(after.parameters[name][off].any()) if after.updated else 0
            assert mask.any()
    assert woken > 3


# The suite is worth something only if it catches methods that break its rules.


class Bernoulli(FixedTopology):
    """The approximate density of many codes."""

    def __init__(self, config, shapes, total_steps):
        self.budget = round(config.density * sum(s.numel() for s in shapes.values()))

    def init_masks(self, signals, generator):
        return {
            n: torch.rand(w.shape, generator=generator) < 0.1 for n, w in signals["weights"].items()
        }

    def planned_total(self, step):
        return self.budget


class Counting(FixedTopology):
    """Keeps a counter of its own, and moves what it is given."""

    def __init__(self, config, shapes, total_steps):
        self.shapes, self.calls = shapes, 0

    def init_masks(self, signals, generator):
        counts = {name: shape.numel() // 2 for name, shape in self.shapes.items()}
        return random_masks(counts, signals["weights"], generator)

    def planned_total(self, step):
        return sum(shape.numel() // 2 for shape in self.shapes.values())

    def is_update_step(self, step):
        return step % 4 == 0 and step < 24

    def update_masks(self, step, masks, signals, generator):
        self.calls += 1
        return {
            name: mask.flatten().roll(self.calls).reshape(mask.shape)
            for name, mask in masks.items()
        }


class GlobalRandom(Counting):
    """Draws from the global generator."""

    def update_masks(self, step, masks, signals, generator):
        return {
            n: m.flatten()[torch.randperm(m.numel())].reshape(m.shape) for n, m in masks.items()
        }


class Late(Counting):
    """Updates at the last step."""

    def is_update_step(self, step):
        return step == 24


class Meddling(Counting):
    """Changes the masks that it is given."""

    def update_masks(self, step, masks, signals, generator):
        for mask in masks.values():
            mask.copy_(mask.flatten().roll(1).reshape(mask.shape))
        return dict(masks)


class Restless(Counting):
    """Its gates and masks are counters, too; in its relaxed phase nothing is drawn."""

    def is_update_step(self, step):
        return False

    def phase(self, step):
        return Phase(relaxed=step > 12)

    def gates(self, step, signals, generator):
        self.calls += 1
        return {n: torch.full_like(w, 1.0 / self.calls) for n, w in signals["weights"].items()}


class Emptying(Counting):
    """Ranks all layers together, without leaving one in each."""

    def __init__(self, config, shapes, total_steps):
        super().__init__(config, shapes, total_steps)
        self.total = sum(shape.numel() for shape in shapes.values())
        self.budget = round(config.density * self.total)

    def init_masks(self, signals, generator):
        joined = torch.cat([weight.flatten() for weight in signals["weights"].values()])
        mask = top_k_mask(joined, self.budget).split([s.numel() for s in self.shapes.values()])
        return {n: m.reshape(s) for m, (n, s) in zip(mask, self.shapes.items(), strict=True)}

    def is_update_step(self, step):
        return False


class Careless(Sparsifier):
    """Grown weights come back with noise."""

    def update(self, step, signals):
        updated = super().update(step, signals)
        for weight in self.weights.values():
            weight.data += 0.01
        return updated


class Nostalgic(Sparsifier):
    """Optimizer state survives pruning."""

    def _moments(self, parameter):
        return []


class Loud(Sparsifier):
    """Units come back with outgoing weights."""

    def update(self, step, signals):
        updated = super().update(step, signals)
        for name, weight in self.weights.items():
            weight.data += 0.1 * (weight == 0.0) * self.masks[name]
        return updated


class Unaware(Sparsifier):
    """Prunes units, but not their biases and norms."""

    def __init__(self, weights, optimizer, method, generator, units=None):
        super().__init__(weights, optimizer, method, generator, None)


class Thawing(Sparsifier):
    """Lets frozen weights move."""

    def mask_gradients(self, step):
        gradients = {w: w.grad for w in self.weights.values()}
        super().mask_gradients(step)
        for weight, gradient in gradients.items():
            weight.grad = gradient


class Settling(Sparsifier):
    """Forgets what pruned weights were when it settles."""

    def settle(self):
        super().settle()
        if self.relaxation.values is not None:
            self.relaxation.store()


class ForgettingValues(Sparsifier):
    """Does not save what is underneath the gates."""

    def state_dict(self):
        return {**super().state_dict(), "relaxation": {"values": None, "resting": []}}


class ForgettingVariables(Sparsifier):
    """Does not restore what the method trains beside the weights."""

    def load_state_dict(self, state):
        super().load_state_dict({**state, "variables": {}})


def by_weight(config: Any, layout: Any, total_steps: int) -> Any:
    """The method at granularity weight, whatever the config says."""
    return build_topology(config.model_copy(update={"granularity": "weight"}), layout, total_steps)


def denser(config: Any, layout: Any, total_steps: int) -> Any:
    """The method at another density."""
    return build_topology(config.model_copy(update={"density": 0.2}), layout, total_steps)


RIGL = RigLConfig(update_every=3)
UNITS = RigLConfig(density=0.3, granularity="unit", update_every=3)
KERNELS = RigLConfig(density=0.3, granularity="kernel", update_every=3)
TWO_OF_FOUR = RigLConfig(density=0.3, granularity="2:4", update_every=3)


@pytest.mark.parametrize(
    ("check", "config", "build", "sparsifier"),
    [
        (check_exact_counts, StaticConfig(), Bernoulli, Sparsifier),
        (check_final_density, StaticConfig(), Bernoulli, Sparsifier),
        (check_final_density, RIGL, denser, Sparsifier),
        (check_impossible_density, StaticConfig(), Bernoulli, Sparsifier),
        (check_update_steps, StaticConfig(), Late, Sparsifier),
        (check_purity, StaticConfig(), Counting, Sparsifier),
        (check_resume, StaticConfig(), Counting, Sparsifier),
        (check_purity, StaticConfig(), GlobalRandom, Sparsifier),
        (check_same_seed, StaticConfig(), GlobalRandom, Sparsifier),
        (check_purity, StaticConfig(), Meddling, Sparsifier),
        (check_purity, StaticConfig(), Restless, Sparsifier),
        (check_no_empty_layer, StaticConfig(), Emptying, Sparsifier),
        (check_pattern, KERNELS, by_weight, Sparsifier),
        (check_pattern, TWO_OF_FOUR, by_weight, Sparsifier),
        (check_pattern, UNITS, by_weight, Sparsifier),
        (check_survivors, RIGL, build_topology, Careless),
        (check_grown_is_zero, RIGL, build_topology, Careless),
        (check_grown_is_zero, UNITS, build_topology, Loud),
        (check_pruned_is_zero, RIGL, build_topology, Careless),
        (check_pruned_is_zero, RIGL, build_topology, Nostalgic),
        (check_units_are_off, UNITS, build_topology, Unaware),
        (check_frozen, JackpotsConfig(), build_topology, Thawing),
        (check_settling, GibbsConfig(), build_topology, Settling),
        (check_resume, GibbsConfig(), build_topology, ForgettingValues),
        (check_resume, HardConcreteConfig(), build_topology, ForgettingVariables),
        (check_resume, JackpotsConfig(), build_topology, ForgettingVariables),
    ],
)  # fmt: skip
def test_the_suite_catches_rule_breakers(
    check: Any, config: Any, build: Any, sparsifier: Any
) -> None:
    broken = record(Case(config, build, sparsifier))
    with pytest.raises(AssertionError):
        check(broken)


def test_a_method_reads_only_what_it_declares() -> None:
    training = SmallTraining(case(CASES["rigl"]))
    method = training.method
    with pytest.raises(AssertionError, match="'gradients' was read but not supplied"):
        method.update_masks(
            3, training.masks, training.signals(frozenset({"weights"})), torch.Generator()
        )


def test_an_unregistered_config_is_refused_by_name() -> None:
    class UnknownConfig(StaticConfig):
        pass

    with pytest.raises(TopologyError, match="UnknownConfig.*METHODS"):
        build_topology(UnknownConfig(), {"a": torch.Size((2, 2))}, 10)
