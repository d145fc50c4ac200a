"""Which weights exist: pure methods that turn tensors, a step and a generator into masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spaces.base import Config
from spaces.topology import (
    DenseConfig,
    RigLConfig,
    SetConfig,
    SnipConfig,
    StaticConfig,
    TopologyConfig,
)
from trainers.errors import TopologyError
from trainers.topology.base import Shapes, Signals, TopologyMethod
from trainers.topology.distributions import layer_counts
from trainers.topology.masks import Masks, top_k_mask
from trainers.topology.methods.dense import Dense
from trainers.topology.methods.rigl import RigL
from trainers.topology.methods.set import Set
from trainers.topology.methods.snip import Snip
from trainers.topology.methods.static import Static

METHODS: dict[type[Config], Callable[[Any, Shapes, int], TopologyMethod]] = {
    DenseConfig: Dense,
    StaticConfig: Static,
    SnipConfig: Snip,
    SetConfig: Set,
    RigLConfig: RigL,
}
"""The method that each config class describes."""


def build_topology(config: TopologyConfig, shapes: Shapes, total_steps: int) -> TopologyMethod:
    """The method that `config` describes, for weights of these shapes.

    Raises TopologyError when the density is impossible for them.
    """
    if type(config) not in METHODS:
        raise TopologyError(
            f"no topology method is registered for {type(config).__name__}: add it to "
            "trainers.topology.METHODS"
        )
    return METHODS[type(config)](config, shapes, total_steps)


__all__ = [
    "METHODS",
    "Masks",
    "Shapes",
    "Signals",
    "TopologyMethod",
    "build_topology",
    "layer_counts",
    "top_k_mask",
]
