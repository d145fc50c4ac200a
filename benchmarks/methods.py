"""Every topology method on the same data, network, loss and time: accuracy and what it costs.

    uv run benchmarks/methods.py [--data digits] [--data mnist5k] [--workers 2] [--only NAME ...]

Each run is one row of benchmarks/results/methods_<data>.csv; runs that have a row are not made
again, so that a stopped benchmark goes on where it was. Accuracies are of the validation split: by
interval bounds after the last epoch, and by the cascade ibp + crown-ibp + crown. Nothing is stopped
early or selected: a row is the network after the last step. `uv run benchmarks/methods_report.py`
makes the tables and the plots of docs/methods.md from the rows.

Beside the methods stand the dense network and small dense ones, whose hidden widths are scaled such
that their inference FLOPs come nearest to each density times those of the dense network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

from rows import RESULTS, read, work

from spaces import TrialConfig
from trainers import build
from trainers.cost import dense_flops
from trainers.data import Data, load_data
from trainers.models import build_model

SEEDS = (0, 1, 2)
COLUMNS = (
    "name", "density", "seed", "natural", "verified_ibp", "verified", "split", "examples", "radius",
    "bound", "kept", "inference_flops", "training_flops", "seconds", "config",
)  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "static": {"method": "static"},
    "snip": {"method": "snip"},
    "snip certified": {"method": "snip", "saliency": "certified"},
    "grasp": {"method": "grasp"},
    "synflow": {"method": "synflow"},
    "set": {"method": "set"},
    "rigl": {"method": "rigl"},
    "sparsevlr": {"method": "sparsevlr"},
    "rigl, drop stability": {"method": "rigl", "drop": "stability"},
    "rigl, every 20": {"method": "rigl", "update_every": 20},
    "sparsevlr, every 20": {"method": "sparsevlr", "update_every": 20},
    "ctre sequential": {"method": "ctre", "mode": "sequential", "patience": 5},
    "ctre simultaneous": {"method": "ctre", "mode": "simultaneous"},
    "gmp": {"method": "gmp"},
    "stability": {"method": "stability"},
    "gap": {"method": "gap"},
    "acdc": {"method": "acdc"},
    "deadwooding": {"method": "deadwooding"},
    "gibbs": {"method": "gibbs"},
    "hard_concrete": {"method": "hard_concrete"},
    "jackpots": {"method": "jackpots"},
    "static, units": {"method": "static", "granularity": "unit"},
    "sparsevlr, units": {"method": "sparsevlr", "granularity": "unit"},
    "gmp, units": {"method": "gmp", "granularity": "unit"},
    "stability, units": {"method": "stability", "granularity": "unit"},
    "acdc, units": {"method": "acdc", "granularity": "unit"},
    "gibbs, units": {"method": "gibbs", "granularity": "unit"},
    "slimming, units": {"method": "slimming"},
    "gmp, units, uniform": {"method": "gmp", "granularity": "unit", "distribution": "uniform"},
    "slimming, units, uniform": {"method": "slimming", "distribution": "uniform"},
}
NEED_BATCH_NORM = ("slimming, units", "slimming, units, uniform")
NRS_WEIGHT = {"stability": 0.001, "stability, units": 0.001}
SETUPS: dict[str, dict[str, Any]] = {
    "digits": {
        "densities": (0.5, 0.2, 0.1, 0.05, 0.02, 0.01),
        "methods": tuple(METHODS),
        "config": {
            "data": {"name": "digits"}, "evaluation": {"radius": 0.05}, "epochs": 30,
            "batch_size": 32, "model": {"family": "mlp", "widths": [128, 64]},
            "loss": {"name": "ibp", "kappa": 0.3}, "epsilon": {"warmup": 0.1, "ramp_end": 0.6},
            "optimizer": {"name": "adam", "lr": 0.005},
        },
    },
    "mnist5k": {
        "densities": (0.1, 0.05, 0.02),
        "methods": (
            "static", "rigl", "sparsevlr", "rigl, every 20", "gmp", "stability", "acdc", "gibbs",
        ),
        "config": {
            "data": {"name": "mnist5k", "validation_fraction": 0.1, "test_fraction": 0.1},
            "evaluation": {"radius": 0.1}, "epochs": 20, "batch_size": 64,
            "model": {"family": "cnn", "channels": [16, 32], "hidden": [100]},
            "loss": {"name": "ibp", "kappa": 0.1}, "epsilon": {"warmup": 0.05, "ramp_end": 0.5},
            "optimizer": {"name": "adam", "lr": 0.005},
        },
    },
}  # fmt: skip


@cache
def data_of(setup: str) -> Data:
    """The data of a setup, once per process."""
    return load_data(config_of(setup, {}).data, "cpu")


def config_of(setup: str, changes: dict[str, Any]) -> TrialConfig:
    """The setup's trial, with some settings changed."""
    return TrialConfig.model_validate({**SETUPS[setup]["config"], **changes})


def jobs(setup: str) -> Iterator[dict[str, Any]]:
    """Name, density, seed and configuration of every run."""
    base, densities = SETUPS[setup]["config"], SETUPS[setup]["densities"]
    for seed in SEEDS:
        yield _job("dense", 1.0, seed, {})
        for density in densities:
            model = {**base["model"], "width_factor": width_factor(setup, density)}
            yield _job("small dense", density, seed, {"model": model})
    needs_norm = [name for name in SETUPS[setup]["methods"] if name in NEED_BATCH_NORM]
    for seed in SEEDS if needs_norm else ():
        yield _job("dense, batch norm", 1.0, seed, {"model": {**base["model"], "batch_norm": True}})
    for seed in SEEDS:
        for density in densities:
            for name in SETUPS[setup]["methods"]:
                topology = {**METHODS[name], "density": density}
                model = {**base["model"], "batch_norm": name in NEED_BATCH_NORM}
                loss = {**base["loss"], "stability_weight": NRS_WEIGHT.get(name, 0.0)}
                changes = {"topology": topology, "model": model, "loss": loss}
                yield _job(name, density, seed, changes)


def _job(name: str, density: float, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "density": density, "seed": seed, "changes": {**changes, "seed": seed}}


@cache
def width_factor(setup: str, density: float) -> float:
    """The width factor of a dense network with about `density` of the FLOPs of the full one."""
    data, full = data_of(setup), config_of(setup, {}).model

    def cost(factor: float) -> int:
        model = full.model_copy(update={"width_factor": factor})
        shape = data.input_shape
        return dense_flops(
            build_model(model, shape, data.num_classes, data.mean, data.std, 0), shape
        )

    target = density * cost(1.0)
    factors = [i / 400 for i in range(1, 401)]
    return min(factors, key=lambda factor: (abs(cost(factor) - target), factor))


def run(setup: str, job: dict[str, Any]) -> dict[str, Any]:
    """Train one network and measure it: a row of the results."""
    started = time.perf_counter()
    training = build(config_of(setup, job["changes"]), data_of(setup))
    while not training.finished:
        metrics = training.run_epoch()
    final = training.final_metrics()
    evaluation = training.evaluation
    assert evaluation is not None
    return {
        "name": job["name"], "density": job["density"], "seed": job["seed"],
        "natural": final["natural_accuracy"], "verified_ibp": metrics["verified_accuracy"],
        "verified": final["verified_accuracy"], "split": evaluation.split,
        "examples": evaluation.num_examples, "radius": evaluation.radius, "bound": evaluation.bound,
        "kept": sum(training.sparsifier.counts.values()),
        "inference_flops": int(final["inference_flops"]),
        "training_flops": int(final["training_flops"]),
        "seconds": round(time.perf_counter() - started, 2),
        "config": training.config.model_dump_json(exclude_defaults=True),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", choices=tuple(SETUPS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of methods")
    arguments = parser.parse_args()
    for setup in arguments.data or SETUPS:
        path = RESULTS / f"methods_{setup}.csv"
        done = {(row["name"], float(row["density"]), int(row["seed"])) for row in read(path)}
        todo = [
            job
            for job in jobs(setup)
            if (job["name"], job["density"], job["seed"]) not in done
            and (not arguments.only or job["name"] in arguments.only)
        ]
        print(f"{setup}: {len(done)} rows, {len(todo)} runs to go", flush=True)
        work(partial(run, setup), todo, path, COLUMNS, arguments.workers, told)


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    return (
        f"{row['name']} {row['density']:g} seed {row['seed']}: natural {row['natural']:.3f} "
        f"verified {row['verified']:.3f}"
    )


if __name__ == "__main__":
    main()
