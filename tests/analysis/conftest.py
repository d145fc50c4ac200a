"""A small ticket, and a tracking store with studies in it, as search/tracking.py writes them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from analysis.manifest import Provenance
from analysis.ticket import Ticket, save_ticket
from spaces.trial import TrialConfig
from trainers.data import load_data
from trainers.evaluate import model_cost
from trainers.models import build_model, prunable_weights
from trainers.verify import verify

sys.path.insert(0, str(Path(__file__).parent))

RADIUS = 0.05


def make_ticket(model: dict | None = None, density: float = 0.3, seed: int = 0) -> Ticket:
    """An untrained network on digits with random masks; its accuracies are made up."""
    config = TrialConfig.model_validate(
        {
            "seed": seed,
            "data": {"name": "digits"},
            "evaluation": {"radius": RADIUS, "radii": [0.01], "methods": ["ibp"]},
            "model": model or {"family": "mlp", "widths": [8]},
        }
    )
    data = load_data(config.data, "cpu")
    network = build_model(
        config.model, data.input_shape, data.num_classes, data.mean, data.std, seed
    ).eval()
    initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, weight in prunable_weights(network).items():
        masks[name] = torch.rand(weight.shape, generator=generator) < density
        weight.data *= masks[name]
    validation = data.validation
    measured = verify(network, validation.x[:100], validation.y[:100], RADIUS, methods=["ibp"])
    return Ticket(
        config=config,
        weights=network.state_dict(),
        masks=masks,
        initial_weights=initial,
        metrics={
            "natural_accuracy": measured.natural_accuracy,
            "verified_accuracy": measured.verified_accuracy,
            **model_cost(network, data.input_shape),
        },
        provenance=Provenance(split="validation", bound="ibp", radius=RADIUS, num_examples=100),
        input_shape=tuple(data.input_shape),
        num_classes=data.num_classes,
        data_fingerprints=data.fingerprints,
    )


@pytest.fixture(scope="session")
def ticket() -> Ticket:
    return make_ticket()


@pytest.fixture
def ticket_of() -> Callable[..., Ticket]:
    return make_ticket


OBJECTIVES = {"goldenticket.objectives": "natural_accuracy,verified_accuracy,inference_flops"}


@dataclass(frozen=True)
class Store:
    """A tracking store, the names of its runs, and how to write more of them."""

    uri: str
    client: MlflowClient
    experiment: str
    runs: dict[str, str]

    def study(self, name: str, **tags: str) -> str:
        """A study's own run; returns its id."""
        run = self.client.create_run(
            self.experiment, run_name=name, tags={"goldenticket.study": name, **OBJECTIVES, **tags}
        )
        return run.info.run_id

    def trial(
        self,
        parent: str,
        study: str,
        number: int,
        metrics: dict[str, float],
        state: str = "completed",
        ticket: Path | None = None,
    ) -> str:
        """A trial's run, with the tags that a tracking store has; returns its id."""
        tags = {
            "mlflow.parentRunId": parent,
            "goldenticket.study": study,
            "goldenticket.state": state,
            "goldenticket.number": str(number),
            "goldenticket.bound": "ibp+crown",
            "goldenticket.split": "validation",
            "goldenticket.num_examples": "300",
        }
        name = f"trial_{number}"
        run = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        self.client.log_param(run, "evaluation.radius", "0.05")
        self.client.log_param(run, "topology.method", "rigl")
        for key, value in metrics.items():
            self.client.log_metric(run, key, value)
        if ticket is not None:
            self.client.log_artifacts(run, str(ticket), "ticket")
        self.runs[f"{study}/{number}"] = run
        return run


def figures(natural: float, verified: float, flops: float) -> dict[str, float]:
    return {
        "natural_accuracy": natural,
        "verified_accuracy": verified,
        "inference_flops": flops,
        "density": flops / 10_000,
    }


DIGITS = {
    0: ("completed", figures(0.95, 0.80, 1000)),
    1: ("completed", figures(0.90, 0.85, 2000)),
    2: ("completed", figures(0.85, 0.60, 200)),
    3: ("completed", figures(0.84, 0.55, 900)),  # worse than 2 everywhere
    4: ("stopped", figures(0.99, 0.99, 100)),  # would rule, had it been trained to the end
    5: ("failed", {}),
    6: ("completed", figures(0.93, 0.84, 1500)),
    7: ("completed", {"natural_accuracy": 0.9, "inference_flops": 10.0}),  # lacks an objective
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, ticket: Ticket) -> Store:
    """Studies `digits` (searched twice), `bare` (nothing completed) and `other`."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("goldenticket", f"file://{folder}/artifacts")
    store = Store(uri, client, experiment, {})
    saved = save_ticket(ticket, folder / "ticket")

    older = store.study("digits")
    store.trial(older, "digits", 0, figures(1.0, 1.0, 1))
    newer = store.study("digits")
    for number, (state, metrics) in DIGITS.items():
        has_ticket = saved if number in (0, 1) else None
        store.trial(newer, "digits", number, metrics, state, has_ticket)
    store.runs.update({"digits older": older, "digits newer": newer})
    bare = store.study("bare")
    store.trial(bare, "bare", 0, figures(0.5, 0.1, 1), "stopped")
    other = store.study("other", **{"goldenticket.objectives": "verified_accuracy,density"})
    store.trial(other, "other", 0, figures(0.9, 0.8, 1000))
    return store


@pytest.fixture
def ticket_copy(ticket: Ticket, tmp_path: Path) -> Path:
    """A ticket folder that a test may spoil."""
    return save_ticket(replace(ticket, metrics=dict(ticket.metrics)), tmp_path / "ticket")


MEASURED = {"split": "validation", "bound": "ibp+crown", "num_examples": "300"}
DATA = {
    "data.name": "digits",
    "data.split_seed": "0",
    "data.folder": "a",
    "evaluation.radius": "0.05",
}


@dataclass
class Many:
    """A tracking store to which a test adds studies."""

    uri: str
    client: MlflowClient
    experiment: str

    def study(self, name: str, *trials: Mapping[str, str | float], **changes: str) -> list[str]:
        """A search whose trials have these metrics (numbers) and parameters (texts); run ids."""
        objectives = changes.pop("objectives", "natural_accuracy,verified_accuracy,inference_flops")
        tags = {"goldenticket.study": name}
        search = self._run({**tags, "goldenticket.objectives": objectives})
        how = {**MEASURED, **{k: changes.pop(k) for k in MEASURED if k in changes}}
        params = {**DATA, **{k.replace("__", "."): text for k, text in changes.items()}}
        tags |= {"mlflow.parentRunId": search, "goldenticket.state": "completed"}
        tags |= {f"goldenticket.{name}": text for name, text in how.items()}
        found = []
        for number, trial in enumerate(trials):
            own = {name: text for name, text in trial.items() if isinstance(text, str)}
            figures = {name: value for name, value in trial.items() if name not in own}
            run = self._run({**tags, "goldenticket.number": f"{number}"})
            self.client.log_batch(
                run,
                metrics=[Metric(name, float(value), 0, 0) for name, value in figures.items()],
                params=[Param(*item) for item in {**params, **own}.items()],
            )
            found.append(run)
        return found

    def _run(self, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(self.experiment, tags=tags)
        return str(run.info.run_id)


@pytest.fixture
def many(store: Store, tmp_path: Path) -> Many:
    """A copy of the store that has other studies already: making a new one takes seconds."""
    uri = f"sqlite:///{shutil.copy(store.uri.removeprefix('sqlite:///'), tmp_path)}"
    return Many(uri, MlflowClient(uri), store.experiment)
