"""A trial without torch: figures follow from its configuration, failures from its number."""

import errno
import os
import resource
import signal
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
    """`faults` maps a trial's number to what goes wrong in its second epoch, or at its end.

    A fault whose name ends with " once" happens once in `diary`, a folder; there each epoch that is
    begun leaves a line `trial epoch pid` in the file `epochs`.
    """

    faults: Mapping[int, str] = field(default_factory=dict)
    epoch_seconds: float = 0.0
    diary: Path | None = None

    def prepare(self, study: StudyConfig) -> None:
        pass

    def __call__(self, job: TrialJob) -> "ToyTrial":
        return ToyTrial(self, job)

    def release(self) -> None:
        pass

    def epochs_run(self) -> list[tuple[int, int]]:
        """Trial and epoch of every epoch that was begun, in order."""
        assert self.diary is not None
        lines = (self.diary / "epochs").read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def pids(self) -> set[int]:
        """The processes that ran them."""
        assert self.diary is not None
        return {int(line.split()[2]) for line in (self.diary / "epochs").read_text().splitlines()}


class ToyTrial:
    def __init__(self, factory: ToyFactory, job: TrialJob) -> None:
        self.factory, self.job = factory, job
        self.fault = factory.faults.get(job.number, "")
        self.epoch = 0

    @property
    def finished(self) -> bool:
        return self.epoch >= self.job.config.epochs

    def run_epoch(self) -> Measurement:
        self.epoch += 1
        if self.factory.diary is not None:
            with (self.factory.diary / "epochs").open("a") as file:
                file.write(f"{self.job.number} {self.epoch} {os.getpid()}\n")
        time.sleep(self.factory.epoch_seconds)
        if self.epoch == 2:
            self._go_wrong()
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

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]

    def _go_wrong(self) -> None:
        fault = self.fault.removesuffix(" once")
        if fault != self.fault:
            assert self.factory.diary is not None
            mark = self.factory.diary / f"fault of {self.job.number}"
            if mark.exists():
                return
            mark.touch()
        if fault == "diverges":
            raise ValueError("the loss became nan")
        if fault == "breaks":
            raise RuntimeError("device-side assert triggered")
        if fault == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "takes all memory":
            limit = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (2**32, limit[1]))
            bytearray(2**36)
        if fault == "hangs":
            time.sleep(600)
        if fault == "fills the disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        if fault == "interrupt":
            raise KeyboardInterrupt

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
            "planned_inference_flops": 1e6 * density,
        }
