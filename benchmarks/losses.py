"""Every loss on the same data, network and number of epochs: what it certifies and what it costs.

    uv run benchmarks/losses.py [--radius 0.1] [--only LOSS ...] [--topology NAME ...] [--workers 2]

Each run is one row of benchmarks/results/losses.csv; runs that have a row are not made again, so
that a stopped benchmark goes on where it was. `natural`, `verified_ibp` and `verified` are of the
validation split, by interval bounds and by the cascade of a search; settings are tuned on that
split alone. Columns `test_...` are of the test split, by all methods that `verify` has, within 60 s
for each image and `--budget` seconds in all, a quarter of it for losses that certify nothing; what
is open then is unknown. `unstable` is the mean number of ReLUs per validation example that interval
bounds leave on either side of zero. `seconds_per_step` is that of training with the cheap
measurement after each epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from rows import RESULTS, read, work

from spaces import TrialConfig
from trainers import Training, build
from trainers.bounds import ball
from trainers.data import Data, load_data
from trainers.models.modes import evaluating
from trainers.verify import AVAILABLE_METHODS, verify

SEEDS = (0, 1, 2)
COLUMNS = (
    "loss", "topology", "density", "radius", "seed", "natural", "verified_ibp", "verified",
    "examples", "bound", "unstable", "test_natural", "test_verified", "test_falsified_bound",
    "test_unknown", "test_examples", "test_bound", "test_seconds", "kept", "inference_flops",
    "training_flops", "seconds", "seconds_per_step", "config",
)  # fmt: skip

# Settings of the losses, and of what goes with them: tuned on the validation split only. Attacks
# are shorter than by default, so that no run takes much longer than a minute and a half.
LOSSES: dict[str, dict[str, Any]] = {
    "natural": {"loss": {"name": "natural"}},
    "pgd": {"loss": {"name": "pgd", "attack_steps": 5}},
    "ibp": {"loss": {"name": "ibp", "kappa": 0.3}},
    "crown_ibp": {"loss": {"name": "crown_ibp", "kappa": 0.1}},
    "sabr": {
        "loss": {"name": "sabr", "kappa": 0.1, "subselection_ratio": 0.4, "attack_steps": 5},
    },
    "mtl_ibp": {"loss": {"name": "mtl_ibp", "kappa": 0.1, "alpha": 0.1, "attack_steps": 5}},
    "taps": {"loss": {"name": "taps", "kappa": 0.1, "gradient_scale": 4.0, "attack_steps": 3}},
    "staps": {
        "loss": {
            "name": "staps", "kappa": 0.1, "gradient_scale": 4.0, "subselection_ratio": 0.6,
            "attack_steps": 3,
        },
    },
}  # fmt: skip
# Differences at other radii: {radius: {loss: settings}}.
AT_RADIUS: dict[float, dict[str, dict[str, Any]]] = {
    0.2: {
        "sabr": {
            "loss": {"name": "sabr", "kappa": 0.1, "subselection_ratio": 0.6, "attack_steps": 5},
        },
        "mtl_ibp": {"loss": {"name": "mtl_ibp", "kappa": 0.1, "alpha": 0.3, "attack_steps": 5}},
    },
}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "dense": {"method": "dense"},
    "gmp 0.1": {"method": "gmp", "density": 0.1},
    "gmp 0.05": {"method": "gmp", "density": 0.05},
}
BASE: dict[str, Any] = {
    "data": {"name": "mnist5k", "validation_fraction": 0.1, "test_fraction": 0.1},
    "epochs": 20, "batch_size": 128,
    "model": {"family": "cnn", "channels": [16, 32], "hidden": [100]},
    "epsilon": {"warmup": 0.05, "ramp_end": 0.5},
    "optimizer": {"name": "adam", "lr": 0.005},
}  # fmt: skip


def config_of(job: dict[str, Any], epochs: int) -> TrialConfig:
    """The trial of a job."""
    name, radius = job["loss"], job["radius"]
    settings = {**LOSSES[name], **AT_RADIUS.get(radius, {}).get(name, {})}
    tree = {
        **BASE, **settings, "topology": TOPOLOGIES[job["topology"]], "seed": job["seed"],
        "evaluation": {"radius": radius, "budget_s": 30.0}, "epochs": epochs,
    }  # fmt: skip
    return TrialConfig.model_validate(tree)


@cache
def data() -> Data:
    """The data, once per process."""
    return load_data(
        TrialConfig.model_validate({**BASE, "evaluation": {"radius": 0.1}}).data, "cpu"
    )


def jobs(radius: float) -> Iterator[dict[str, Any]]:
    """Every run at a radius: all of one seed before the next."""
    for seed in SEEDS:
        for topology in TOPOLOGIES:
            for loss in LOSSES:
                yield {"loss": loss, "topology": topology, "radius": radius, "seed": seed}


def run(budget_s: float, epochs: int, job: dict[str, Any]) -> dict[str, Any]:
    """Train one network and measure it: a row of the results."""
    training, seconds = build(config_of(job, epochs), data()), 0.0
    while not training.finished:
        metrics = training.run_epoch()
        seconds += metrics["duration_s"]
    final = training.final_metrics()
    evaluation = training.evaluation
    assert evaluation is not None
    return {
        **job, "density": TOPOLOGIES[job["topology"]].get("density", 1.0),
        "natural": final["natural_accuracy"], "verified_ibp": metrics["verified_accuracy"],
        "verified": final["verified_accuracy"], "examples": evaluation.num_examples,
        "bound": evaluation.bound, "unstable": round(unstable(training), 1),
        **certified(training, budget_s),
        "kept": sum(training.sparsifier.counts.values()),
        "inference_flops": int(final["inference_flops"]),
        "training_flops": int(final["training_flops"]),
        "seconds": round(seconds, 2), "seconds_per_step": round(seconds / training.step, 5),
        "config": training.config.model_dump_json(exclude_unset=True),
    }  # fmt: skip


def certified(training: Training, budget_s: float) -> dict[str, Any]:
    """What all methods of `verify` together find on the test split."""
    test = training.data.test
    if training.config.loss.name in ("natural", "pgd"):
        budget_s /= 4.0
    result = verify(
        training.model, test.x, test.y, training.config.evaluation.radius,
        methods=AVAILABLE_METHODS, timeout_s=60.0, budget_s=budget_s,
    )  # fmt: skip
    return {
        "test_natural": result.natural_accuracy, "test_verified": result.verified_accuracy,
        "test_falsified_bound": result.falsified_accuracy_bound,
        "test_unknown": result.verdicts.count("unknown"), "test_examples": result.num_examples,
        "test_bound": "+".join(AVAILABLE_METHODS), "test_seconds": round(result.seconds, 1),
    }  # fmt: skip


def unstable(training: Training) -> float:
    """Mean number of unstable ReLUs of a validation example, by interval bounds."""
    x_BCHW, y_B = training.data.validation.x, training.data.validation.y
    box = ball(x_BCHW, training.config.evaluation.radius)
    with evaluating(training.model), torch.no_grad():
        result = training.loss.interval.margins(x_BCHW, y_B, *box)
    return float(result.num_unstable_B.float().mean())


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    return (
        f"{row['loss']} {row['topology']} radius {row['radius']:g} seed {row['seed']}: natural "
        f"{row['natural']:.3f} verified {row['verified']:.3f}, test {row['test_verified']:.3f} "
        f"({row['test_unknown']} unknown), {row['seconds']:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--radius", type=float, default=0.1)
    parser.add_argument("--only", nargs="*", choices=tuple(LOSSES), help="names of losses")
    parser.add_argument("--topology", nargs="*", choices=tuple(TOPOLOGIES))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budget", type=float, default=180.0, help="of the test, in seconds")
    parser.add_argument("--epochs", type=int, default=BASE["epochs"])
    parser.add_argument("--name", default="losses", help="of the file of results")
    arguments = parser.parse_args()
    path = RESULTS / f"{arguments.name}.csv"
    keys = ("loss", "topology", "radius", "seed")
    done = {tuple(row[key] for key in keys) for row in read(path)}
    todo = [
        job
        for job in jobs(arguments.radius)
        if tuple(str(job[key]) for key in keys) not in done
        and job["seed"] in arguments.seeds
        and job["loss"] in (arguments.only or LOSSES)
        and job["topology"] in (arguments.topology or TOPOLOGIES)
    ]
    print(f"{len(done)} rows, {len(todo)} runs to go", flush=True)
    job_to_row = partial(run, arguments.budget, arguments.epochs)
    work(job_to_row, todo, path, COLUMNS, arguments.workers, told)


if __name__ == "__main__":
    main()
