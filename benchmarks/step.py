"""Time of one training step: every loss, and sparse against dense.

    uv run benchmarks/step.py [--repeats 100] [--batch 128] [--variants NAME ...]

Mean CPU time of one thread, and its ratio to the natural step. Steps of the variants alternate, so
that drift of the machine hits all alike. The inputs are random: only time is measured. `ramp` is a
step while epsilon grows, when the warm-up terms are computed too; `rigl` and `sparsevlr` are at
density 0.1 with an update of the masks every 100 steps, the default: one in 100 repeats, which the
mean includes.
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
RIGL = {"method": "rigl", "density": 0.1, "update_end": 1.0}
SPARSEVLR = {**RIGL, "method": "sparsevlr"}
DENSE = {"method": "dense"}
IBP, CROWN_IBP = {"name": "ibp"}, {"name": "crown_ibp", "beta_end": 1.0}
# Name: loss, topology, whether epsilon is still growing (then the warm-up terms are computed too).
VARIANTS = {
    "natural": ({"name": "natural"}, DENSE, False),
    "ibp": (IBP, DENSE, False),
    "ibp, ramp": (IBP, DENSE, True),
    "crown_ibp": (CROWN_IBP, DENSE, False),
    "crown_ibp, ramp": (CROWN_IBP, DENSE, True),
    "crown_ibp, unfused": ({**CROWN_IBP, "fusion": False}, DENSE, False),
    **{
        name: ({"name": name}, DENSE, False) for name in ("pgd", "sabr", "mtl_ibp", "taps", "staps")
    },
    "natural, rigl": ({"name": "natural"}, RIGL, False),
    "ibp, rigl": (IBP, RIGL, False),
    "ibp, sparsevlr": (IBP, SPARSEVLR, False),
}
FIRST_STEP, LAST_STEP = 300, 900


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


def step_function(
    model: dict, loss: dict, topology: dict, ramp: bool, data: Data, batch: int
) -> Callable[[], None]:
    """A function that makes one step, within or after the epsilon ramp."""
    config = TrialConfig.model_validate(
        {
            "data": {"name": "mnist5k"}, "evaluation": {"radius": 0.1}, "epochs": 10,
            "batch_size": batch, "model": model, "loss": loss, "topology": topology,
            "epsilon": {"warmup": 0.0, "ramp_end": 1.0 if ramp else 0.1},
        }
    )  # fmt: skip
    training = build(config, data)
    x, y = data.train.x[:batch], data.train.y[:batch]
    training.model.train()
    training.step = FIRST_STEP

    def step() -> None:
        if training.step >= LAST_STEP:
            training.step = FIRST_STEP
        training.train_step(x, y)

    return step


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Mean CPU seconds of a step of each variant; steps alternate, the first three do not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 3):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if repeat >= 3:
                times[name].append(time.process_time() - started)
    return {name: statistics.mean(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--variants", nargs="*", choices=tuple(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    variants = {name: VARIANTS[name] for name in ("natural", *arguments.variants)}
    torch.set_num_threads(1)
    data = random_mnist(arguments.batch)
    print(f"torch {torch.__version__}, batch {arguments.batch}, {arguments.repeats} repeats")
    print(f"{'':20}" + "".join(f"{name:>19}" for name in variants))
    for label, model in MODELS.items():
        steps = {
            name: step_function(model, *variant, data, arguments.batch)
            for name, variant in variants.items()
        }
        seconds = measure(steps, arguments.repeats)
        cells = [f"{s * 1e3:7.1f} ms {s / seconds['natural']:6.2f}x" for s in seconds.values()]
        print(f"{label:20}" + "".join(f"{cell:>19}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
