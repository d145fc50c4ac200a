"""A ticket comes back as it was saved, and every change of its folder is seen."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import TicketError
from analysis.manifest import read_manifest, sha256, write_manifest
from analysis.ticket import Ticket, load_ticket, save_ticket


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


def test_a_ticket_comes_back_as_it_was_saved(ticket: Ticket, tmp_path: Path) -> None:
    found = load_ticket(save_ticket(ticket, tmp_path / "t"))
    assert same(found.weights, ticket.weights)
    assert same(found.masks, ticket.masks)
    assert same(found.initial_weights, ticket.initial_weights)
    for name in ("config", "metrics", "provenance", "input_shape", "seed", "code_version"):
        assert getattr(found, name) == getattr(ticket, name)


def test_a_dense_twin_comes_along(ticket: Ticket, tmp_path: Path) -> None:
    twin = {name: value + 1 for name, value in ticket.weights.items()}
    found = load_ticket(save_ticket(replace(ticket, dense_twin=twin), tmp_path / "t"))
    assert same(found.dense_twin, twin) and same(found.weights, ticket.weights)
    assert same(found.model(dense_twin=True).state_dict(), twin)


def test_a_ticket_without_a_dense_twin_says_so(ticket: Ticket, tmp_path: Path) -> None:
    found = load_ticket(save_ticket(ticket, tmp_path / "t"))
    assert found.dense_twin == {}
    with pytest.raises(TicketError, match="no dense twin: its method is .* acdc and deadwooding"):
        found.model(dense_twin=True)


@pytest.mark.parametrize(
    "model",
    [
        {"family": "cnn", "channels": [2], "hidden": [5], "batch_norm": True},
        {"family": "resnet", "width": 2, "blocks": [1]},
    ],
)
def test_the_model_of_a_loaded_ticket_gives_the_same_outputs(
    model, ticket_of, tmp_path: Path
) -> None:
    saved = ticket_of(model)
    found = load_ticket(save_ticket(saved, tmp_path / "t"))
    x_BCHW = torch.rand(4, *saved.input_shape, generator=torch.Generator().manual_seed(1))
    network = found.model()
    assert not network.training
    assert torch.equal(network(x_BCHW), saved.model()(x_BCHW))


def test_the_folder_holds_the_promised_files_and_fields(ticket_copy: Path) -> None:
    assert sorted(os.listdir(ticket_copy)) == ["ticket.json", "ticket.safetensors"]
    manifest = json.loads((ticket_copy / "ticket.json").read_text())
    assert manifest["schema_version"] == 2
    assert manifest["config"]["evaluation"]["radius"] == 0.05
    assert manifest["provenance"] == {
        "split": "validation",
        "bound": "ibp",
        "radius": 0.05,
        "num_examples": 100,
        "num_timeouts": 0,
    }
    content = (ticket_copy / "ticket.safetensors").read_bytes()
    assert manifest["files"] == {"ticket.safetensors": sha256(content)}
    assert {"metrics", "layers", "seed", "code_version", "digest"} <= manifest.keys()


def test_a_hand_counted_layer(ticket: Ticket) -> None:
    weights, masks = dict(ticket.weights), dict(ticket.masks)
    name = next(iter(masks))
    masks[name] = torch.zeros_like(masks[name])
    masks[name][0, :3] = True
    weights[name] = torch.zeros_like(weights[name])
    weights[name][0, :2] = 0.5
    layer = replace(ticket, weights=weights, masks=masks).layers[name]
    assert (layer.kept, layer.nonzero, layer.shape) == (3, 2, tuple(weights[name].shape))


def test_saving_twice_gives_the_same_bytes(ticket: Ticket, tmp_path: Path) -> None:
    first, second = save_ticket(ticket, tmp_path / "a"), save_ticket(ticket, tmp_path / "b")
    for name in ("ticket.json", "ticket.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 3))
def test_a_mask_is_stored_as_eight_weights_to_the_byte(
    tmp_path_factory, ticket: Ticket, bits: list[bool], rows: int
) -> None:
    mask = torch.tensor([bits] * rows)
    weight = torch.arange(1.0, mask.numel() + 1).reshape(mask.shape) * mask
    small = replace(
        ticket, weights={"w": weight}, masks={"w": mask}, initial_weights={"w": weight + 1}
    )
    folder = save_ticket(small, tmp_path_factory.mktemp("packed") / "t")
    tensors = safetensors.torch.load_file(folder / "ticket.safetensors")
    assert tensors["masks/w"].numpy().tobytes() == np.packbits(bits * rows).tobytes()
    assert len(tensors["weights/w"]) == int(mask.sum())
    found = load_ticket(folder)
    assert torch.equal(found.masks["w"], mask)
    assert torch.equal(found.weights["w"], weight)


def test_a_sparse_ticket_is_stored_small(ticket_of, tmp_path: Path) -> None:
    wide = ticket_of({"family": "mlp", "widths": [512]}, density=0.05)
    folder = save_ticket(replace(wide, initial_weights={}), tmp_path / "t")
    dense_bytes = sum(4 * weight.numel() for weight in wide.weights.values())
    assert (folder / "ticket.safetensors").stat().st_size < 0.2 * dense_bytes


# What goes wrong


def test_an_altered_tensor_file_is_named_with_both_hashes(ticket_copy: Path) -> None:
    path = ticket_copy / "ticket.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(TicketError) as caught:
        load_ticket(ticket_copy)
    for word in ("ticket.safetensors", sha256(before), sha256(path.read_bytes())):
        assert word in str(caught.value)


def test_an_edited_figure_in_the_manifest_is_seen(ticket_copy: Path) -> None:
    path = ticket_copy / "ticket.json"
    edited = re.sub(r'"natural_accuracy": [\d.]+', '"natural_accuracy": 0.9', path.read_text())
    path.write_text(edited)
    with pytest.raises(TicketError, match="ticket.json was changed.*digest"):
        load_ticket(ticket_copy)


def test_reformatting_the_manifest_changes_nothing(ticket_copy: Path) -> None:
    path = ticket_copy / "ticket.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    load_ticket(ticket_copy)


def test_counts_are_taken_again_from_the_weights(ticket_copy: Path) -> None:
    manifest = read_manifest(ticket_copy)
    name, layer = next(iter(manifest.layers.items()))
    claimed = layer.model_copy(update={"nonzero": layer.nonzero - 1})
    write_manifest(
        ticket_copy, manifest.model_copy(update={"layers": {**manifest.layers, name: claimed}})
    )
    with pytest.raises(TicketError, match=f"{name} keeps .* {layer.nonzero} .* {claimed.nonzero}"):
        load_ticket(ticket_copy)


def test_a_tensor_file_that_is_not_the_manifests_is_seen_behind_a_forged_hash(
    ticket_copy: Path,
) -> None:
    content = safetensors.torch.save({"weights/other": torch.zeros(3)})
    (ticket_copy / "ticket.safetensors").write_bytes(content)
    write_manifest(ticket_copy, read_manifest_unchecked(ticket_copy))
    with pytest.raises(TicketError, match=r"ticket\.safetensors does not hold"):
        load_ticket(ticket_copy)


def test_a_tensor_file_that_is_no_safetensors_is_seen_behind_a_forged_hash(
    ticket_copy: Path,
) -> None:
    (ticket_copy / "ticket.safetensors").write_bytes(b"\x80\x04pickle")
    write_manifest(ticket_copy, read_manifest_unchecked(ticket_copy))
    with pytest.raises(TicketError, match=r"ticket\.safetensors does not hold"):
        load_ticket(ticket_copy)


def read_manifest_unchecked(folder: Path):
    from analysis.manifest import Manifest

    return Manifest.model_validate(json.loads((folder / "ticket.json").read_text()))


@pytest.mark.parametrize("name", ["ticket.json", "ticket.safetensors"])
def test_a_missing_file_is_named(ticket_copy: Path, name: str) -> None:
    (ticket_copy / name).unlink()
    with pytest.raises(TicketError, match=name):
        load_ticket(ticket_copy)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=r"nowhere does not exist.*export"):
        load_ticket(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "JSON list"),
        ("{}", "schema_version is None"),
        ('{"schema_version": 99, "code_version": "9.0"}', "schema_version is 99.*9.0"),
    ],
)
def test_a_manifest_that_is_none_is_told(ticket_copy: Path, text: str, words: str) -> None:
    (ticket_copy / "ticket.json").write_text(text)
    with pytest.raises(TicketError, match=words):
        load_ticket(ticket_copy)


def test_a_nan_is_not_written(ticket: Ticket, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="verified_accuracy"):
        save_ticket(replace(ticket, metrics={"verified_accuracy": float("nan")}), tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_a_weight_outside_its_mask_is_not_written(ticket: Ticket, tmp_path: Path) -> None:
    name = next(iter(ticket.masks))
    spoiled = {**ticket.weights, name: torch.ones_like(ticket.weights[name])}
    with pytest.raises(TicketError, match=f"{name} has .* not zero where its mask is"):
        save_ticket(replace(ticket, weights=spoiled), tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_an_older_ticket_is_replaced_whole(ticket: Ticket, tmp_path: Path) -> None:
    folder = save_ticket(ticket, tmp_path / "t")
    (folder / "certificate.json").write_text("{}")
    save_ticket(replace(ticket, metrics={}), folder)
    assert sorted(os.listdir(folder)) == ["ticket.json", "ticket.safetensors"]
    assert load_ticket(folder).metrics == {}
    assert os.listdir(tmp_path) == ["t"]


def test_a_folder_with_other_content_is_left_alone(ticket: Ticket, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.tex").write_text("dear")
    with pytest.raises(TicketError, match=r"not a ticket \(thesis.tex\)"):
        save_ticket(ticket, tmp_path / "t")
    assert os.listdir(tmp_path / "t") == ["thesis.tex"]


def test_a_file_in_the_way_is_told_and_nothing_is_half_written(
    ticket: Ticket, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TicketError, match=r"file/t cannot be written \(.+\)"):
        save_ticket(ticket, tmp_path / "file" / "t")
    with pytest.raises(TicketError, match="is not a folder"):
        save_ticket(ticket, tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_an_interruption_in_mid_write_leaves_nothing(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.ticket.write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_ticket(ticket, tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_a_network_that_cannot_be_imported_is_named(ticket: Ticket, tmp_path: Path) -> None:
    model = {"family": "python", "python": "no_such_package.nets:small"}
    config = ticket.config.model_validate({**ticket.config.model_dump(), "model": model})
    found = load_ticket(save_ticket(replace(ticket, config=config), tmp_path / "t"))
    with pytest.raises(TicketError, match="no_such_package.nets:small"):
        found.model()


def test_weights_of_another_network_are_told(ticket_of, tmp_path: Path) -> None:
    ticket = ticket_of()
    wider = ticket.config.model.model_copy(update={"widths": (9,)})
    config = ticket.config.model_copy(update={"model": wider})
    with pytest.raises(TicketError, match="mlp network cannot be built from its weights"):
        replace(ticket, config=config).model()
