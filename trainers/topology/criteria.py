"""What makes a weight worth keeping or growing: parts that drop/grow methods combine freely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.sparsity import DropCriterion, GrowCriterion
from trainers.topology.base import Signals
from trainers.topology.items import Pattern
from trainers.topology.masks import random_scores

Score = Callable[[str, Signals, torch.Generator], Tensor]
"""(layer name, signals, generator) -> scores of the layer's shape; larger: more worth having."""


@dataclass(frozen=True)
class Criterion:
    """A score for every weight of a layer, and the signals that it is computed from."""

    inputs: frozenset[str]
    score: Score
    unit_score: Score | None = None
    """For whole units, (n_out,), where it is not the mean of `score` over a unit's weights."""


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


def stability(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """|w| * (1 - NRS of its unit) / 2: weights of units with an unstable ReLU go first.

    Our reading for single weights of how CertifiedPruning removes channels (Li et al. 2022). Where
    no ReLU follows, NRS is -1 and this is the magnitude.
    """
    weight, nrs = signals["weights"][name], signals["instability"][name]
    return weight.abs() * (1.0 - nrs.view(-1, *[1] * (weight.ndim - 1))) / 2.0


def unit_stability(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """(1 - NRS) / 2 of each unit (Li et al. 2022); 0 for units that have no weight left."""
    alive = signals["weights"][name].flatten(1).any(1)
    return alive * (1.0 - signals["instability"][name]) / 2.0


def adversarial_gradient(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """-|dL(x_adv)/dw|: greedy adversarial pruning removes the largest (GAP)."""
    return -signals["adversarial_gradients"][name].abs()


def cosine(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """|cos| of the activations that the weight connects (CTRE; Atashgahi et al. 2022)."""
    return signals["cosines"][name].abs()


def momentum(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """|mean of recent gradients| (Dettmers and Zettlemoyer 2019)."""
    return signals["momenta"][name].abs()


def random(name: str, signals: Signals, generator: torch.Generator) -> Tensor:
    """Uniformly random."""
    return random_scores(signals["weights"][name], generator)


_COSINE = Criterion(frozenset({"cosines"}), cosine)
_MOMENTUM = Criterion(frozenset({"momenta"}), momentum)
_RANDOM = Criterion(frozenset({"weights"}), random)

DROP: dict[DropCriterion, Criterion] = {
    "magnitude": Criterion(frozenset({"weights"}), magnitude),
    "sensitivity": Criterion(frozenset({"weights", "gradients"}), sensitivity),
    "stability": Criterion(frozenset({"weights", "instability"}), stability, unit_stability),
    "adversarial_gradient": Criterion(frozenset({"adversarial_gradients"}), adversarial_gradient),
    "cosine": _COSINE,
    "momentum": _MOMENTUM,
    "random": _RANDOM,
}
"""Active weights with the smallest scores are dropped."""

GROW: dict[GrowCriterion, Criterion] = {
    "gradient": Criterion(frozenset({"gradients"}), gradient),
    "certified_gradient": Criterion(frozenset({"certified_gradients"}), certified_gradient),
    "cosine": _COSINE,
    "momentum": _MOMENTUM,
    "random": _RANDOM,
}
"""Candidates with the largest scores are grown."""


def item_scores(
    criterion: Criterion,
    signals: Signals,
    generator: torch.Generator,
    pattern: Pattern,
    *,
    by_unit: bool = False,
) -> dict[str, Tensor]:
    """Scores of the items of a pattern by a criterion, layer after layer."""
    score = criterion.unit_score if by_unit and criterion.unit_score else criterion.score
    return pattern.scores({name: score(name, signals, generator) for name in pattern.layout})
