"""What ships is what the weights say, of the stated size, and told in ticket.json."""

import json
import lzma
import math
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch
from torch import nn

from analysis.errors import TicketError
from analysis.export import export_ticket
from analysis.exports import add_exports
from analysis.exports.add import check_routes
from analysis.exports.csr import csr_bytes, from_csr
from analysis.exports.footprint import entropy_bound_bytes
from analysis.manifest import EXPORTS
from analysis.ticket import Ticket, load_ticket, save_ticket
from trainers.data import load_data
from trainers.lowering import simplify
from trainers.lowering.onnx_writer import onnx_model

MODELS = [
    {"family": "mlp", "widths": [12, 8], "batch_norm": True},
    {"family": "cnn", "channels": [4, 6], "hidden": [10]},
    {"family": "resnet", "width": 3, "blocks": [1]},
]


@pytest.fixture(scope="module")
def exported(ticket: Ticket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bare = save_ticket(ticket, tmp_path_factory.mktemp("bare") / "t")
    return export_ticket(
        bare, tmp_path_factory.mktemp("exported") / "t", routes=("onnx", "compact", "csr")
    )


def test_a_tickets_folder_is_exported_like_a_trial(exported: Path, ticket: Ticket) -> None:
    names = {"ticket.json", "ticket.safetensors", "model.onnx", "compact.onnx", "csr.safetensors"}
    assert set(os.listdir(exported)) == names
    found = load_ticket(exported)
    assert found.metrics == ticket.metrics
    assert set(found.exports) == {"onnx", "compact", "csr"}


def test_the_manifest_tells_of_each_export_what_was_measured(exported: Path) -> None:
    manifest = json.loads((exported / "ticket.json").read_text())
    for route, record in manifest["exports"].items():
        content = b"".join((exported / name).read_bytes() for name in EXPORTS[route])
        assert record["bytes"] == len(content)
        assert record["compressed_bytes"] == len(lzma.compress(content))
        assert 0.0 <= record["max_abs_difference"] <= record["tolerance"]
        assert record["agreement"] == 1.0
        assert (record["num_examples"], record["split"]) == (256, "validation")
        for name in ("latency_s", "latency_256_s", "dense_latency_s", "dense_latency_256_s"):
            assert 0.0 < record[name] < 1.0
        assert record["tools"]


@pytest.mark.parametrize("batch", [1, 5])
def test_compact_onnx_gives_the_weights_outputs(exported: Path, ticket: Ticket, batch: int) -> None:
    x_BCHW = load_data(ticket.config.data, "cpu").validation.x[:batch]
    session = onnxruntime.InferenceSession(
        (exported / "compact.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["logits"], {"x": x_BCHW.numpy()})
    with torch.no_grad():
        assert np.abs(found - ticket.model()(x_BCHW).numpy()).max() <= 1e-5


def test_exports_are_the_same_bytes_again(exported: Path, tmp_path: Path) -> None:
    again = export_ticket(exported, tmp_path / "again", routes=("compact", "csr"))
    for name in ("ticket.safetensors", "compact.onnx", "csr.safetensors"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()
    assert not (again / "model.onnx").exists()


@pytest.mark.parametrize("name", ["compact.onnx", "csr.safetensors", "model.onnx"])
def test_a_flipped_bit_is_seen(exported: Path, tmp_path: Path, name: str) -> None:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TicketError, match=f"{name} was changed"):
        load_ticket(tmp_path)


def test_a_file_that_is_not_there_is_named(exported: Path, tmp_path: Path) -> None:
    for file in exported.iterdir():
        if file.name != "compact.onnx":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TicketError, match=r"compact\.onnx cannot be read"):
        load_ticket(tmp_path)


def test_a_folder_with_other_files_is_left_alone(ticket: Ticket, tmp_path: Path) -> None:
    bare = save_ticket(ticket, tmp_path / "bare")
    place = tmp_path / "place"
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")
    with pytest.raises(TicketError, match=r"is not a ticket \(thesis\.tex\)"):
        export_ticket(bare, place, routes=("compact",))
    assert os.listdir(place) == ["thesis.tex"]


def test_a_folder_is_not_replaced_by_one_that_holds_less(ticket: Ticket, tmp_path: Path) -> None:
    folder = save_ticket(ticket, tmp_path / "t")
    export_ticket(folder, folder, routes=("csr",))
    assert set(load_ticket(folder).exports) == {"csr"}
    with pytest.raises(TicketError, match=r"would lose csr\.safetensors: export to another folder"):
        export_ticket(folder, folder, routes=("compact",))
    export_ticket(folder, folder, routes=("compact", "csr"))
    (folder / "certificate.json").write_text("{}")
    with pytest.raises(TicketError, match=r"would lose certificate\.json"):
        export_ticket(folder, folder, routes=("compact", "csr"))


def test_an_unknown_route_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="there is no export 'tflite': use onnx, compact, "):
        check_routes(["onnx", "tflite"])
    with pytest.raises(TicketError, match=r"routes is the text 'onnx': give a tuple, \('onnx',\)"):
        check_routes("onnx")
    with pytest.raises(TicketError, match="there is no export 'tflite'"):
        export_ticket("no study", tmp_path / "t", routes=["tflite"])


def test_a_network_that_is_not_its_export_is_an_error(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_ticket(ticket, tmp_path / "t")
    spoilt = csr_bytes

    def other(program: nn.Module) -> bytes:
        for step in program.steps:
            if isinstance(step.op, nn.Linear):
                step.op.bias.data[0] += 0.01
        return spoilt(program)

    monkeypatch.setattr("analysis.exports.routes.csr_bytes", other)
    with pytest.raises(TicketError, match=r"csr\.safetensors and the weights disagree: .* 0\.01"):
        add_exports(ticket, folder, ["csr"])
    assert sorted(os.listdir(folder)) == ["ticket.json", "ticket.safetensors"]
    assert load_ticket(folder).exports == {}


class TestCsr:
    def test_rows_by_hand(self) -> None:
        layer = nn.Linear(3, 3)
        layer.weight.data = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]])
        layer.bias.data = torch.tensor([1.0, 2.0, 3.0])
        program = simplify(nn.Sequential(layer), (3,))
        arrays = safetensors.numpy.load(csr_bytes(program))
        assert arrays["v1.weight.row_ends"].tolist() == [1, 1, 3]
        assert arrays["v1.weight.columns"].tolist() == [1, 0, 2]
        assert arrays["v1.weight.values"].tolist() == [2.0, 1.0, 3.0]
        assert arrays["v1.weight.shape"].tolist() == [3, 3]
        assert arrays["v1.bias"].tolist() == [1.0, 2.0, 3.0]
        assert arrays["v1.weight.columns"].dtype == np.uint8

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model["family"])
    def test_the_weights_come_back_bit_by_bit(self, model: dict, ticket_of) -> None:
        ticket = ticket_of(model, density=0.2)
        program = simplify(ticket.model(), ticket.input_shape)
        found = from_csr(program, csr_bytes(program))
        for name, before in program.state_dict().items():
            assert torch.equal(before, found.state_dict()[name])

    def test_constants_that_no_layer_can_take_are_there_too(self, ticket_of) -> None:
        ticket = ticket_of({"family": "cnn", "channels": [2], "hidden": [4]})
        program = simplify(ticket.model(), ticket.input_shape)
        arrays = safetensors.numpy.load(csr_bytes(program))
        normalize = ticket.model().get_submodule("normalize")
        assert arrays["v1.scale"] == pytest.approx(1 / normalize.std.numpy())
        assert arrays["v1.shift"] == pytest.approx((-normalize.mean / normalize.std).numpy())
        onnx_names = {c.name for c in onnx_model(program, ticket.input_shape).graph.initializer}
        assert {"v1.scale", "v1.shift"} <= onnx_names & set(arrays)

    def test_a_file_of_another_network_is_refused(self, ticket_of) -> None:
        one, other = (
            simplify(ticket.model(), ticket.input_shape)
            for ticket in (ticket_of(MODELS[0]), ticket_of(MODELS[1]))
        )
        with pytest.raises(TicketError, match="does not hold this network's weights"):
            from_csr(one, csr_bytes(other))


class TestEntropyBound:
    def test_by_hand(self) -> None:
        layer = nn.Linear(4, 2, bias=True)
        layer.weight.data = torch.tensor([[1.5, 0, 0, 0], [0, -1.25, 0, 0]])
        layer.bias.data = torch.tensor([4.0, 7.0])
        program = simplify(nn.Sequential(layer), (4,), compacted=False)
        # (8 choose 2) = 28 masks; of four values, two have the same sign and exponent.
        heads = 2 * 1.0 + 2 * 2.0
        assert entropy_bound_bytes(program) == math.ceil((math.log2(28) + heads + 4 * 23) / 8)

    def test_sparse_rows_come_near_it_on_a_wide_layer(self) -> None:
        draw = torch.Generator().manual_seed(0)
        layer = nn.Linear(1000, 300, bias=False)
        mask = torch.rand(300, 1000, generator=draw) < 0.05
        layer.weight.data = torch.randn(300, 1000, generator=draw) * mask
        program = simplify(nn.Sequential(layer), (1000,))
        bound, content = entropy_bound_bytes(program), csr_bytes(program)
        assert bound < len(lzma.compress(content)) <= 1.3 * bound


def test_the_footprint_is_that_of_the_compacted_network(ticket_of, tmp_path: Path) -> None:
    ticket = ticket_of({"family": "mlp", "widths": [40]})
    name = next(iter(ticket.masks))
    ticket.masks[name][:25] = False
    ticket.weights[name][:25] = 0.0
    ticket.weights[name.replace("weight", "bias")][:25] = -1.0  # these are never on
    folder = save_ticket(ticket, tmp_path / "t")
    add_exports(ticket, folder, ["compact"], vector_width=8)
    footprint = load_ticket(folder).footprint
    assert footprint is not None
    (width,) = footprint.widths
    assert (width.name, width.units, width.live, width.padded) == ("fc1", 40, 15, 16)
    assert footprint.vector_width == 8
    assert footprint.compacted_flops == 2 * (64 * 15 + 15 * 10)
    assert footprint.entropy_bound_bytes < footprint.flash_bytes
