"""A ticket that version 1 wrote: it is read, verified and written anew as the version of today."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from analysis import load_ticket, save_ticket, verify_ticket
from analysis.errors import TicketError
from analysis.manifest import SCHEMA_VERSION, read_manifest

V1 = Path(__file__).parent / "tickets" / "v1"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(V1, tmp_path / "ticket"))


def test_weights_masks_and_figures_are_those_that_version_1_recorded() -> None:
    written: dict[str, Any] = json.loads((V1 / "ticket.json").read_text())
    tensors = safetensors.torch.load_file(V1 / "ticket.safetensors")
    assert written["schema_version"] == 1
    ticket = load_ticket(V1)
    assert ticket.metrics == written["metrics"]
    assert ticket.metrics["natural_accuracy"] == 0.6
    assert ticket.provenance.model_dump() == written["provenance"]
    assert ticket.digest == written["digest"] and ticket.parent == ""
    assert ticket.data_fingerprints == written["data_fingerprints"]
    assert (ticket.config.topology.method, ticket.seed) == ("acdc", 3)
    assert {name: layer.kept for name, layer in ticket.layers.items()} == {
        "fc1.weight": 125,
        "out.weight": 53,
    }
    for name, mask in ticket.masks.items():
        assert np.packbits(mask.numpy()).tolist() == tensors[f"masks/{name}"].tolist()
        assert torch.equal(ticket.weights[name][mask], tensors[f"weights/{name}"])
        assert not ticket.weights[name][~mask].any()
    for group in ("initial_weights", "dense_twin"):
        for name, tensor in getattr(ticket, group).items():
            assert torch.equal(tensor, tensors[f"{group}/{name}"])


def test_its_comparison_of_model_onnx_is_an_export_that_nobody_timed() -> None:
    record = load_ticket(V1).exports["onnx"]
    was = json.loads((V1 / "ticket.json").read_text())["onnx"]
    assert record.max_abs_difference == was["max_abs_difference"]
    assert (record.num_examples, record.batch_sizes) == (28, (1, 7))
    assert record.tools == {"onnxruntime": was["onnxruntime"]}
    assert record.bytes == (V1 / "model.onnx").stat().st_size
    assert record.latency_s is None and record.speedup is None


@pytest.mark.slow
def test_verify_confirms_it_and_agrees_with_its_certificate(copy: Path) -> None:
    certificate = verify_ticket(copy, examples=12, methods=["ibp", "crown"])
    earlier = json.loads((V1 / "certificate.json").read_text())
    assert certificate.ticket_digest == earlier["ticket_digest"]
    assert certificate.own_figures is not None
    assert certificate.own_figures.verified_accuracy == 0.55
    for result, before in zip(certificate.results, earlier["results"], strict=True):
        assert list(result.verdicts) == before["verdicts"]
    assert read_manifest(copy).digest == certificate.ticket_digest
    assert sorted(path.name for path in copy.iterdir()) == sorted(p.name for p in V1.iterdir())


def test_saved_again_it_is_of_the_version_of_today(tmp_path: Path) -> None:
    old = load_ticket(V1)
    new = load_ticket(save_ticket(old, tmp_path / "new"))
    written = json.loads((tmp_path / "new" / "ticket.json").read_text())
    assert written["schema_version"] == SCHEMA_VERSION > 1
    assert "onnx" not in written and written["exports"] == {}
    for group in ("weights", "masks", "initial_weights", "dense_twin"):
        before, after = getattr(old, group), getattr(new, group)
        assert all(torch.equal(after[name], before[name]) for name in before)
    assert (new.config, new.metrics, new.code_version) == (
        old.config,
        old.metrics,
        old.code_version,
    )


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, None, "1", [1]])
def test_another_version_is_refused_by_name(copy: Path, version: object) -> None:
    path = copy / "ticket.json"
    body = {**json.loads(path.read_text()), "schema_version": version, "code_version": "9.1+f00"}
    path.write_text(json.dumps(body))
    with pytest.raises(TicketError) as caught:
        load_ticket(copy)
    for words in (str(path), f"schema_version is {version!r}", f"1 to {SCHEMA_VERSION}", "9.1+f00"):
        assert words in str(caught.value)
