"""Toy trials that leave word of the node, the code and the GPUs with which they run."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ray
from toy_trials import ToyFactory, ToyTrial

import spaces
from search.trial import Measurement, TrialJob


class Place(NamedTuple):
    trial: int
    epoch: int
    node: str
    gpus: str
    code: str


def places(folder: Path) -> list[Place]:
    """Where each epoch that was begun ran, in order."""
    path = folder / "places"
    lines = path.read_text().splitlines() if path.exists() else []
    words = [line.split(" ", 4) for line in lines]
    return [Place(int(w[0]), int(w[1]), *w[2:]) for w in words]


@dataclass
class PlacedFactory(ToyFactory):
    def __call__(self, job: TrialJob) -> "PlacedTrial":
        return PlacedTrial(self, job)


class PlacedTrial(ToyTrial):
    def run_epoch(self) -> Measurement:
        assert self.factory.diary is not None
        node = ray.get_runtime_context().get_node_id()
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "unset") or "none"
        with (self.factory.diary / "places").open("a") as file:
            file.write(f"{self.job.number} {self.epoch + 1} {node} {gpus} {spaces.__file__}\n")
        return super().run_epoch()
