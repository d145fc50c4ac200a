"""The verification cascade, against CROWN and alpha-CROWN over all images, auto_LiRPA's and ours.

    uv run benchmarks/verify.py [--examples 500] [--density 0.05] [--workers 2] [--ticket DIR ...]

Trains the small CNN of docs/losses.md on mnist5k, dense and by gmp at the given density (IBP loss,
seed 0), or loads tickets. Then, in one process and on the same test images at the ticket's radius:
the cascade, step by step; then each alternative as it is used without a cascade, on every image.
auto_LiRPA's alpha-CROWN, 20 iterations as by its default, gets the first --alpha-examples images
only, and is compared by its time for one image. Seconds are of judging alone: imports, conversion
and a first small call come before. Writes benchmarks/results/verify.csv.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.ticket import load_ticket
from spaces import TrialConfig
from trainers import train
from trainers.bounds import ball
from trainers.bounds.crown import specification
from trainers.bounds.lirpa import load_auto_lirpa, quiet
from trainers.bounds.lirpa_adaptations import subscriptable_nodes
from trainers.data import load_data
from trainers.verify import VerificationResult, verify

RESULTS = Path(__file__).parent / "results" / "verify.csv"
COLUMNS = (
    "network", "radius", "examples", "step", "reached", "decided", "verified", "seconds",
    "images_per_s", "note",
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "data": {"name": "mnist5k", "validation_fraction": 0.1, "test_fraction": 0.1},
    "evaluation": {"radius": 0.1}, "epochs": 30, "batch_size": 64,
    "model": {"family": "cnn", "channels": [16, 32], "hidden": [100]},
    "loss": {"name": "ibp", "kappa": 0.1}, "epsilon": {"warmup": 0.05, "ramp_end": 0.5},
    "optimizer": {"name": "adam", "lr": 0.005},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--alpha-examples", type=int, default=10)
    parser.add_argument("--ticket", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, config, model in networks(arguments.density, arguments.ticket):
        test = load_data(config.data, torch.device("cpu")).test
        x, y_B = test.x[: arguments.examples], test.y[: arguments.examples]
        rows += measure(name, model, x, y_B, config.evaluation.radius, arguments)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def networks(density: float, tickets: list[str]) -> list[tuple[str, TrialConfig, nn.Module]]:
    """Names, configurations and trained networks."""
    if tickets:
        loaded = [(folder, load_ticket(folder)) for folder in tickets]
        return [(folder, ticket.config, ticket.model()) for folder, ticket in loaded]
    found = []
    for name, topology in (
        ("dense", {"method": "dense"}),
        (f"gmp at density {density:g}", {"method": "gmp", "density": density}),
    ):
        config = TrialConfig.model_validate({**CONFIG, "topology": topology})
        training = train(config, load_data(config.data, torch.device("cpu")))
        found.append((name, config, training.model.eval()))
    return found


def measure(
    name: str, model: nn.Module, x: Tensor, y_B: Tensor, radius: float, arguments: Any
) -> list[dict[str, Any]]:
    """Rows of one network, printed as they come."""
    rows: list[dict[str, Any]] = []

    def row(
        step: str, reached: int, decided: int, verified: int, seconds: float, note: str
    ) -> None:
        entry = {
            "network": name, "radius": radius, "examples": len(y_B), "step": step,
            "reached": reached, "decided": decided, "verified": verified,
            "seconds": round(seconds, 3), "images_per_s": round(reached / max(seconds, 1e-9), 2),
            "note": note,
        }  # fmt: skip
        rows.append(entry)
        print("  ".join(f"{k}={v}" for k, v in entry.items()), flush=True)

    verify(model, x[:20], y_B[:20], radius)  # imports what Adam needs, too
    result = verify(model, x, y_B, radius, workers=arguments.workers)
    for step in result.steps:
        verdicts = [
            v for v, m in zip(result.verdicts, result.method, strict=True) if m == step.name
        ]
        row(
            step.name, step.num_examples, step.num_decided, verdicts.count("verified"),
            step.seconds, "cascade",
        )  # fmt: skip
    decided = len(y_B) - result.verdicts.count("unknown")
    row(
        "cascade", len(y_B), decided, result.verdicts.count("verified"), result.seconds,
        solver(result),
    )  # fmt: skip
    per_image = result.seconds / len(y_B)
    for label, methods in (("CROWN", ("crown",)), ("alpha-CROWN", ("crown", "alpha-crown"))):
        alone = verify(model, x, y_B, radius, methods=methods, attack_steps=0)
        proven = alone.verdicts.count("verified")
        ratio = alone.seconds / len(y_B) / per_image
        row(f"our {label}, all images", len(y_B), proven, proven, alone.seconds, told(ratio))
    for label, method, count in (
        ("CROWN", "CROWN", len(y_B)),
        ("alpha-CROWN", "CROWN-Optimized", arguments.alpha_examples),
    ):
        seconds, proven = by_auto_lirpa(model, x[:count], y_B[:count], radius, method)
        ratio = seconds / count / per_image
        row(f"auto_LiRPA {label}", count, proven, proven, seconds, told(ratio))
    return rows


def told(ratio: float) -> str:
    """The time for one image, in those of the cascade."""
    return f"{ratio:.1f} times the cascade per image"


def solver(result: VerificationResult) -> str:
    """What came to the exact step."""
    sizes = sorted(result.num_open_relus.values())
    if not sizes:
        return "none reached the solver"
    exact = next(step for step in result.steps if step.name == "exact")
    return (
        f"solver: {len(sizes)} examples, open ReLUs {sizes[0]} to {sizes[-1]}, median "
        f"{statistics.median(sizes):g}, mean {exact.seconds / len(sizes):.2f} s"
    )


def by_auto_lirpa(
    model: nn.Module, x: Tensor, y_B: Tensor, radius: float, method: str
) -> tuple[float, int]:
    """Seconds for all images, in batches of 10, and how many of them auto_LiRPA proves.

    It gets the network behind its normalisation, and the box behind it, with its own default
    options: without its sparse intermediate bounds alpha-CROWN took seven times as long here.
    """
    lirpa, normalize, plain = load_auto_lirpa(), model[0], model[1:]
    with quiet(), subscriptable_nodes():
        bounded = lirpa.BoundedModule(plain, normalize(x[:2]))
    started, proven = time.perf_counter(), 0
    for i in torch.arange(len(y_B)).split(10):
        center, lower, upper = (normalize(t) for t in (x[i], *ball(x[i], radius)))
        box = lirpa.PerturbationLpNorm(norm=torch.inf, eps=radius, x_L=lower, x_U=upper)
        with quiet():
            logits_BK = plain(center)
            rows, _ = specification(y_B[i], logits_BK.shape[1], logits_BK)
            C = rows.view(len(i), -1, logits_BK.shape[1])
            inputs = (lirpa.BoundedTensor(center, box),)
            lower_BJ = bounded.compute_bounds(x=inputs, C=C, method=method, bound_upper=False)[0]
        proven += int((lower_BJ.amin(1) > 0).sum())
    return time.perf_counter() - started, proven


if __name__ == "__main__":
    main()
