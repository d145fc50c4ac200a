"""Every study in examples/ runs: each of its topology methods for two steps."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from spaces import StudyConfig
from spaces.metrics import metric
from trainers import build
from trainers.data import Data, load_data
from trainers.topology import METHODS, Layout, build_topology

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
STUDIES = {path.stem: StudyConfig.from_yaml(path) for path in EXAMPLES}


CASES = [
    pytest.param(name, method, id=f"{name}-{method}")
    for name, study in STUDIES.items()
    for method in study.search_space().topology_methods()
]


@dataclass
class Smallest:
    """A sampler's trial with one topology method, and the first value of everything else."""

    method: str

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        return low

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        return low

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        return self.method if name == "topology.method" else choices[0]


@cache
def data_of(name: str) -> Data:
    space = STUDIES[name].search_space()
    config = space.decode(space.suggest(Smallest(space.topology_methods()[0])))
    return load_data(config.data, torch.device("cpu"))


@pytest.mark.parametrize(("name", "method"), CASES)
def test_two_steps_of_every_method_of_every_example(name: str, method: str) -> None:
    space, data = STUDIES[name].search_space(), data_of(name)
    training = build(space.decode(space.suggest(Smallest(method))), data)
    size = training.batches.size
    for step in range(2):
        batch = slice(step * size, (step + 1) * size)
        terms = training.train_step(data.train.x[batch], data.train.y[batch])
        assert torch.isfinite(terms.total)
    training.sparsifier.settle()
    for weight_name, weight in training.weights.items():
        assert not weight[~training.masks[weight_name]].any()


def test_the_study_that_compares_methods_has_every_sparse_one() -> None:
    every = {cls.model_fields["method"].default for cls in METHODS} - {"dense"}
    assert set(STUDIES["methods"].search_space().topology_methods()) == every


def test_metrics_of_the_dense_twin_are_announced_for_the_methods_that_keep_one() -> None:
    layout = Layout({"fc1.weight": torch.Size([8, 8]), "out.weight": torch.Size([4, 8])})
    keeping = {
        cls.model_fields["method"].default
        for cls in METHODS
        if cls.model_fields["method"].default != "slimming"  # wants units; keeps no twin
        and any(build_topology(cls(), layout, 40).phase(step).keeps_twin for step in range(1, 41))
    }
    assert keeping == set(metric("dense_twin_natural_accuracy").methods)
    assert keeping == set(metric("dense_twin_verified_accuracy").methods)
