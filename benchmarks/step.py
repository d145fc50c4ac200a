"""Time of one training step: natural, natural + IBP, natural + CROWN-IBP, and sparse against dense.

    uv run benchmarks/step.py [--repeats 40] [--batch 128]

Steps of the variants alternate, so that drift of the machine hits all alike; medians are compared.
One torch thread. The model inputs are random: only time is measured.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from spaces import TrialConfig
from trainers import build
from trainers.data import Data, Split

MODELS = {
    "mlp 784-256-128-10": {"family": "mlp", "widths": [256, 128]},
    "cnn 16-32-fc100": {"family": "cnn", "channels": [16, 32], "hidden": [100]},
    "cnn 16-32-fc100 BN": {
        "family": "cnn", "channels": [16, 32], "hidden": [100], "batch_norm": True,
    },
    "cnn7 width 8": {"family": "cnn7", "width": 8, "hidden": 64},
    "resnet width 8": {"family": "resnet", "width": 8},
}  # fmt: skip
RIGL = {"method": "rigl", "density": 0.1, "update_every": 50, "update_end": 1.0}
VARIANTS = {
    "natural": ({"name": "natural"}, {"method": "dense"}),
    "ibp": ({"name": "ibp"}, {"method": "dense"}),
    "crown_ibp": ({"name": "crown_ibp"}, {"method": "dense"}),
    "ibp + rigl": ({"name": "ibp"}, RIGL),
}


def random_mnist(batch: int) -> Data:
    """Random images of MNIST's shape: enough for timing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch * 100, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (batch * 100,), generator=generator)
    split = Split(x, y)
    return Data(
        name="random", train=split, validation=split, test=split, num_classes=10,
        input_shape=(1, 28, 28), mean=torch.tensor([0.5]), std=torch.tensor([0.5]),
    )  # fmt: skip


def step_function(model: dict, loss: dict, topology: dict, data: Data, batch: int) -> Callable:
    """A function that makes one step in the middle of the epsilon ramp."""
    config = TrialConfig.model_validate(
        {
            "data": {"name": "mnist5k"}, "evaluation": {"radius": 0.1}, "epochs": 10,
            "batch_size": batch, "model": model, "loss": loss, "topology": topology,
            "epsilon": {"warmup": 0.0, "ramp_end": 1.0},
        }
    )  # fmt: skip
    training = build(config, data)
    x, y = data.train.x[:batch], data.train.y[:batch]
    training.model.train()
    training.step = 300

    def step() -> None:
        if training.step >= 900:
            training.step = 300
        training.train_step(x, y)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = random_mnist(arguments.batch)
    print(f"torch {torch.__version__}, batch {arguments.batch}, {arguments.repeats} repeats")
    print(f"{'model':22}" + "".join(f"{name:>22}" for name in VARIANTS))
    for label, model in MODELS.items():
        steps = {
            name: step_function(model, *variant, data, arguments.batch)
            for name, variant in VARIANTS.items()
        }
        times: dict[str, list[float]] = {name: [] for name in steps}
        for name, step in steps.items():
            for _ in range(3):
                step()
        for _ in range(arguments.repeats):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - started)
        natural = statistics.median(times["natural"])
        cells = [
            f"{statistics.mean(t) * 1e3:9.1f} ms {statistics.median(t) / natural:6.2f}x"
            for t in times.values()
        ]
        print(f"{label:22}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
