"""A trial without torch: figures follow from its configuration, failures from its number."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.trial import Measurement, TrialJob
from spaces import StudyConfig


def toy_study(folder: Path, **changes: Any) -> StudyConfig:
    tree: dict[str, Any] = {
        "name": "toy",
        "data": {"name": "digits"},
        "evaluation": {"radius": 0.1, "certify_front": False},  # there is nothing in its tickets
        "space": {
            "topology": {
                "choice": [
                    {"method": "static", "density": {"low": 0.1, "high": 1.0}},
                    {"method": "rigl", "density": {"low": 0.1, "high": 1.0}},
                ]
            },
            "optimizer": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}},
        },
        "sampler": {"name": "random"},
        "scheduler": {"name": "fifo"},
        "budget": {"trials": 4, "epochs": 3},
        "resources": {"concurrent": 2},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "storage": {"path": str(folder / "runs")},
    }
    return StudyConfig.from_dict({**tree, **changes})


@dataclass
class ToyFactory:
    """`faults` maps a trial's number to what goes wrong in its second epoch, or at its end."""

    faults: Mapping[int, str] = field(default_factory=dict)
    epoch_seconds: float = 0.0

    def prepare(self, study: StudyConfig) -> None:
        pass

    def __call__(self, job: TrialJob) -> "ToyTrial":
        return ToyTrial(job, self.faults.get(job.number, ""), self.epoch_seconds)

    def release(self) -> None:
        pass


class ToyTrial:
    def __init__(self, job: TrialJob, fault: str, epoch_seconds: float) -> None:
        self.job, self.fault, self.epoch_seconds = job, fault, epoch_seconds
        self.epoch = 0

    @property
    def finished(self) -> bool:
        return self.epoch >= self.job.config.epochs

    def run_epoch(self) -> Measurement:
        self.epoch += 1
        time.sleep(self.epoch_seconds)
        if self.epoch == 2:
            if self.fault == "diverges":
                raise ValueError("the loss became nan")
            if self.fault == "breaks":
                raise MemoryError("no memory is left")
            if self.fault == "dies":
                os._exit(9)
            if self.fault == "interrupt":
                raise KeyboardInterrupt
        return Measurement(self._metrics(), {"split": "validation", "bound": "ibp"})

    def finish(self) -> Measurement:
        self.job.ticket.mkdir(parents=True, exist_ok=True)
        (self.job.ticket / "ticket.json").write_text("{}")
        metrics = self._metrics()
        if self.fault == "nan":
            metrics["verified_accuracy"] = float("nan")
        if self.fault == "missing":
            metrics.pop("verified_accuracy", None)
        return Measurement(metrics, {"split": "validation", "bound": "ibp+crown"}, self.job.ticket)

    def _metrics(self) -> dict[str, float]:
        density = self.job.config.topology.density  # type: ignore[union-attr]
        lr = self.job.config.optimizer.lr
        if self.fault == "missing":
            return {"epoch": float(self.epoch), "rung_score": lr}
        return {
            "epoch": float(self.epoch),
            "rung_score": lr,
            "natural_accuracy": 0.5 + density / 2,
            "verified_accuracy": density * self.epoch / self.job.config.epochs,
            "inference_flops": 1e6 * density,
        }
