"""Which weights exist: pure methods that turn tensors, a step and a generator into masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spaces import topology as configs
from spaces.base import Config
from spaces.topology import TopologyConfig
from trainers.errors import TopologyError
from trainers.topology.base import Phase, Shapes, Signals, TopologyMethod
from trainers.topology.distributions import layer_counts
from trainers.topology.layout import Layout
from trainers.topology.masks import Masks, top_k_mask
from trainers.topology.methods.acdc import Acdc
from trainers.topology.methods.ctre import Ctre
from trainers.topology.methods.deadwooding import Deadwooding
from trainers.topology.methods.dense import Dense
from trainers.topology.methods.gibbs import Gibbs
from trainers.topology.methods.gradual import Gradual
from trainers.topology.methods.grasp import Grasp
from trainers.topology.methods.hard_concrete import HardConcrete
from trainers.topology.methods.jackpots import Jackpots
from trainers.topology.methods.rigl import RigL
from trainers.topology.methods.set import Set
from trainers.topology.methods.slimming import Slimming
from trainers.topology.methods.snip import Snip
from trainers.topology.methods.sparsevlr import SparseVlr
from trainers.topology.methods.static import Static
from trainers.topology.methods.synflow import SynFlow

METHODS: dict[type[Config], Callable[[Any, Shapes, int], TopologyMethod]] = {
    configs.DenseConfig: Dense,
    configs.StaticConfig: Static,
    configs.SnipConfig: Snip,
    configs.GraspConfig: Grasp,
    configs.SynFlowConfig: SynFlow,
    configs.SetConfig: Set,
    configs.RigLConfig: RigL,
    configs.SparseVlrConfig: SparseVlr,
    configs.CtreConfig: Ctre,
    configs.GmpConfig: Gradual,
    configs.StabilityConfig: Gradual,
    configs.GapConfig: Gradual,
    configs.AcdcConfig: Acdc,
    configs.DeadwoodingConfig: Deadwooding,
    configs.GibbsConfig: Gibbs,
    configs.SlimmingConfig: Slimming,
    configs.HardConcreteConfig: HardConcrete,
    configs.JackpotsConfig: Jackpots,
}
"""The method that each config class describes."""


def build_topology(config: TopologyConfig, shapes: Shapes, total_steps: int) -> TopologyMethod:
    """The method that `config` describes, for weights of these shapes.

    shapes: a `Layout` where whole units are to be pruned; plain shapes do otherwise. Raises
    TopologyError when the density, or another setting, is impossible for them.
    """
    if type(config) not in METHODS:
        raise TopologyError(
            f"no topology method is registered for {type(config).__name__}: add it to "
            "trainers.topology.METHODS"
        )
    return METHODS[type(config)](config, shapes, total_steps)


__all__ = [
    "METHODS",
    "Layout",
    "Masks",
    "Phase",
    "Shapes",
    "Signals",
    "TopologyMethod",
    "build_topology",
    "layer_counts",
    "top_k_mask",
]
