"""What training has cost so far, in operations as they are really spent."""

from __future__ import annotations

from spaces.grafting import GraftingConfig
from trainers.cost import TrainingCost
from trainers.gather import ATTACK_STEPS
from trainers.losses import Loss
from trainers.schedules import EpsilonSchedule
from trainers.signals import signal_cost
from trainers.sparsifier import Sparsifier

_FORWARD_PASSES_BEFORE_TRAINING = {"gradients": 3, "certified_gradients": 1}
"""Of signals at initialisation, beyond `signal_cost`: there is no step to share a pass with."""
_LOSSES_BEFORE_TRAINING = (("certified_gradients", 1), ("certified_hessian_gradients", 3))
"""How often the loss is computed, attacks included, for a signal at initialisation."""
_NEED_DENSE_BACKWARD = frozenset({"gradients", "momenta"})
"""Signals that take the gradients of pruned weights out of the training step's backward pass."""


class Operations:
    """Counts the operations of a training step by step: sparse and dense, searching and learning.

    The rules are those of `TrainingCost.step`, `Loss.attack_flops` and `signal_cost`. Elementwise
    work is left out, as are the passes of a single example that data-free scores take, and the
    second way back through the attacked layers of taps that its certified gradients take.
    """

    def __init__(
        self, cost: TrainingCost, loss: Loss, epsilon: EpsilonSchedule, sparsifier: Sparsifier
    ) -> None:
        self.cost, self.loss, self.epsilon, self.sparsifier = cost, loss, epsilon, sparsifier
        self.method = sparsifier.method
        self.total = 0.0

    def count_start(self, batch_size: int) -> None:
        """Add what the signals for the initial masks cost, at the full radius."""
        passes = self.loss.passes(self.epsilon.target, 1.0)
        names, dense = self.method.init_inputs, self.cost.dense_flops
        extra: float = sum(
            count * (passes if name.startswith("certified") else 1) * dense
            for name, count in _FORWARD_PASSES_BEFORE_TRAINING.items()
            if name in names
        )
        layers = self.cost.dense_layers
        attack = self.loss.attack_flops(layers, layers, self.epsilon.target, 1.0)
        extra += attack * sum(count for name, count in _LOSSES_BEFORE_TRAINING if name in names)
        self.total += batch_size * (extra + _signals(names, dense, dense, passes))

    def count_grafting(self, config: GraftingConfig, num_training: int) -> None:
        """Add the choice of the units to graft: an interval pass, and one pass for significance."""
        passes = 3 + (2 if config.significance == "gradient" else 1)
        examples = min(config.examples, num_training)
        self.total += examples * passes * self.cost.forward(self.sparsifier.counts_in_use)

    def count_step(self, step: int, batch_size: int, names: frozenset[str]) -> None:
        """Add a step that gathers the signals `names`; after its forward pass, before its update.

        Means of gradients take a dense backward pass at every step, and so do gates that are
        learned.
        """
        phase, counts = self.method.phase(step), self.sparsifier.counts_in_use
        sparse, dense = self.cost.forward(counts), self.cost.dense_flops
        passes = self.loss.passes(self.epsilon(step), self.epsilon.progress(step))
        if phase.attack_steps:
            passes = 1
        dense_gradient = (
            bool(names & _NEED_DENSE_BACKWARD)
            or "momenta" in self.method.inputs
            or (phase.relaxed and bool(self.sparsifier.variables))
        )
        self.total += self.cost.step(counts, batch_size, passes, dense_gradient=dense_gradient)
        extra = _signals(names, sparse, dense, passes)
        if phase.attack_steps:
            extra += 2 * (phase.attack_steps + 1) * sparse
        else:
            extra += self._loss_attack(step, counts, dense_gradient)
        if phase.distillation:
            extra += dense
        self.total += batch_size * extra

    def count_forward(self, num_examples: int) -> None:
        """Add forward passes of the network as it is."""
        self.total += num_examples * self.cost.forward(self.sparsifier.counts)

    def _loss_attack(self, step: int, counts: dict[str, int], dense_gradient: bool) -> float:
        """Per example: attacks that are part of the loss."""
        layers = self.cost.layers(counts)
        gradients = self.cost.dense_layers if dense_gradient else layers
        epsilon, progress = self.epsilon(step), self.epsilon.progress(step)
        return self.loss.attack_flops(layers, gradients, epsilon, progress)


def _signals(names: frozenset[str], sparse: int, dense: int, passes: int) -> float:
    """Operations per example of signals, beyond the training step."""
    total = 0.0
    for name in names:
        loss_passes = passes if name.startswith("certified") else 1
        cost = signal_cost(name, loss_passes=loss_passes, attack_steps=ATTACK_STEPS)
        total += cost.sparse * sparse + cost.dense * dense
    return total
