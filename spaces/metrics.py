"""The names of what is measured, and conditions on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spaces.base import ConfigError
from spaces.reading import show, suggest_name

Direction = Literal["maximize", "minimize", "none"]


@dataclass(frozen=True)
class Metric:
    """A measured number: which way is better, its unit, and what it is.

    `methods` are the topology methods whose trials have it; empty when every trial has it.
    `of_front`: it is found after the search, for members of the front only. `of_plan`: it is what
    is planned for the end, known before it; for early stopping, never an aim of its own.
    `stand_in`: what is compared in its place before the end of training. `on_request`: the setting
    without which it is not measured.
    """

    name: str
    direction: Direction
    unit: str
    description: str
    methods: tuple[str, ...] = ()
    of_front: bool = False
    of_plan: bool = False
    stand_in: str = ""
    on_request: str = ""

    @property
    def is_objective(self) -> bool:
        """Whether trials can be searched by it: more or less is better, and all end with it."""
        return self.direction != "none" and not self.of_front and not self.of_plan

    @property
    def has_plan(self) -> bool:
        """Whether reports say, as planned_<name>, what it will be at the end of training."""
        return self.name in ("density", "num_active_parameters", "inference_flops")

    @property
    def is_static(self) -> bool:
        """Whether it is known from a trial's beginning, and training barely moves it."""
        return self.has_plan or self.name == "dense_inference_flops" or bool(self.stand_in)


SHARE = "fraction"
"""The unit of metrics from 0 to 1."""
_WITH_TWIN = ("acdc", "deadwooding")
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("natural_accuracy", "maximize", SHARE, "Correctly classified examples."),
        Metric("verified_accuracy", "maximize", SHARE, "Examples proved robust at the radius."),
        Metric(
            "falsified_accuracy_bound",
            "maximize",
            SHARE,
            "1 - falsified share: an upper bound on the robust accuracy.",
        ),
        Metric("density", "minimize", SHARE, "Non-zero weights over all prunable weights."),
        Metric("num_active_parameters", "minimize", "count", "Parameters that are not zero."),
        Metric("num_grafted_units", "none", "count", "ReLUs replaced by learned lines."),
        Metric(
            "inference_flops",
            "minimize",
            "flop",
            "One example, non-zero weights that can influence the logits: what compaction leaves.",
        ),
        *(
            Metric(
                f"planned_{name}",
                "minimize",
                unit,
                f"{name} at the end of training, as planned now{how}.",
                of_plan=True,
            )
            for name, unit, how in (
                ("density", SHARE, ""),
                ("num_active_parameters", "count", ""),
                ("inference_flops", "flop", ": an estimate while weights are still to be pruned"),
            )
        ),
        Metric("dense_inference_flops", "minimize", "flop", "The same network without zeros."),
        *(
            Metric(name, "minimize", unit, text, stand_in=f"planned_{stand_in}")
            for name, unit, text, stand_in in (
                (
                    "compacted_flops",
                    "flop",
                    "One example, the compacted network with its zeros: what dense code computes.",
                    "inference_flops",
                ),
                (
                    "flash_bytes",
                    "B",
                    "Weights, indices and constants of the generated C.",
                    "num_active_parameters",
                ),
                (
                    "ram_bytes",
                    "B",
                    "Static memory of the generated C: all activations of one example.",
                    "inference_flops",
                ),
            )
        ),
        *(
            Metric(
                name,
                "minimize",
                "s",
                f"{text} through the compacted network: ONNX Runtime, one thread, median.",
                stand_in="planned_inference_flops",
                on_request="evaluation.latency",
            )
            for name, text in (("latency_s", "One example"), ("latency_256_s", "256 examples"))
        ),
        Metric(
            "training_flops",
            "minimize",
            "flop",
            "The whole training as it was spent: dense phases, gradients and searches included.",
        ),
        Metric("epoch", "none", "count", "Epochs trained."),
        Metric("train_epsilon", "none", "data units", "Training radius at the end of the epoch."),
        Metric(
            "rung_score",
            "maximize",
            SHARE,
            "IBP-verified accuracy, as evaluation.rung_score says.",
        ),
        *(
            Metric(f"unstable_{what}_{bound}", "minimize", unit, f"{text} {means}.")
            for what, unit, text in (
                ("relus", "count", "ReLUs per example that may be on either side of zero by"),
                ("share", SHARE, "The same, over all ReLUs, by"),
            )
            for bound, means in (("ibp", "interval bounds"), ("crown", "CROWN's bounds"))
        ),
        Metric(
            "exact_verified_accuracy",
            "maximize",
            SHARE,
            "Examples proved robust by exact verdicts; of members of the front.",
            of_front=True,
        ),
        Metric(
            "exact_falsified_accuracy_bound",
            "maximize",
            SHARE,
            "1 - falsified share by exact verdicts; the same where none is open.",
            of_front=True,
        ),
        Metric("duration_s", "minimize", "s", "Wall time of the trial."),
        Metric(
            "dense_twin_natural_accuracy",
            "maximize",
            SHARE,
            "natural_accuracy of the dense network as it was just before the last cut.",
            _WITH_TWIN,
        ),
        Metric(
            "dense_twin_verified_accuracy",
            "maximize",
            SHARE,
            "verified_accuracy of the dense network as it was just before the last cut.",
            _WITH_TWIN,
        ),
    )
}
_AT = "verified_accuracy_at_"


def radius_metric(radius: float) -> str:
    """The metric of a further radius: `verified_accuracy_at_0.1`."""
    return f"{_AT}{radius:g}"


def metric(name: str) -> Metric:
    """The metric of a name; raise ConfigError with the nearest known name otherwise."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith(_AT):
        try:
            radius = float(name.removeprefix(_AT))
        except ValueError:
            radius = math.nan
        if math.isfinite(radius) and radius > 0.0 and name == radius_metric(radius):
            return Metric(name, "maximize", SHARE, f"Examples proved robust at radius {radius:g}.")
        raise ConfigError(
            f"{show(name)}: the radius must be written as a plain positive number, "
            f"for example {radius_metric(0.1)}"
        )
    hint = suggest_name(name, (*METRICS, f"{_AT}<radius>"))
    raise ConfigError(f"{show(name)} is no metric{hint}")
