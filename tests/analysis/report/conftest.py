"""A recorded study with curves, conditional settings and tickets, and its report as a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from analysis.certificate import verify_ticket
from analysis.front import Front, load_front
from analysis.report import write_report
from analysis.ticket import Ticket, save_ticket
from spaces.trial import flatten

EVIL = '</script><img src=x onerror="window.hurt=1"><b>&amp;"\''
STUDY = {
    "name": "page",
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.05, "radii": [0.01]},
    "scheduler": {"name": "moasha", "grace_epochs": 1, "reduction_factor": 2},
    "budget": {"trials": 16, "epochs": 4},
    "space": {
        "model": {"family": "mlp", "widths": {"choice": [[8], [16]]}},
        "topology": {
            "choice": [
                {
                    "method": "rigl",
                    "density": {"low": 0.05, "high": 0.8, "log": True},
                    "drop": {"choice": ["magnitude", "sensitivity"]},
                },
                {"method": "snip", "density": {"low": 0.05, "high": 0.8, "log": True}},
            ]
        },
        "optimizer": {"lr": {"low": 0.001, "high": 0.1, "log": True}},
    },
}


@dataclass(frozen=True)
class Recorded:
    """A store with a study `page`, a ticket of it that is certified, and its trials' run ids."""

    uri: str
    runs: dict[int, str]
    ticket: Path

    def front(self, study: str | list[str] = "page", **options) -> Front:
        return load_front(study, tracking_uri=self.uri, **options)


class _Writer:
    """Writes trials as search/tracking does, in one batch each."""

    def __init__(self, client: MlflowClient, experiment: str, study: str) -> None:
        tags = {
            "goldenticket.study": study,
            "goldenticket.objectives": "natural_accuracy,verified_accuracy,inference_flops",
        }
        self.client, self.experiment, self.study = client, experiment, study
        self.run = client.create_run(experiment, run_name=study, tags=tags, start_time=1000)
        self.parent = self.run.info.run_id

    def trial(
        self, number: int, state: str, params: dict[str, object], curve: list[dict[str, float]]
    ) -> str:
        started = 1_700_000_000_000 + 1000 * number
        run = self.client.create_run(self.experiment, start_time=started).info.run_id
        tags = {
            "mlflow.parentRunId": self.parent,
            "goldenticket.study": self.study,
            "goldenticket.state": state,
            "goldenticket.number": str(number),
            "goldenticket.bound": "ibp+crown",
            "goldenticket.split": "validation",
            "goldenticket.num_examples": "300",
            "goldenticket.version": "0.1.0+abc",
        }
        self.client.log_batch(
            run,
            params=[Param(name, str(value)) for name, value in params.items()],
            metrics=[
                Metric(name, value, started + 500 * epoch, epoch)
                for epoch, figures in enumerate(curve, start=1)
                for name, value in figures.items()
            ],
            tags=[RunTag(*tag) for tag in tags.items()],
        )
        return run


def figures(number: int, epoch: int) -> dict[str, float]:
    """Made up so that more weights are better, and later epochs too."""
    density = 0.05 * 1.25**number
    ripe = epoch / 4
    return {
        "epoch": epoch,
        "natural_accuracy": min(0.8 + 0.2 * density, 0.99) * (0.5 + 0.5 * ripe),
        "verified_accuracy": (0.6 + 0.3 * density - 0.02 * (number % 3)) * ripe,
        "verified_accuracy_at_0.01": 0.8 * ripe,
        "rung_score": 0.7 * ripe,
        "train_epsilon": 0.05 * ripe,
        "density": density,
        "inference_flops": 2000 * density,
        "dense_inference_flops": 2000.0,
        "num_active_parameters": 1000 * density,
        "training_flops": 1e6 * epoch,
    }


def settings(number: int) -> dict[str, object]:
    rigl = number % 3 != 2
    return {
        "data.name": "digits",
        "evaluation.radius": 0.05,
        "model.widths": "[8]" if number % 2 else "[16]",
        "optimizer.lr": 0.001 * 1.3**number,
        "topology.method": "rigl" if rigl else "snip",
        "topology.density": 0.05 * 1.25**number,
        **({"topology.drop": EVIL if number == 6 else "magnitude"} if rigl else {}),
    }


@pytest.fixture(scope="session")
def recorded(store, ticket: Ticket, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Trial 0 is `ticket`, 1 to 11 completed, 12 to 14 stopped, 15 failed; 1 and 2 have tickets."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copy(store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")  # quicker than new
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("page", f"file://{folder}/artifacts")
    client.rename_experiment(store.experiment, "goldenticket before")
    client.rename_experiment(experiment, "goldenticket")
    writer = _Writer(client, experiment, "page")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    client.log_artifact(writer.parent, str(folder / "study.yaml"))
    runs = {}
    for number in range(16):
        last = 4 if number < 12 else 2 if number < 15 else 0
        state = "completed" if number < 12 else "stopped" if number < 15 else "failed"
        curve = [figures(number, epoch) for epoch in range(1, last + 1)]
        params: dict[str, object] = settings(number)
        if number == 0:
            curve[-1] |= dict(ticket.metrics)
            params = dict(flatten(ticket.config))
        runs[number] = writer.trial(number, state, params, curve)
    saved = save_ticket(ticket, folder / "ticket")
    for number in (1, 2):
        client.log_artifacts(runs[number], str(saved), "ticket")
    verify_ticket(saved, examples=24, radii=[0.05, 0.01], methods=["ibp", "crown"],
                  certified_radius=0.05, tolerance=0.01)  # fmt: skip
    bare = _Writer(client, experiment, "bare page")
    bare.trial(0, "completed", {"evaluation.radius": 0.05}, [figures(3, 4)])
    return Recorded(uri, runs, saved)


@pytest.fixture(scope="session")
def page(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The report of study `page` with the certified ticket."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    yield write_report(recorded.front(), path, ticket=recorded.ticket, log=False)
