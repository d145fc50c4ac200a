"""Linearity grafting of trained tickets: accuracy and unstable ReLUs, as Markdown tables.

    uv run benchmarks/grafting.py [digits] [mnist5k]

A ticket is trained, then grafted at each fraction (0 only trains on, for as many epochs).
Accuracies are of the validation split by the cascade ibp + crown-ibp + crown; unstable ReLUs are
counted by interval bounds at the same radius, and both are means over seeds. Nothing is selected.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from analysis import GraftReport, Ticket, graft_ticket, save_ticket
from spaces import TrialConfig
from trainers import train
from trainers.data import load_data

FRACTIONS = (0.0, 0.05, 0.2, 0.5)
DIGITS = {
    "data": {"name": "digits"}, "evaluation": {"radius": 0.05}, "epochs": 30, "batch_size": 32,
    "model": {"family": "mlp", "widths": [128, 64]}, "epsilon": {"warmup": 0.1, "ramp_end": 0.6},
    "topology": {"method": "rigl", "density": 0.2, "update_every": 20}, "optimizer": {"lr": 0.005},
}  # fmt: skip
MNIST = {
    "data": {"name": "mnist5k", "validation_fraction": 0.1, "test_fraction": 0.1},
    "evaluation": {"radius": 0.1}, "epochs": 18, "batch_size": 128,
    "model": {"family": "cnn", "channels": [16, 32], "hidden": [100]},
    "loss": {"name": "ibp", "kappa": 0.3}, "epsilon": {"ramp_end": 0.6},
    "topology": {"method": "rigl", "density": 0.1, "update_every": 50}, "optimizer": {"lr": 0.005},
}  # fmt: skip
SETUPS: dict[str, list[tuple[str, dict[str, Any], tuple[int, ...], int]]] = {
    "digits": [
        ("ibp", {**DIGITS, "loss": {"name": "ibp", "kappa": 0.3}}, (0, 1, 2), 10),
        ("natural", {**DIGITS, "loss": {"name": "natural"}}, (0, 1, 2), 10),
    ],
    "mnist5k": [("ibp", MNIST, (0,), 8)],
}


def reports(config: TrialConfig, epochs: int) -> dict[tuple[float, str], GraftReport]:
    """The ticket of a training, grafted in every way."""
    training = train(config, load_data(config.data, "cpu"))
    ticket = Ticket.from_training(training, training.final_metrics())
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_ticket(ticket, Path(scratch) / "ticket")
        for fraction in FRACTIONS:
            for by in ("activation", "gradient") if fraction else ("activation",):
                place = Path(scratch) / f"{fraction}-{by}"
                found[fraction, by] = graft_ticket(
                    folder, place, fraction=fraction, epochs=epochs, significance=by, onnx=False
                )
    return found


def row(label: str, figures: list[Any]) -> str:
    """One row: means over seeds."""
    names = ("natural_accuracy", "verified_accuracy")
    accuracies = [f"{100 * mean(f[name] for f in figures):.1f}" for name in names]
    unstable = f"{mean(f['unstable_relus'] for f in figures):.1f}"
    lines = f"{mean(f['num_grafted_units'] for f in figures):.0f}"
    return f"| {label} | {lines} | {' | '.join(accuracies)} | {unstable} |"


def main() -> None:
    for name in sys.argv[1:] or SETUPS:
        for loss, tree, seeds, epochs in SETUPS[name]:
            started = time.perf_counter()
            configs = [TrialConfig.model_validate({**tree, "seed": seed}) for seed in seeds]
            runs = [reports(config, epochs) for config in configs]
            made = next(iter(runs[0].values())).provenance
            seconds = time.perf_counter() - started
            print(
                f"\n{name}, loss {loss}: {made.split} split, {made.num_examples} examples, radius "
                f"{made.radius:g}, bound {made.bound}, seeds {len(seeds)}, {seconds:.0f} s\n\n"
                "| ticket | lines | natural % | verified % | unstable ReLUs |\n"
                "|---|--:|--:|--:|--:|"
            )
            print(row("as trained", [next(iter(run.values())).before for run in runs]))
            for fraction, by in runs[0]:
                label = f"fraction {fraction:g}" + (f", {by}" if fraction else "")
                print(row(label, [run[fraction, by].after for run in runs]), flush=True)


if __name__ == "__main__":
    main()
