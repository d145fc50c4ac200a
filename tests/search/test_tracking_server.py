"""Tracking by a real MLflow server, which is killed in mid-search and comes back."""

import json
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
import torch
from cli_runs import run_in
from mlflow.tracking import MlflowClient
from mlflow_server import Server
from toy_trials import ToyFactory, toy_study
from tracked import runs_of

from analysis import export_ticket, load_front, load_ticket
from analysis.recorded import Trial
from analysis.store import read_study
from search import Observer, StudyResult, TrialRecord, run_study
from search.tracking import update, writer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

EPOCHS, EPOCH_S = 5, 0.1


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder)
    server = Server(folder)
    server.start()
    yield server
    server.kill()


def what_was_found(trial: Trial) -> dict[str, Any]:
    """A trial without what differs between two searches of one study."""
    own = ("mlflow.parentRunId",)
    tags = {name: text for name, text in trial.tags.items() if name not in own}
    return {"number": trial.number, "metrics": trial.metrics, "params": trial.params, "tags": tags}


def test_a_server_holds_what_an_embedded_store_holds(
    server: Server, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path)
    monkeypatch.setattr(update, "_INDEX_FROM", 2)
    asha = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    found = {}
    for uri in (server.uri, f"sqlite:///{tmp_path}/mlflow.db"):
        study = toy_study(
            tmp_path, tracking={"uri": uri}, scheduler=asha, budget={"trials": 8, "epochs": 3}
        )
        run_study(study, "local", factory=ToyFactory({2: "diverges"}))
        record = read_study("toy", tracking_uri=uri)
        assert record == read_study("toy", tracking_uri=uri, use_index=False)
        found[uri] = [what_was_found(trial) for trial in record.trials]
        assert len(load_front("toy", tracking_uri=uri).members) > 0
    remote, embedded = found.values()
    assert remote == embedded
    assert len(remote) == 8


def test_a_server_answers_what_an_embedded_store_answers(
    server: Server, tmp_path: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, tmp_path)
    fixed = {"topology": {"method": "static", "density": {"choice": [0.2, 0.6]}}}
    answers = []
    for uri in (server.uri, f"sqlite:///{tmp_path}/mlflow.db"):
        for name, seed in (("first", 0), ("second", 1)):
            settings = {"name": name, "seed": seed, "space": fixed, "tracking": {"uri": uri}}
            study = toy_study(tmp_path, **settings, budget={"trials": 3, "epochs": 1})
            run_study(study, "local", factory=ToyFactory())
        both = {"study": ["first", "second"], "tracking_uri": uri}
        where = ["verified_accuracy_at_0.1 >= 0.5"]
        fronts = [
            load_front(**both),
            load_front(**both, group_seeds=True, epsilon={"inference_flops": "5%"}),
            load_front(**both, where=where).up_to(
                {"natural_accuracy": 0.0, "verified_accuracy": 0.0, "inference_flops": 1e6}
            ),
        ]
        documents = [json.loads(front.to_json()) for front in fronts]
        answers.append([without_ids(document) for document in documents])
    remote, embedded = answers
    assert remote == embedded
    every, means, some = (len(document["members"]) for document in remote)
    assert (every, means) == (6, 2)  # of two configurations, and of their means
    assert 0 < some < 6


def without_ids(what: Any) -> Any:
    """A document without what differs between two stores."""
    own = ("tracking_uri", "run_id", "study_runs", "thinned", "cannot_be_told_apart_from")
    if isinstance(what, dict):
        return {name: without_ids(value) for name, value in what.items() if name not in own}
    return [without_ids(value) for value in what] if isinstance(what, list) else what


@pytest.fixture(scope="module")
def tiny(server: Server, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """A search with real trainings, recorded by the server as study `tiny`."""
    study = toy_study(
        tmp_path_factory.mktemp("tiny"),
        name="tiny",
        space={
            "model": {"family": "mlp", "widths": [16]},
            "topology": {"method": "static", "density": {"low": 0.4, "high": 0.9}},
            "optimizer": {"lr": 0.01},
        },
        evaluation={"radius": 0.05, "examples": 40, "methods": ["ibp"]},
        budget={"trials": 1, "epochs": 2},
        tracking={"uri": server.uri},
    )
    return run_study(study, "local")


def test_a_ticket_is_exported_from_a_servers_artifacts(
    server: Server, tiny: StudyResult, tmp_path: Path
) -> None:
    folder = export_ticket("tiny", tmp_path / "out", best="verified", tracking_uri=server.uri)
    (record,) = tiny.front
    assert load_ticket(folder).metrics == load_ticket(record.ticket).metrics  # type: ignore[arg-type]
    front = load_front("tiny", tracking_uri=server.uri)
    assert front.members[0].exact is not None


def test_an_exported_ticket_is_registered_with_the_server(
    server: Server, tiny: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"export tiny --best verified --to out --register net --tracking-uri {server.uri}"
    answer = run_in(tmp_path, *words.split())
    assert answer.code == 0, answer.err
    assert answer.out == "out\n" and "registered: models:/net/1\n" in answer.err
    (run,) = load_front("tiny", tracking_uri=server.uri).members
    version = MlflowClient(server.uri).get_model_version("net", "1")
    assert version.run_id == run.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = mlflow.pyfunc.load_model("models:/net/1").predict(x.numpy())["logits"]
    with torch.no_grad():
        expected = load_ticket(tmp_path / "out").model()(x)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)


class KillsTheServer(Observer):
    """Kills the server when a trial reports its third epoch, and starts it again seconds later."""

    def __init__(self, server: Server, trial: int) -> None:
        self.server, self.trial = server, trial
        self.comes_back = threading.Thread(target=self._start_again)
        self.killed_at = 0.0

    def on_report(self, record: TrialRecord) -> None:
        if record.number == self.trial and record.epochs == 3:
            self.server.kill()
            self.killed_at = time.monotonic()
            self.comes_back.start()

    def _start_again(self) -> None:
        time.sleep(3.0)
        self.server.start()


def test_a_server_that_is_killed_and_comes_back_costs_no_trial_and_no_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PATIENCE_S", 200.0)  # a busy machine starts servers slowly
    study = toy_study(
        tmp_path,
        name="outage",
        tracking={"uri": server.uri},
        budget={"trials": 14, "epochs": EPOCHS},
    )
    killer = KillsTheServer(server, trial=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        factory = ToyFactory({2: "diverges"}, epoch_seconds=EPOCH_S)
        result = run_study(study, "local", factory=factory, observers=[killer])
    killer.comes_back.join()
    told = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(told) == 2
    assert f"MLflow at {server.uri} cannot be written to since " in told[0]
    assert "Connection" in told[0]  # refused, reset or aborted
    assert len(told[0]) < 300
    assert " is back after " in told[1]

    assert [r.state for r in result.records].count("completed") == 13
    for record in result.records:  # no trial waited for the server
        assert record.ended is not None
        assert record.ended - record.started < EPOCHS * EPOCH_S + 0.5
    runs = runs_of(server.uri, result.tracking_run_id)
    assert runs.keys() == set(range(14))
    client = MlflowClient(server.uri)
    for record in result.records:
        run = runs[record.number]
        assert run.info.run_id == result.trial_run_ids[record.number]
        assert run.data.tags["goldenticket.state"] == record.state
        assert run.info.status == {"completed": "FINISHED", "failed": "FAILED"}[record.state]
        for name in ("epoch", "verified_accuracy"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert steps == list(range(1, record.epochs + 1))
        if record.state == "completed":
            assert client.list_artifacts(run.info.run_id, "ticket")
    front = {member.number for member in load_front("outage", tracking_uri=server.uri).members}
    assert front == {record.number for record in result.front}
    tagged = {n for n, run in runs.items() if run.data.tags["goldenticket.pareto"] == "true"}
    assert tagged == front
