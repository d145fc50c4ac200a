"""A ticket is registered with MLflow, loaded from there, and gives the outputs of its network."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from analysis import load_ticket, register_ticket, save_ticket
from analysis.errors import FrontError, TicketError
from analysis.export import export_ticket
from analysis.manifest import sha256
from analysis.registry import check_registry
from analysis.ticket import Ticket

V1 = Path(__file__).parent / "tickets" / "v1"


@pytest.fixture
def uri(store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    yield store.uri
    for model in store.client.search_registered_models():
        store.client.delete_registered_model(model.name)


def logged_models(store: Any) -> set[str]:
    return {model.model_id for model in store.client.search_logged_models([store.experiment])}


@pytest.mark.slow
def test_a_registered_ticket_gives_its_networks_outputs(
    store: Any, uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = store.runs["digits/1"]
    capfd.readouterr()
    assert register_ticket(V1, "digits net", uri, run_id=run) == 1
    assert capfd.readouterr() == ("", "")
    ticket = load_ticket(V1)
    x = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    with torch.no_grad():
        expected = ticket.model()(torch.from_numpy(x)).numpy()

    model = mlflow.pyfunc.load_model("models:/digits net/1")
    np.testing.assert_allclose(model.predict(x)["logits"], expected, rtol=0, atol=1e-5)
    (example,) = model.input_example
    assert example.shape == (1, 8, 8) and example.max() <= 1.0
    signature = model.metadata.signature.to_dict()
    (inputs,), (outputs,) = json.loads(signature["inputs"]), json.loads(signature["outputs"])
    assert inputs["tensor-spec"] == {"dtype": "float32", "shape": [-1, 1, 8, 8]}
    assert outputs["tensor-spec"] == {"dtype": "float32", "shape": [-1, 10]}
    about = model.metadata.metadata["goldenticket"]
    assert about["ticket_digest"] == ticket.digest and about["run_id"] == run
    assert about["metrics"] == ticket.metrics
    assert (about["split"], about["bound"], about["radius"]) == ("validation", "ibp+crown", 0.02)

    onnx_model = mlflow.onnx.load_model("models:/digits net/1")
    assert [value.name for value in onnx_model.graph.input] == ["x"]

    version = store.client.get_model_version("digits net", "1")
    assert version.run_id == run and version.tags["goldenticket.ticket_digest"] == ticket.digest
    (output,) = store.client.get_run(run).outputs.model_outputs
    assert store.client.get_logged_model(output.model_id).source_run_id == run

    files = Path(mlflow.artifacts.download_artifacts("models:/digits net/1", dst_path=tmp_path))
    assert sha256((files / "model.onnx").read_bytes()) == about["file_sha256"]
    assert load_ticket(files / "ticket").digest == ticket.digest
    assert {path.name for path in (files / "ticket").iterdir()} == {p.name for p in V1.iterdir()}
    assert not [path for path in files.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]
    assert "onnxruntime==" in (files / "requirements.txt").read_text()


def test_a_second_ticket_is_a_second_version_and_needs_no_run(store: Any, uri: str) -> None:
    assert not check_registry("net", uri)
    assert register_ticket(V1, "net") == 1
    assert check_registry("net", uri)
    assert register_ticket(V1, "net") == 2
    assert not store.client.get_model_version("net", "2").run_id


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", " net", "a/b", "a:b", ".", "..", "n" * 300])
def test_a_name_that_no_model_can_have_is_told_before_anything_is_read(
    uri: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(TicketError, match="a model cannot be called"):
        register_ticket(tmp_path / "no ticket", name, uri)


def test_the_store_need_not_be_the_one_that_the_process_uses(
    store: Any, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    run = store.runs["digits/1"]
    assert register_ticket(V1, "elsewhere", uri, run_id=run) == 1
    export_ticket("digits", tmp_path / "again", run=run, tracking_uri=uri, routes=())
    assert store.client.get_model_version("elsewhere", "1").source.startswith("models:/")
    assert not mlflow.is_tracking_uri_set()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_the_name_of_a_prompt_is_refused(store: Any, uri: str) -> None:
    store.client.register_prompt("hello", template="Say hello.")
    with pytest.raises(TicketError, match="while creating the model .*[Pp]rompt.*nothing of it"):
        register_ticket(V1, "hello", uri)


def test_a_ticket_without_onnx_is_refused(uri: str, ticket: Ticket, tmp_path: Path) -> None:
    save_ticket(ticket, tmp_path / "t")
    with pytest.raises(TicketError, match=r"neither compact\.onnx nor model\.onnx.*--onnx"):
        register_ticket(tmp_path / "t", "net", uri)
    assert not check_registry("net", uri)


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FrontError, match="there is no tracking store"):
        register_ticket(V1, "net", f"sqlite:///{tmp_path}/none.db")


def test_a_server_that_is_gone_or_has_no_registry_is_told(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TicketError, match="registry of http://127.0.0.1:9 cannot be asked"):
        register_ticket(V1, "net", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "ftp://127.0.0.1/models")
    with pytest.raises(TicketError, match="cannot be asked for 'net' .*--tracking-uri"):
        register_ticket(V1, "net", uri)


def refuse(*_: object, **__: object) -> None:
    raise RestException({"error_code": "PERMISSION_DENIED", "message": "not yours"})


def fall_silent(*_: object, **__: object) -> None:
    raise MlflowException("connection refused")


STEPS = {
    "create_registered_model": "creating the model",
    "create_logged_model": "logging its files",
    "log_model_artifacts": "logging its files",
    "log_outputs": "logging its files",
    "create_model_version": "creating the version",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_registry_that_refuses_is_told_and_nothing_is_left_there(
    store: Any, uri: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = logged_models(store)
    monkeypatch.setattr(MlflowClient, step, refuse)
    with pytest.raises(TicketError) as caught:
        register_ticket(V1, "net", uri, run_id=store.runs["digits/0"])
    for words in (f"{V1} as 'net' while {STEPS[step]}", "not yours", "nothing of it is left"):
        assert words in str(caught.value)
    assert not check_registry("net", uri)
    assert logged_models(store) == before


def test_an_older_version_outlives_a_refusal(
    store: Any, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_ticket(V1, "net", uri)
    monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    with pytest.raises(TicketError, match="nothing of it is left"):
        register_ticket(V1, "net", uri)
    assert store.client.get_model_version("net", "1").source


def test_a_server_that_falls_silent_leaves_what_the_error_names(
    store: Any, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove: Callable[..., Any] = MlflowClient.delete_logged_model
    for step in ("create_model_version", "delete_registered_model", "delete_logged_model"):
        monkeypatch.setattr(MlflowClient, step, fall_silent)
    before = logged_models(store)
    with pytest.raises(TicketError) as caught:
        register_ticket(V1, "net", uri)
    monkeypatch.undo()
    (left,) = logged_models(store) - before
    assert f"the logged model {left} and the model 'net' could not be removed" in str(caught.value)
    remove(store.client, left)


def test_a_run_that_is_not_there_is_told(uri: str) -> None:
    with pytest.raises(TicketError, match="while logging its files .*nothing of it is left"):
        register_ticket(V1, "net", uri, run_id="0" * 32)
    assert not check_registry("net", uri)
