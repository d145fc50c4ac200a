"""Every export of sparse certified networks: size, speed and agreement beside dense ONNX.

    uv run benchmarks/export.py [--tickets DIR] [--only NAME ...] [--rounds 3]

Trains the networks below on mnist5k at radius 0.1 (IBP or MTL-IBP, seed 0), unless DIR has their
tickets from an earlier run, and exports each by every route, `--rounds` times over. An export
compares what it wrote with the PyTorch model on validation images and times all routes in turns
with the dense ONNX network of the same architecture (ONNX Runtime, one thread); of the rounds, the
one with the median speed-up is kept. Times include the call from Python: ONNX Runtime with bound
inputs and outputs, C by ctypes. Writes benchmarks/results/export.csv and export_sizes.csv.
"""

from __future__ import annotations

import argparse
import csv
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rows import RESULTS

from analysis.export import export_ticket
from analysis.exports import ROUTES
from analysis.manifest import ExportRecord
from analysis.ticket import Ticket, load_ticket, save_ticket
from spaces import TrialConfig
from trainers import train
from trainers.data import load_data

COLUMNS = (
    "network", "natural", "verified", "density", "route", "bytes", "xz", "batch_1_us",
    "batch_256_us", "dense_1_us", "dense_256_us", "speedup_1", "speedup_256", "max_difference",
    "agreement", "machine",
)  # fmt: skip
SIZE_COLUMNS = (
    "network", "density", "kept", "dense_bytes", "entropy_bound", "csr", "csr_xz", "over_bound",
    "compacted_flops", "inference_flops", "dense_flops", "flash_bytes", "ram_bytes",
)  # fmt: skip
BASE: dict[str, Any] = {
    "data": {"name": "mnist5k", "validation_fraction": 0.1, "test_fraction": 0.1},
    "evaluation": {"radius": 0.1, "budget_s": 60.0}, "epochs": 20, "batch_size": 128,
    "loss": {"name": "ibp", "kappa": 0.1}, "epsilon": {"warmup": 0.05, "ramp_end": 0.5},
    "optimizer": {"name": "adam", "lr": 0.005},
}  # fmt: skip
CNN = {"family": "cnn", "channels": [16, 32], "hidden": [100]}
NETWORKS: dict[str, dict[str, Any]] = {
    "cnn 5 %": {"model": CNN, "topology": {"method": "gmp", "density": 0.05}},
    "cnn 2 %": {"model": CNN, "topology": {"method": "gmp", "density": 0.02}},
    "cnn x2 2 %": {
        "model": {**CNN, "width_factor": 2.0}, "topology": {"method": "gmp", "density": 0.02},
    },
    "cnn units 20 %": {
        "model": CNN, "topology": {"method": "gmp", "density": 0.2, "granularity": "unit"},
    },
    "mlp 1 %": {
        "model": {"family": "mlp", "widths": [512, 256]},
        "topology": {"method": "gmp", "density": 0.01},
    },
    "mlp 5 %": {
        "model": {"family": "mlp", "widths": [512, 256]},
        "topology": {"method": "gmp", "density": 0.05},
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickets", type=Path, default=Path("tickets/export-benchmark"))
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows, sizes = [], []
    for name in arguments.only:
        folder = arguments.tickets / name.replace(" ", "-").replace("%", "percent")
        if not (folder / "ticket.json").exists():
            save_ticket(trained(name), folder)
        tickets = [exported(folder) for _ in range(arguments.rounds)]
        rows += [row(name, tickets, route) for route in ROUTES]
        sizes.append(size_row(name, tickets[0]))
        for found in (*rows[-len(ROUTES) :], sizes[-1]):
            print(found, flush=True)
    write("export.csv", COLUMNS, rows)
    write("export_sizes.csv", SIZE_COLUMNS, sizes)


def trained(name: str) -> Ticket:
    """The ticket of a network, trained anew."""
    config = TrialConfig.model_validate({**BASE, **NETWORKS[name]})
    training = train(config, load_data(config.data, torch.device("cpu")))
    return Ticket.from_training(training, training.final_metrics())


def exported(folder: Path) -> Ticket:
    """A ticket with all its exports, which were timed just now."""
    return load_ticket(
        export_ticket(folder, folder.with_name(f"{folder.name}-exported"), routes=tuple(ROUTES))
    )


def row(name: str, tickets: Sequence[Ticket], route: str) -> dict[str, Any]:
    """One route: of the rounds, the one whose speed-up is the median."""
    records = sorted((ticket.exports[route] for ticket in tickets), key=speedup)
    record, metrics = records[len(records) // 2], tickets[0].metrics
    assert record.latency_s and record.latency_256_s
    assert record.dense_latency_s and record.dense_latency_256_s
    return {
        "network": name,
        "natural": f"{metrics['natural_accuracy']:.3f}",
        "verified": f"{metrics['verified_accuracy']:.3f}",
        "density": f"{metrics['density']:.4f}",
        "route": route,
        "bytes": record.bytes,
        "xz": record.compressed_bytes,
        "batch_1_us": f"{1e6 * record.latency_s:.1f}",
        "batch_256_us": f"{1e6 * record.latency_256_s:.0f}",
        "dense_1_us": f"{1e6 * record.dense_latency_s:.1f}",
        "dense_256_us": f"{1e6 * record.dense_latency_256_s:.0f}",
        "speedup_1": f"{record.dense_latency_s / record.latency_s:.2f}",
        "speedup_256": f"{record.dense_latency_256_s / record.latency_256_s:.2f}",
        "max_difference": f"{record.max_abs_difference:.2g}",
        "agreement": f"{record.agreement:.4f}",
        "machine": platform.machine(),
    }


def speedup(record: ExportRecord) -> float:
    """How many times faster than dense ONNX, one example at a time."""
    return record.speedup or 0.0


def size_row(name: str, ticket: Ticket) -> dict[str, Any]:
    """The sparse rows beside the entropy bound of mask and values."""
    record, footprint, metrics = ticket.exports["csr"], ticket.footprint, ticket.metrics
    assert footprint is not None
    return {
        "network": name,
        "density": f"{metrics['density']:.4f}",
        "kept": sum(layer.kept for layer in ticket.layers.values()),
        "dense_bytes": ticket.exports["onnx"].bytes,
        "entropy_bound": footprint.entropy_bound_bytes,
        "csr": record.bytes,
        "csr_xz": record.compressed_bytes,
        "over_bound": f"{record.compressed_bytes / footprint.entropy_bound_bytes:.3f}",
        "compacted_flops": footprint.compacted_flops,
        "inference_flops": int(metrics["inference_flops"]),
        "dense_flops": int(metrics["dense_inference_flops"]),
        "flash_bytes": footprint.flash_bytes,
        "ram_bytes": footprint.ram_bytes,
    }


def write(name: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with (RESULTS / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
