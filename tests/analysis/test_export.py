"""From a recorded trial to a folder that can be shipped."""

import contextlib
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from analysis.errors import FrontError, TicketError
from analysis.export import export_ticket
from analysis.front import load_front
from analysis.onnx_model import check_onnx, onnx_bytes
from analysis.ticket import Ticket, load_ticket
from trainers.data import load_data

BARE = ["ticket.json", "ticket.safetensors"]


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "best"
    out, err = folder.parent / "out", folder.parent / "err"
    with out.open("w") as o, err.open("w") as e:
        with contextlib.redirect_stdout(o), contextlib.redirect_stderr(e):
            export_ticket("digits", folder, best="verified", tracking_uri=store.uri)
    assert out.read_text() == ""
    assert err.read_text() == ""
    return folder


@pytest.mark.slow
def test_an_exported_folder_holds_the_recorded_ticket_and_its_onnx_model(exported, ticket) -> None:
    assert sorted(os.listdir(exported)) == ["model.onnx", *BARE]
    found = load_ticket(exported)
    assert all(torch.equal(found.weights[name], ticket.weights[name]) for name in ticket.weights)
    record = found.exports["onnx"]
    assert record.tolerance is not None and record.max_abs_difference <= record.tolerance
    assert record.batch_sizes == (1, 7, 256)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_the_onnx_model_takes_any_batch_and_gives_the_weights_outputs(exported, batch) -> None:
    ticket = load_ticket(exported)
    x_BCHW = load_data(ticket.config.data, "cpu").test.x[:batch]
    session = onnxruntime.InferenceSession(
        (exported / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    (logits_BK,) = session.run(["logits"], {"x": x_BCHW.numpy()})
    with torch.no_grad():
        expected_BK = ticket.model()(x_BCHW).numpy()
    np.testing.assert_allclose(logits_BK, expected_BK, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_altered_onnx_model_is_seen(exported: Path, tmp_path: Path) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TicketError, match=r"model\.onnx was changed"):
        load_ticket(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"family": "cnn", "channels": [2, 3], "hidden": [5], "batch_norm": True},
        {"family": "resnet", "width": 2, "blocks": [1, 1]},
    ],
)
def test_networks_with_convolutions_norms_and_shortcuts_are_exported(
    ticket_of, tmp_path: Path, model
) -> None:
    ticket = ticket_of(model)
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(ticket.model(), ticket.input_shape))
    x_BCHW = load_data(ticket.config.data, "cpu").validation.x[:14]
    check = check_onnx(tmp_path / "model.onnx", ticket.model(), x_BCHW)
    assert check.max_abs_difference <= 1e-5


@pytest.mark.slow
def test_an_onnx_model_of_other_weights_is_refused(exported: Path, ticket_of) -> None:
    other: Ticket = ticket_of(seed=1)
    x_BCHW = load_data(other.config.data, "cpu").validation.x[:3]
    with pytest.raises(TicketError, match="differ by up to .* at most 1e-05"):
        check_onnx(exported / "model.onnx", other.model(), x_BCHW)


@pytest.mark.slow
def test_outputs_that_are_not_numbers_agree_with_nothing(exported: Path, ticket) -> None:
    x_BCHW = torch.full((2, *ticket.input_shape), float("nan"))
    with pytest.raises(TicketError, match="differ by up to nan"):
        check_onnx(exported / "model.onnx", ticket.model(), x_BCHW)


def test_a_file_that_is_no_onnx_model_is_told(tmp_path: Path, ticket) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(TicketError, match=r"model\.onnx cannot be run"):
        check_onnx(tmp_path / "model.onnx", ticket.model(), torch.zeros(1, *ticket.input_shape))


class DecidesByValue(torch.nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_told(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="cannot be exported to ONNX"):
        onnx_bytes(DecidesByValue().eval(), (4,))


def test_a_run_is_exported_by_its_id_or_as_a_member_of_a_front(store, tmp_path: Path) -> None:
    options = {"tracking_uri": store.uri, "routes": ()}
    by_id = export_ticket("digits", tmp_path / "a", run=store.runs["digits/1"][:10], **options)
    member = load_front("digits", tracking_uri=store.uri).best("verified")
    as_member = export_ticket(member, tmp_path / "b", routes=())
    assert sorted(os.listdir(by_id)) == sorted(os.listdir(as_member)) == BARE
    assert (by_id / "ticket.json").read_bytes() == (as_member / "ticket.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give either a run id"),
        ({"run": "a", "best": "knee"}, "Give either a run id"),
        ({"best": "biggest"}, "'biggest'"),
        ({"run": "a", "where": ["density <= 0.1"]}, "leave one of them out"),
        ({"run": "zzz"}, "has no run 'zzz'"),
    ],
)
def test_an_unclear_choice_is_told(store, tmp_path: Path, options, words) -> None:
    with pytest.raises(FrontError, match=words):
        export_ticket("digits", tmp_path / "t", tracking_uri=store.uri, **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [2, 4, 5])
def test_a_run_without_a_ticket_is_told_and_nothing_is_written(store, tmp_path, number) -> None:
    run = store.runs[f"digits/{number}"]
    with pytest.raises(FrontError, match=f"{run} .* has no ticket"):
        export_ticket("digits", tmp_path / "t", run=run, tracking_uri=store.uri)
    assert os.listdir(tmp_path) == []


def test_a_folder_with_other_content_is_left_alone(store, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(TicketError, match="is not a ticket"):
        export_ticket("digits", tmp_path, best="verified", tracking_uri=store.uri)
    assert os.listdir(tmp_path) == ["mine.txt"]
