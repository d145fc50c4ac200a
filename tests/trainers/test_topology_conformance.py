"""Every topology method passes the shipped conformance suite; a new method is one line in CASES."""

from typing import Any

import pytest
import torch

from spaces.topology import DenseConfig, RigLConfig, SetConfig, SnipConfig, StaticConfig
from trainers.errors import TopologyError
from trainers.sparsifier import Sparsifier
from trainers.topology import build_topology
from trainers.topology.base import FixedTopology
from trainers.topology.conformance import (
    CHECKS,
    Case,
    SmallTraining,
    check_exact_counts,
    check_grown_is_zero,
    check_impossible_density,
    check_new_process,
    check_purity,
    check_resume,
    check_same_seed,
)
from trainers.topology.masks import random_masks

CASES = {
    "dense": DenseConfig(),
    "static": StaticConfig(density=0.1),
    "snip": SnipConfig(density=0.1),
    "snip certified": SnipConfig(density=0.05, saliency="certified"),
    "set": SetConfig(density=0.1, update_every=3),
    "rigl": RigLConfig(density=0.1, update_every=3),
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
}  # fmt: skip


def case(config: Any) -> Case:
    return Case(config, build_topology, Sparsifier)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
def test_conforms(name: str, check: Any) -> None:
    check(case(CASES[name]))


@pytest.mark.slow
def test_same_masks_in_a_new_process() -> None:
    check_new_process(*map(case, CASES.values()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_conforms_on_cuda(name: str) -> None:
    for check in CHECKS:
        check(Case(CASES[name], build_topology, Sparsifier, device="cuda"))


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_the_suite_sees_masks_change(name: str) -> None:
    training = SmallTraining(case(CASES[name]))
    changes = 0
    for _ in range(24):
        before = training.masks
        training.step()
        changes += any(not torch.equal(before[n], training.masks[n]) for n in before)
    assert changes == 6  # steps 3, 6, ..., 18 = 0.75 * 24


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


class CarelessSparsifier(Sparsifier):
    """Grown weights come back with noise."""

    def update(self, step, signals):
        updated = super().update(step, signals)
        for weight in self.weights.values():
            weight.data += 0.01
        return updated


@pytest.mark.parametrize(
    ("check", "config", "build", "sparsifier"),
    [
        (check_exact_counts, StaticConfig(), Bernoulli, Sparsifier),
        (check_impossible_density, StaticConfig(), Bernoulli, Sparsifier),
        (check_purity, StaticConfig(), Counting, Sparsifier),
        (check_resume, StaticConfig(), Counting, Sparsifier),
        (check_purity, StaticConfig(), GlobalRandom, Sparsifier),
        (check_same_seed, StaticConfig(), GlobalRandom, Sparsifier),
        (check_grown_is_zero, RigLConfig(update_every=3), build_topology, CarelessSparsifier),
    ],
)  # fmt: skip
def test_the_suite_catches_rule_breakers(
    check: Any, config: Any, build: Any, sparsifier: Any
) -> None:
    with pytest.raises(AssertionError):
        check(Case(config, build, sparsifier))


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
