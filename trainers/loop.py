"""One training: build it, run it epoch by epoch, measure it.

Knows nothing of Ray, Optuna or MLflow. `train` can be called again with the weights and masks that
an earlier training returned, because some procedures make one ticket out of several trainings.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spaces.trial import TrialConfig
from trainers.attack import attacked
from trainers.averaging import WeightAverage, estimate_statistics
from trainers.batches import Batches
from trainers.cost import TrainingCost, nonzero_counts
from trainers.data import Data
from trainers.device import generator, set_threads
from trainers.errors import ModelError, TrainingDiverged
from trainers.evaluate import Evaluation, FinalCounts, evaluate, evaluate_by_intervals, model_cost
from trainers.gather import SignalGatherer
from trainers.grafting import Grafting
from trainers.losses import LossTerms, build_loss, natural_terms
from trainers.models import build_model, initialize, prunable_weights
from trainers.operations import Operations
from trainers.optimizer import build_optimizer
from trainers.schedules import EpsilonSchedule, LearningRate
from trainers.sparsifier import Sparsifier
from trainers.topology import Layout, Signals, build_topology
from trainers.twin import DenseTwin
from trainers.units import UnitState
from trainers.wiring import Wiring

Report = Callable[[dict[str, float]], bool | None]
_NO_SIGNALS: frozenset[str] = frozenset()


class Training:
    """A training in progress. Call `run_epoch` until `finished`, then `final_metrics`."""

    def __init__(
        self,
        config: TrialConfig,
        data: Data,
        *,
        weights: Mapping[str, Tensor] | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.data = config, data
        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.evaluation: Evaluation | None = None
        self.twin: DenseTwin | None = None
        self.best_accuracy, self.stall, self.longest_stall = -1.0, 0, 0
        self.device = data.train.x.device
        set_threads(config.compute.threads)
        self.batches = Batches(config, data.train)
        total_steps = self.batches.total_steps
        self.epsilon = EpsilonSchedule.from_config(
            config.epsilon, config.evaluation.radius, total_steps, self.batches.epoch_ends
        )
        self.learning_rate = LearningRate(config.optimizer, total_steps)
        self.model = build_model(
            config.model,
            data.input_shape,
            data.num_classes,
            data.mean,
            data.std,
            config.seed,
            config.grafting,
        ).to(self.device)
        if weights is None:
            self._initialize()
        else:
            self._load(weights)
        self.loss = build_loss(config.loss, self.model, data.train.x[:2], config.compute)
        self.weights = prunable_weights(self.model)
        self.grafting = Grafting(
            config.grafting, self.loss.interval, config.evaluation.radius, total_steps
        )
        self.optimizer = build_optimizer(config.optimizer, self.model, config.grafting.lr_scale)
        self.average = WeightAverage(self.model, config.optimizer.swa_start * config.epochs)
        self.wiring = Wiring.of(self.model)
        shapes = {name: weight.shape for name, weight in self.weights.items()}
        layout = Layout(shapes, self.wiring.groups)
        self.topology = build_topology(config.topology, layout, total_steps)
        self.sparsifier = Sparsifier(
            self.weights,
            self.optimizer,
            self.topology,
            generator(config.seed, "topology"),
            UnitState(self.wiring.groups, self.weights, dict(self.model.named_parameters())),
        )
        cost = TrainingCost(self.model, data.input_shape)
        self.operations = Operations(cost, self.loss, self.epsilon, self.sparsifier)
        self.signals = SignalGatherer(self.loss, self.weights, self.wiring)
        self._start_masks(masks, fresh=weights is None)
        self.initial_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    @property
    def masks(self) -> dict[str, Tensor]:
        """Which weights are kept, by parameter name."""
        return self.sparsifier.masks

    @property
    def training_flops(self) -> float:
        """Operations spent so far."""
        return self.operations.total

    @property
    def finished(self) -> bool:
        """Whether every epoch has been run."""
        return self.epoch >= self.config.epochs

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch, then measure by the cheap bound on the validation split.

        Raises TrainingDiverged when the loss was not finite.
        """
        started = time.perf_counter()
        self.model.train()
        total = torch.zeros((), device=self.device)
        for x_BCHW, y_B in self.batches.of(self.epoch):
            total += self.train_step(x_BCHW, y_B).total.detach()
        train_loss = float(total) / self.batches.num_steps(self.epoch)
        self._check_finite(train_loss)
        self.sparsifier.settle()
        self.epoch += 1
        self._average_weights()
        train_epsilon = self.epsilon(self.step)
        measured = evaluate_by_intervals(
            self.loss.interval, self.data.validation, self.config.evaluation, train_epsilon
        )
        self._note_accuracy(measured["natural_accuracy"])
        return {
            "epoch": float(self.epoch),
            "train_loss": train_loss,
            "train_epsilon": train_epsilon,
            "training_flops": self.training_flops,
            **measured,
            **model_cost(self.model, self.data.input_shape, self.wiring, self._final_counts()),
            "duration_s": self._spent_since(started),
        }

    def _spent_since(self, started: float) -> float:
        """Seconds of training and measuring so far, with those since `started`."""
        self.seconds += time.perf_counter() - started
        return self.seconds

    def _final_counts(self) -> FinalCounts:
        # Weights that have just grown are zero and will not stay so; others that are zero will.
        has_grown = self.topology.is_update_step(self.step)
        counts = self.sparsifier.counts if has_grown else nonzero_counts(self.model)
        final = self.topology.final_counts(counts, self.step, self.batches.total_steps)
        return FinalCounts(final, self.grafting.count)

    def _average_weights(self) -> None:
        """After the last epoch the network becomes the mean of what it was, under its masks."""
        self.average.observe(self.epoch)
        if self.finished and self.average.started:
            self.average.write()
            self.sparsifier.finish()
            inputs = (x_BCHW for x_BCHW, _ in self.batches.of(self.epoch))
            self.operations.count_forward(estimate_statistics(self.model, inputs))

    def train_step(self, x_BCHW: Tensor, y_B: Tensor) -> LossTerms:
        """One step of the optimizer, or, at a topology update, one change of the masks instead."""
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step) * group.get("lr_scale", 1.0)
        updates_masks = self.topology.is_update_step(self.step)
        names = self.topology.inputs if updates_masks else _NO_SIGNALS
        self.sparsifier.before_step(self.step)
        if self.grafting.is_due(self.step):
            self.grafting.graft(self.data.train, self.optimizer)
            self.operations.count_grafting(self.grafting.config, len(self.data.train))
        terms = self._terms(x_BCHW, y_B)
        self.operations.count_step(self.step, len(y_B), names)
        signals = self.signals.before_backward(names, terms)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        if updates_masks:
            # Elsewhere the epoch's sum of losses is looked at, which makes no device wait.
            gradients = [p.grad for p in self.weights.values() if p.grad is not None]
            self._check_finite(float(nn.utils.get_total_norm(gradients)))
            signals |= self.signals.after_backward(names, x_BCHW, y_B, self.epsilon(self.step))
            self._update_masks(signals)
        else:
            self.sparsifier.mask_gradients(self.step)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
            self.optimizer.step()
            self.sparsifier.after_step(self.step)
        return terms

    def _terms(self, x_BCHW: Tensor, y_B: Tensor) -> LossTerms:
        """The loss of a batch, with what regularisers and the topology method add to it."""
        epsilon, phase = self.epsilon(self.step), self.topology.phase(self.step)
        if phase.attack_steps:
            x_BCHW = attacked(self.model, x_BCHW, y_B, epsilon, phase.attack_steps)
            terms = natural_terms(self.loss.logits(x_BCHW), y_B)
        else:
            terms = self.loss(x_BCHW, y_B, epsilon, self.epsilon.progress(self.step))
        total = terms.total + self._l1_penalty()
        gains = self.signals.gains() if "gains" in self.topology.inputs else None
        live = Signals(self.weights, gains=gains, variables=self.sparsifier.variables)
        penalty = self.topology.penalty(self.step, live)
        if penalty is not None:
            total = total + penalty
        if phase.distillation:
            assert self.twin is not None, "distillation before there is a twin"
            total = total + phase.distillation * self.twin.distance(terms.logits_BK, x_BCHW)
        return replace(terms, total=total)

    def _update_masks(self, signals: dict[str, Any]) -> None:
        if self.topology.phase(self.step).keeps_twin:
            self.twin = DenseTwin(self.model)
        self.sparsifier.update(
            self.step,
            Signals(
                self.sparsifier.kept_weights(),
                momenta=self.sparsifier.momenta or None,
                longest_stall=self.longest_stall,
                variables=self.sparsifier.variables,
                **signals,
            ),
        )

    def final_metrics(self) -> dict[str, float]:
        """Measure by the whole cascade on the validation split; the test split is not touched."""
        started = time.perf_counter()
        self.evaluation = evaluate(
            self.model,
            self.data.validation,
            self.config.evaluation,
            split_name="validation",
            seed=self.config.seed,
        )
        return {
            "training_flops": self.training_flops,
            **self.evaluation.metrics,
            **self._twin_metrics(),
            "duration_s": self._spent_since(started),
        }

    def state_dict(self) -> dict[str, object]:
        """All that is needed to go on from here and end where an uninterrupted run ends.

        Tensors, numbers, names and containers of them, so that `torch.load(weights_only=True)`
        reads a file of it. Tensors are those of this training, which goes on changing them.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "average": self.average.state_dict(),
            "initial_weights": self.initial_weights,
            "step": self.step,
            "epoch": self.epoch,
            "operations": self.operations.total,
            "seconds": self.seconds,
            "stalls": (self.best_accuracy, self.stall, self.longest_stall),
            "twin": None if self.twin is None else self.twin.weights,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict()` of a training with the same config and data.

        The state is copied, and may lie on another device than this training.
        """
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        # A copy, because the optimizer goes on in the tensors that it is given.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # type: ignore[arg-type]
        self.sparsifier.load_state_dict(state["sparsifier"])  # type: ignore[arg-type]
        self.average.load_state_dict(state["average"])  # type: ignore[arg-type]
        for name, value in state["initial_weights"].items():  # type: ignore[attr-defined]
            self.initial_weights[name].copy_(value)
        self.step, self.epoch = int(state["step"]), int(state["epoch"])  # type: ignore[call-overload]
        self.operations.total = float(state["operations"])  # type: ignore[arg-type]
        self.seconds = float(state.get("seconds", 0.0))  # type: ignore[arg-type]
        self.best_accuracy, self.stall, self.longest_stall = state["stalls"]  # type: ignore[misc]
        if state["twin"] is not None:
            self.twin = DenseTwin(self.model, state["twin"])  # type: ignore[arg-type]

    def _initialize(self, masks: Mapping[str, Tensor] | None = None) -> None:
        # The same stream each time: the masked weights are the dense ones, rescaled to fan-in.
        initialize(self.model, self.config.model, generator(self.config.seed, "weights"), masks)

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        try:
            self.model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise ModelError(
                f"the given weights are not those of a {self.config.model.family} network as "
                f"configured: {error}; give the state_dict of a model with the same settings"
            ) from None

    def _start_masks(self, masks: Mapping[str, Tensor] | None, *, fresh: bool) -> None:
        if masks is not None:
            self.sparsifier.start(masks=masks)
        else:
            self.sparsifier.start(self._initial_signals())
        if fresh:
            self._initialize(self.masks)
            self.sparsifier.prune_again()

    def _initial_signals(self) -> Signals:
        """What the topology method asks for at initialisation, on one batch at the full radius."""
        names = self.topology.init_inputs
        if names <= {"weights"}:
            return Signals({name: weight.detach() for name, weight in self.weights.items()})
        x_BCHW, y_B = next(self.batches.of(0))
        self.model.train()
        self.operations.count_start(len(y_B))
        return self.signals.initial(names, x_BCHW, y_B, self.epsilon.target)

    def _note_accuracy(self, accuracy: float) -> None:
        self.stall = 0 if accuracy > self.best_accuracy else self.stall + 1
        self.best_accuracy = max(accuracy, self.best_accuracy)
        self.longest_stall = max(self.stall, self.longest_stall)

    def _twin_metrics(self) -> dict[str, float]:
        """Accuracies of the dense twin, where there is one, measured like the network's own."""
        if self.twin is None:
            return {}
        config, seed = self.config.evaluation, self.config.seed
        config = config.model_copy(update={"radii": ()})
        twin = evaluate(
            self.twin.model, self.data.validation, config, split_name="validation", seed=seed
        )
        names = ("natural_accuracy", "verified_accuracy")
        return {f"dense_twin_{name}": twin.metrics[name] for name in names}

    def _check_finite(self, loss_or_gradient: float) -> None:
        if not math.isfinite(loss_or_gradient):
            optimizer = self.config.optimizer
            raise TrainingDiverged(
                f"the training loss or its gradient became {loss_or_gradient} in epoch "
                f"{self.epoch + 1} of {self.config.epochs} (lr {optimizer.lr:g}, clip_norm "
                f"{optimizer.clip_norm:g}): lower optimizer.lr or lengthen the epsilon ramp"
            )

    def _l1_penalty(self) -> Tensor | float:
        if self.config.optimizer.l1 == 0.0:
            return 0.0
        return self.config.optimizer.l1 * sum(w.abs().sum() for w in self.weights.values())


def build(
    config: TrialConfig,
    data: Data,
    *,
    weights: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> Training:
    """A training ready to run: fresh, or from given weights (a state_dict) and masks."""
    return Training(config, data, weights=weights, masks=masks)


def train(
    config: TrialConfig,
    data: Data,
    *,
    weights: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    report: Report | None = None,
) -> Training:
    """Train to the end, or until `report(metrics)` returns False after some epoch."""
    training = build(config, data, weights=weights, masks=masks)
    while not training.finished:
        metrics = training.run_epoch()
        if report is not None and report(metrics) is False:
            break
    return training
