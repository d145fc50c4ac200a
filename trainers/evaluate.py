"""Natural and verified accuracy, density and cost of a network on one split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from spaces.training import EvaluationConfig
from trainers import cost
from trainers.bounds import IntervalPass, ball
from trainers.bounds.crown import crown_values
from trainers.compaction import effective_counts
from trainers.data import Split
from trainers.errors import UnsupportedLayer
from trainers.lowering.shipping import shipping_cost
from trainers.models.modes import evaluating
from trainers.verify import verify_radii
from trainers.wiring import Wiring

NUM_CROWN_EXAMPLES = 32
"""Examples by which unstable ReLUs are counted at the end of a trial."""
MEAN_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the evaluation radius: where the rung score `mean_radii` is measured."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one network and how each was obtained.

    `metrics` uses the names of docs/contract.md; accuracies are fractions of `num_examples`
    examples of `split`, by the cascade `bound`, at l-infinity radius `radius` (data units).
    """

    metrics: dict[str, float]
    split: str
    bound: str
    radius: float
    num_examples: int
    decided_by: dict[str, int]

    def provenance(self) -> dict[str, str | float | int]:
        """Where the figures come from, for a manifest or a tag."""
        return {
            "split": self.split,
            "bound": self.bound,
            "radius": self.radius,
            "num_examples": self.num_examples,
            "num_timeouts": self.decided_by.get("timeout", 0),
        }


def evaluate(
    model: nn.Module, split: Split, config: EvaluationConfig, *, split_name: str, seed: int = 0
) -> Evaluation:
    """Verify the first `config.examples` examples of `split` by the whole cascade at every radius.

    Splits are shuffled when they are made, so that the first n are a random sample.
    """
    x_BCHW, y_B = first_examples(split, config.examples)
    results = verify_radii(
        model,
        x_BCHW,
        y_B,
        (config.radius, *config.radii),
        methods=config.methods,
        timeout_s=config.timeout_s,
        budget_s=config.budget_s,
        attack_steps=config.attack_steps,
        attack_restarts=config.attack_restarts,
        seed=seed,
    )
    result = results[config.radius]
    metrics = {
        "natural_accuracy": result.natural_accuracy,
        "verified_accuracy": result.verified_accuracy,
        "falsified_accuracy_bound": result.falsified_accuracy_bound,
        **model_cost(model, tuple(split.x.shape[1:])),
        **unstable_by_crown(model, x_BCHW[:NUM_CROWN_EXAMPLES], config.radius),
        **shipping_cost(model, tuple(split.x.shape[1:]), latency=config.latency),
    }
    for radius in config.radii:
        metrics[f"verified_accuracy_at_{radius:g}"] = results[radius].verified_accuracy
    decided_by = dict(Counter(result.method))
    return Evaluation(
        metrics, split_name, "+".join(config.methods), config.radius, len(y_B), decided_by
    )


def rung_radii(config: EvaluationConfig, train_epsilon: float) -> tuple[float, ...]:
    """At which radii the IBP-verified accuracy makes up the rung score, their mean (data units)."""
    match config.rung_score:
        case "small_radius":
            return (config.rung_radius_factor * config.radius,)
        case "training_radius":
            return (min(train_epsilon, config.radius),)
        case "mean_radii":
            return tuple(share * config.radius for share in MEAN_SHARES)


def evaluate_by_intervals(
    interval: IntervalPass, split: Split, config: EvaluationConfig, train_epsilon: float
) -> dict[str, float]:
    """The cheap figures after an epoch, by one natural pass and one by intervals for each radius.

    On a fixed subset. verified_accuracy is at the evaluation radius, and so is what the bounds say
    of ReLUs; rung_score is as `config.rung_score` has it, while epsilon is at `train_epsilon`.
    """
    x_BCHW, y_B = first_examples(split, config.epoch_examples)
    model = interval.model
    rungs = rung_radii(config, train_epsilon)
    robust = dict.fromkeys((config.radius, *rungs), 0)
    correct = num_unstable = num_relus = 0
    with evaluating(model), torch.no_grad():
        for x, y in zip(x_BCHW.split(1000), y_B.split(1000), strict=True):
            correct += int((model(x).argmax(1) == y).sum())
            for radius in robust:
                result = interval.margins(x, y, *ball(x, radius))
                robust[radius] += count_positive(result.margins_BK, y)
                if radius == config.radius:
                    num_unstable += int(result.num_unstable_B.sum())
                    num_relus = sum(a.center[0].numel() for a in result.relu_inputs)
    n = len(y_B)
    return {
        "natural_accuracy": correct / n,
        "verified_accuracy": robust[config.radius] / n,
        "rung_score": sum(robust[radius] for radius in rungs) / (len(rungs) * n),
        **_unstable("ibp", num_unstable / n, num_relus),
    }


def count_positive(margins_BK: torch.Tensor, y_B: torch.Tensor) -> int:
    """Of how many examples all margins to other classes are above 0."""
    return int((margins_BK.scatter(1, y_B[:, None], math.inf).amin(1) > 0).sum())


@torch.no_grad()
def unstable_by_crown(model: nn.Module, x_BCHW: torch.Tensor, radius: float) -> dict[str, float]:
    """How many ReLUs CROWN's bounds leave on either side of zero: mean over examples, and share."""
    interval = IntervalPass(model)
    with evaluating(model):
        values = crown_values(interval, x_BCHW, *ball(x_BCHW, radius))
    inputs = [
        values[step.inputs[0]] for step in interval.program.steps if isinstance(step.op, nn.ReLU)
    ]
    num_unstable = sum(int((a.center.abs() < a.radius).sum()) for a in inputs)
    return _unstable("crown", num_unstable / len(x_BCHW), sum(a.center[0].numel() for a in inputs))


def _unstable(bound: str, mean: float, num_relus: int) -> dict[str, float]:
    share = mean / num_relus if num_relus else 0.0
    return {f"unstable_relus_{bound}": mean, f"unstable_share_{bound}": share}


@dataclass(frozen=True)
class FinalCounts:
    """What is planned for the end of a training: weights kept, by parameter name; grafted units."""

    weights: Mapping[str, float]
    grafted_units: int


def model_cost(
    model: nn.Module,
    input_shape: tuple[int, ...],
    wiring: Wiring | None = None,
    final: FinalCounts | None = None,
) -> dict[str, float]:
    """Density, parameters and grafted units, and inference FLOPs of the weights that matter.

    inference_flops counts the non-zero weights that `compact` would keep: those that can influence
    the logits; all non-zero weights when the network has layers that cannot be traced. A `wiring`
    that is at hand saves tracing the network. `final` adds the same as planned for the end of the
    training, planned_<name>. Density and parameters are exact where the plan is; inference FLOPs
    are an estimate as long as weights are still to be pruned: as large a share of each layer's
    weights as now is taken to matter then, and layers that are ranked together to shrink alike.
    """
    positions = cost.layer_positions(model, input_shape)
    nonzero = cost.nonzero_counts(model)
    try:
        counts = effective_counts(model, wiring)
    except UnsupportedLayer:
        counts = nonzero
    found = {
        "density": cost.density(model),
        "num_active_parameters": float(cost.num_active_parameters(model)),
        "num_grafted_units": float(cost.num_grafted_units(model)),
        "inference_flops": float(cost.flops(counts, positions)),
        "dense_inference_flops": float(cost.flops(cost.dense_counts(model), positions)),
    }
    if final is None:
        return found
    flops_per_weight = {n: 2.0 * positions[n] * counts[n] / max(nonzero[n], 1) for n in positions}
    num_kept = sum(final.weights.values())
    grown = num_kept - sum(nonzero.values())
    lines = 2.0 * (final.grafted_units - found["num_grafted_units"])
    return {
        **found,
        "planned_density": num_kept / sum(cost.dense_counts(model).values()),
        "planned_num_active_parameters": found["num_active_parameters"] + round(grown + lines),
        "planned_inference_flops": sum(
            kept * flops_per_weight[name] for name, kept in final.weights.items()
        ),
    }


def first_examples(split: Split, examples: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `examples` of a split; all of them when None or when there are fewer."""
    return split.x[:examples], split.y[:examples]
