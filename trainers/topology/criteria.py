"""What makes a weight worth keeping or growing: parts that drop/grow methods combine freely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.topology import DropCriterion, GrowCriterion
from trainers.topology.base import Signals
from trainers.topology.masks import random_scores

Score = Callable[[str, Signals, torch.Generator], Tensor]
"""(layer name, signals, generator) -> scores of the layer's shape; larger: more worth having."""


@dataclass(frozen=True)
class Criterion:
    """A score for every weight of a layer, and the signals that it is computed from."""

    inputs: frozenset[str]
    score: Score


def magnitude(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """|w|."""
    return signals["weights"][name].abs()


def sensitivity(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """|w * dL/dw|: to first order, how much the loss changes when the weight is removed."""
    return (signals["weights"][name] * signals["gradients"][name]).abs()


def gradient(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """|dL/dw| (Evci et al. 2020)."""
    return signals["gradients"][name].abs()


def certified_gradient(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """|dL_cert/dw|: our reading of how VeriSparse grows; its rule is not public."""
    return signals["certified_gradients"][name].abs()


def random(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """Uniformly random."""
    return random_scores(signals["weights"][name], generator)


_RANDOM = Criterion(frozenset({"weights"}), random)

DROP: dict[DropCriterion, Criterion] = {
    "magnitude": Criterion(frozenset({"weights"}), magnitude),
    "sensitivity": Criterion(frozenset({"weights", "gradients"}), sensitivity),
    "random": _RANDOM,
}
"""Active weights with the smallest scores are dropped."""

GROW: dict[GrowCriterion, Criterion] = {
    "gradient": Criterion(frozenset({"gradients"}), gradient),
    "certified_gradient": Criterion(frozenset({"certified_gradients"}), certified_gradient),
    "random": _RANDOM,
}
"""Candidates with the largest scores are grown."""
