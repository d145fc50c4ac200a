"""What a certificate says of the files that ship, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import numpy_helper

from analysis.certificate import verify_ticket
from analysis.errors import TicketError
from analysis.export import export_ticket
from analysis.exports import add
from analysis.manifest import Manifest, digest, read_manifest, write_manifest
from analysis.ticket import Ticket, load_ticket, save_ticket
from trainers.data import load_data
from trainers.lowering.runtime import OnnxNetwork

N, RADIUS = 40, 0.05
QUESTION: dict[str, Any] = {"radii": [RADIUS], "examples": N}


@pytest.fixture(scope="module")
def exported(ticket: Ticket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("artifacts")
    bare = save_ticket(ticket, place / "bare")
    routes = ("onnx", "compact", "int8", "c", "csr")
    with pytest.MonkeyPatch.context() as patch:  # how fast they are is of no interest here
        patch.setattr(add, "_timed", lambda *_: dict.fromkeys([*routes, "dense"], 1.0))
        return export_ticket(bare, place / "ticket", routes=routes)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "ticket"))


@pytest.fixture(scope="module")
def certified(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with its certificate."""
    place = Path(shutil.copytree(exported, tmp_path_factory.mktemp("certified") / "ticket"))
    verify_ticket(place, **QUESTION)
    return place


@pytest.fixture
def certified_copy(certified: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(certified, tmp_path / "certified"))


def records(folder: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((folder / "certificate.json").read_text())
    return {record["file"]: record for record in document["artifacts"]}


def seal(folder: Path) -> None:
    """Make the manifest's hashes those of the files."""
    path = folder / "ticket.json"
    body = json.loads(path.read_text())
    write_manifest(folder, Manifest.model_validate(body))


def edit_onnx(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    seal(path.parent)


def test_every_file_that_ships_has_an_entry(certified: Path) -> None:
    found = records(certified)
    assert {file: record["status"] for file, record in found.items()} == {
        "compact.onnx": "certified",
        "int8.onnx": "certified",
        "model.c": "compared",
        "csr.safetensors": "same weights",
    }
    hashes = read_manifest(certified).files
    assert all(record["sha256"] == hashes[file] for file, record in found.items())
    assert (found["compact.onnx"]["batch_size"], found["int8.onnx"]["batch_size"]) == (None, 1)
    for file in ("compact.onnx", "int8.onnx"):
        (result,) = found[file]["results"]
        assert len(result["verdicts"]) == len(result["method"]) == N
        low, high = result["verified_interval"]
        assert low <= result["verified_accuracy"] <= high
        assert result["num_verified"] > 0


def test_the_compacted_network_has_the_tickets_verdicts(certified: Path) -> None:
    document = json.loads((certified / "certificate.json").read_text())
    compact = records(certified)["compact.onnx"]
    assert compact["results"][0]["verdicts"] == document["results"][0]["verdicts"]
    assert compact["max_abs_difference"] <= 1e-5 >= compact["difference_from_weights"]


def test_counterexamples_fool_the_file_itself(certified: Path) -> None:
    runtime = OnnxNetwork((certified / "int8.onnx").read_bytes())
    test = load_data(load_ticket(certified).config.data, "cpu").test
    tensors = safetensors.torch.load_file(certified / "counterexamples.safetensors")
    points = {k: x for k, x in tensors.items() if k.startswith("int8.onnx/")}
    assert len(points) == records(certified)["int8.onnx"]["results"][0]["num_falsified"] > 0
    for key, x in points.items():
        index = int(key.split("/")[2])
        assert (x - test.x[index]).abs().max() <= RADIUS
        assert runtime.logits(x[None].numpy()).argmax() != int(test.y[index])


def test_the_page_tells_of_them(certified: Path) -> None:
    page = (certified / "certificate.md").read_text()
    assert "**int8.onnx: certified**, for batches of 1. 8-bit weights read from the file" in page
    assert "**csr.safetensors: same weights**" in page
    assert f"| int8.onnx | {RADIUS:g} |" in page


def test_one_file_may_be_asked_for(folder: Path) -> None:
    found = verify_ticket(folder, **QUESTION, methods=["ibp"], artifacts=["model.onnx"]).artifacts
    assert [(a.file, a.status) for a in found] == [("model.onnx", "certified")]
    (folder / "certificate.json").unlink()
    assert verify_ticket(folder, **QUESTION, methods=["ibp"], artifacts=[]).artifacts == ()
    with pytest.raises(TicketError, match=r"has no export 'm\.tflite': it has model\.onnx"):
        verify_ticket(folder, artifacts=["m.tflite"])


# Files that are not what they were ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8.onnx", "compact.onnx"])
def test_a_flipped_bit_is_seen(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(TicketError, match=f"{name} was changed"):
        verify_ticket(folder, **QUESTION)


def change_weights(model: onnx.ModelProto) -> None:
    """Reverse the rows of the largest matrix."""
    weight = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    array = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array[::-1]), weight.name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("compact.onnx", r"compact\.onnx and the weights disagree: their logits differ by up to"),
        ("int8.onnx", r"int8\.onnx predicts the weights' class for 0\.\d+ of 256 validation"),
    ],
)
def test_other_weights_are_seen_though_their_hash_is_right(
    folder: Path, name: str, words: str
) -> None:
    edit_onnx(folder / name, change_weights)
    with pytest.raises(TicketError, match=words):
        verify_ticket(folder, **QUESTION)


def test_other_sparse_weights_are_seen_though_their_hash_is_right(folder: Path) -> None:
    path = folder / "csr.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = next(name for name in tensors if name.endswith("weight.values"))
    tensors[name][3] = torch.nextafter(tensors[name][3], torch.tensor(9.0))
    path.write_bytes(safetensors.torch.save(tensors))
    seal(folder)
    with pytest.raises(TicketError, match=r"csr\.safetensors: v\d+\.weight is not the ticket's"):
        verify_ticket(folder, **QUESTION, artifacts=["csr.safetensors"])


@pytest.mark.parametrize("name", ["compact.onnx", "int8.onnx", "model.onnx", "model.h"])
def test_a_file_that_the_ticket_does_not_list_is_no_part_of_it(
    folder: Path, ticket: Ticket, name: str
) -> None:
    save_ticket(ticket, folder.parent / "bare")
    shutil.copy(folder / name, folder.parent / "bare")
    with pytest.raises(TicketError, match=f"{name} is not of this ticket: ticket.json does not"):
        verify_ticket(folder.parent / "bare", **QUESTION)


def test_the_header_is_judged_with_the_source(folder: Path) -> None:
    with pytest.raises(TicketError, match=r"model\.h is judged together with model\.c"):
        verify_ticket(folder, **QUESTION, artifacts=["model.h"])


def test_other_source_is_seen_though_its_hash_is_right(folder: Path) -> None:
    path = folder / "model.c"
    path.write_text(path.read_text() + "\n")
    seal(folder)
    (found,) = verify_ticket(folder, **QUESTION, artifacts=["model.c"]).artifacts
    assert found.status == "not certified"
    assert found.how == (
        "model.c is not what this version generates from the ticket: export it again"
    )


def test_what_cannot_be_read_is_not_certified_and_says_why(folder: Path) -> None:
    def end_in_a_softmax(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "inner"
        model.graph.node.append(onnx.helper.make_node("Identity", ["inner"], ["same"]))
        model.graph.node.append(
            onnx.helper.make_node("Mul", ["same", "one"], ["logits"], name="scaled")
        )
        one = np.ones((), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(one, "one"))
        model.graph.node[-2].op_type = "Softsign"

    edit_onnx(folder / "int8.onnx", end_in_a_softmax)
    (found,) = verify_ticket(folder, **QUESTION, artifacts=["int8.onnx"]).artifacts
    assert (found.status, found.results) == ("not certified", ())
    assert found.how.startswith("Softsign same: this operator")
    assert "**int8.onnx: not certified**. Softsign" in (folder / "certificate.md").read_text()


def test_a_runtime_that_contradicts_a_proof_is_an_error(folder: Path, monkeypatch) -> None:
    run = OnnxNetwork.logits
    monkeypatch.setattr(OnnxNetwork, "logits", lambda self, x: run(self, x) + np.float32(x.mean()))
    with pytest.raises(
        TicketError, match=r"int8\.onnx: the runtime's logits are up to .* off what"
    ):
        verify_ticket(folder, **QUESTION, artifacts=["int8.onnx"])


# Earlier certificates -----------------------------------------------------------------------------


def sealed(document: dict[str, Any]) -> str:
    return json.dumps({**document, "digest": digest(document)})


def forge(folder: Path, old: str, new: str) -> int:
    path = folder / "certificate.json"
    document = json.loads(path.read_text())
    (result,) = next(a for a in document["artifacts"] if a["file"] == "int8.onnx")["results"]
    index = result["verdicts"].index(old)
    result["verdicts"][index] = new
    path.write_text(sealed(document))
    return index


@pytest.mark.parametrize(("old", "new"), [("falsified", "verified"), ("verified", "falsified")])
def test_an_earlier_certificate_of_a_file_must_agree(
    certified_copy: Path, old: str, new: str
) -> None:
    i = forge(certified_copy, old, new)
    before = (certified_copy / "certificate.json").read_bytes()
    words = (
        rf"certificate\.json says that example {i} of the test split, by int8\.onnx, is {new} at "
        rf"radius 0\.05, but now it is {old} at radius 0\.05"
    )
    with pytest.raises(TicketError, match=words):
        verify_ticket(certified_copy, **QUESTION)
    assert (certified_copy / "certificate.json").read_bytes() == before


def test_figures_of_a_file_must_agree_with_an_earlier_certificate(certified_copy: Path) -> None:
    path = certified_copy / "certificate.json"
    document = json.loads(path.read_text())
    artifact = next(a for a in document["artifacts"] if a["file"] == "int8.onnx")
    artifact["results"][0]["verified_accuracy"] -= 3 / N
    path.write_text(sealed(document))
    with pytest.raises(TicketError, match=r"examples by ibp\+.*, of int8\.onnx, but certifying"):
        verify_ticket(certified_copy, **QUESTION)


def test_verifying_again_finds_the_same(certified_copy: Path) -> None:
    before = records(certified_copy)
    verify_ticket(certified_copy, **QUESTION)
    for file, record in records(certified_copy).items():
        verdicts = [result["verdicts"] for result in record["results"]]
        assert verdicts == [result["verdicts"] for result in before[file]["results"]]


def test_a_certificate_without_files_is_replaced_by_one_with_them(folder: Path) -> None:
    verify_ticket(folder, **QUESTION, artifacts=[])
    verify_ticket(folder, **QUESTION, artifacts=["int8.onnx"])
    assert list(records(folder)) == ["int8.onnx"]


def test_certificates_of_the_second_schema_are_read(certified_copy: Path) -> None:
    path = certified_copy / "certificate.json"
    document = json.loads(path.read_text())
    document["schema_version"] = 2
    for name in ("artifacts", "digest", "text"):  # of the third
        del document[name]
    document["results"][0]["verdicts"] = ["verified"] * N
    path.write_text(json.dumps(document))
    with pytest.raises(TicketError, match=r"is verified at radius 0\.05, but now it is"):
        verify_ticket(certified_copy, **QUESTION, artifacts=[])
