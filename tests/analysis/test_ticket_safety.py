"""Reading a ticket of a stranger: nothing in it is run, and no flipped bit goes unnoticed."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load_ticket, save_ticket
from analysis.errors import TicketError
from analysis.manifest import EXPORTS, ExportRecord, read_manifest, sha256, write_manifest
from analysis.onnx_model import onnx_bytes
from analysis.ticket import Ticket

ROOT = Path(__file__).parents[2]
V1 = Path(__file__).parent / "tickets" / "v1"


def record(route: str) -> ExportRecord:
    return ExportRecord(
        files=EXPORTS[route],
        bytes=1,
        compressed_bytes=1,
        max_abs_difference=1e-7,
        tolerance=1e-5,
        agreement=1.0,
        num_examples=28,
        split="validation",
        batch_sizes=(1, 7),
    )


def sealed(folder: Path, **changes: Any) -> None:
    """Write a manifest whose digest and hashes are right, whatever else it says."""
    path = folder / "ticket.json"
    body = {**json.loads(path.read_text()), **changes}
    names = body["files"] if "files" in changes else {name: "" for name in body["files"]}
    body["files"] = {
        name: sha256((folder / name).read_bytes()) if (folder / name).exists() else ""
        for name in names
    }
    del body["digest"]
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**body, "digest": sha256(canonical)}))


# Flipped bits -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, ticket: Ticket) -> Path:
    """A ticket with a file for each way in which it can ship."""
    folder = save_ticket(ticket, tmp_path_factory.mktemp("full") / "ticket")
    for route, names in EXPORTS.items():
        for name in names:
            (folder / name).write_bytes(f"{route} {name} ".encode() * 20)
    records = {route: record(route) for route in EXPORTS}
    write_manifest(folder, read_manifest(folder).model_copy(update={"exports": records}))
    return folder


FILES = ["ticket.json", "ticket.safetensors", *chain.from_iterable(EXPORTS.values())]


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_flipped_bit_in_any_file_is_told_by_name(
    full: Path, name: str, data: st.DataObject
) -> None:
    path, before = full / name, read_manifest(full)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = content[place] ^ 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
    try:
        load_ticket(full)
    except TicketError as error:
        assert name in str(error)
    else:  # 1e-05 and 1E-05 are one number: the manifest says the same as before
        assert name == "ticket.json" and read_manifest(full) == before
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_or_lost_is_told_by_name(full: Path, name: str) -> None:
    path = full / name
    content = path.read_bytes()
    try:
        for rest in (content[:-1], content[: len(content) // 2], b""):
            path.write_bytes(rest)
            if rest.strip() != content.strip():
                with pytest.raises(TicketError, match=name):
                    load_ticket(full)
        path.unlink()
        with pytest.raises(TicketError, match=name):
            load_ticket(full)
    finally:
        path.write_bytes(content)


# Nothing is unpickled or run ----------------------------------------------------------------------


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_in_the_place_of_tensors_is_refused_unopened(
    ticket_copy: Path, tmp_path: Path, how: str, no_pickles: None
) -> None:
    path, bomb = ticket_copy / "ticket.safetensors", tmp_path / "exploded"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(bomb)))
    else:
        torch.save({"weights": Bomb(bomb)}, path)
    with pytest.raises(TicketError, match=r"ticket\.safetensors was changed"):
        load_ticket(ticket_copy)
    sealed(ticket_copy)
    with pytest.raises(TicketError, match=r"safetensors does not hold what ticket\.json lists"):
        load_ticket(ticket_copy)
    assert not bomb.exists()


def test_loading_opens_no_pickle(ticket_copy: Path, no_pickles: None) -> None:
    assert load_ticket(ticket_copy).model()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def header(tensors: object, content: bytes = b"") -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + content


def tensor(shape: list[int], end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


HUGE = 1 << 40
CRAFTED = {
    "empty": b"",
    "a header of 2^63 bytes": struct.pack("<Q", 1 << 63),
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "no JSON": header(b"not json"),
    "deep JSON": header(b"[" * 100_000),
    "an array": header([1, 2]),
    "a huge tensor": header({"weights/fc1.weight": tensor([HUGE], 4 * HUGE)}),
    "a tensor beyond 64 bits": header({"weights/w": tensor([HUGE, HUGE], 0)}),
    "a wrong size": header({"weights/w": tensor([HUGE], 8)}, bytes(8)),
    "an unknown type": header({"weights/w": tensor([1], 4, "OBJECT")}, bytes(4)),
    "an unknown group": header({"code/w": tensor([1], 4)}, bytes(4)),
    "nothing": header({}),
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a_crafted_tensor_file_is_refused_at_no_cost(ticket_copy: Path, what: str) -> None:
    (ticket_copy / "ticket.safetensors").write_bytes(CRAFTED[what])
    sealed(ticket_copy)
    tracemalloc.start()
    try:
        with pytest.raises(TicketError, match="ticket.safetensors"):
            load_ticket(ticket_copy)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [[HUGE, HUGE], [-8, -64], [0], [8, 63], []])
def test_a_crafted_shape_is_refused(ticket_copy: Path, shape: list[int]) -> None:
    layers = json.loads((ticket_copy / "ticket.json").read_text())["layers"]
    layers["fc1.weight"]["shape"] = shape
    sealed(ticket_copy, layers=layers)
    with pytest.raises(TicketError, match=r"fc1\.weight"):
        load_ticket(ticket_copy)


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/hostname", "certificate.json", "a/../model.onnx"]
)
def test_files_elsewhere_are_neither_opened_nor_listed(
    ticket_copy: Path, tmp_path: Path, path: str
) -> None:
    (tmp_path / "secret").write_text("mine")
    files = json.loads((ticket_copy / "ticket.json").read_text())["files"]
    sealed(ticket_copy, files={**files, path: ""})
    with pytest.raises(TicketError, match="files lists"):
        load_ticket(ticket_copy)


def test_an_export_cannot_name_files_of_its_own(full: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full, tmp_path / "t"))
    exports = json.loads((folder / "ticket.json").read_text())["exports"]
    exports["c"]["files"] = ["model.c", "../../model.h"]
    sealed(folder, exports=exports)
    with pytest.raises(TicketError, match=r"export c lists model\.c, \.\./\.\./model\.h"):
        load_ticket(folder)
    exports["gpu"] = exports.pop("c")
    sealed(folder, exports=exports)
    with pytest.raises(TicketError, match="with exports .*gpu"):
        load_ticket(folder)


@pytest.fixture
def usual_depth() -> Iterator[None]:
    """Python's own limit of recursion; hypothesis leaves another behind."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 10, '{"a": 1', "NaN", "[]", "\xff", ""])
def test_a_crafted_manifest_is_refused(ticket_copy: Path, text: str, usual_depth: None) -> None:
    (ticket_copy / "ticket.json").write_text(text, encoding="latin-1")
    with pytest.raises(TicketError, match="ticket.json"):
        load_ticket(ticket_copy)


# The same bytes -----------------------------------------------------------------------------------


SAVE = """
import sys
from pathlib import Path
from analysis.onnx_model import onnx_bytes
from analysis.ticket import load_ticket, save_ticket
ticket, folder = load_ticket(sys.argv[1]), Path(sys.argv[2])
save_ticket(ticket, folder)
(folder / "model.onnx").write_bytes(onnx_bytes(ticket.model(), ticket.input_shape))
"""


def test_saved_again_the_tensors_are_those_that_another_process_wrote(tmp_path: Path) -> None:
    save_ticket(load_ticket(V1), tmp_path / "t")
    name = "ticket.safetensors"
    assert (tmp_path / "t" / name).read_bytes() == (V1 / name).read_bytes()


@pytest.mark.slow
@pytest.mark.long
def test_another_process_in_another_folder_writes_the_same_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run(
        [sys.executable, "-c", SAVE, str(V1), str(there)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"},
        check=True,
    )
    ticket = load_ticket(V1)
    save_ticket(ticket, here)
    (here / "model.onnx").write_bytes(onnx_bytes(ticket.model(), ticket.input_shape))
    for name in ("ticket.json", "ticket.safetensors", "model.onnx"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name


@pytest.mark.slow
def test_model_onnx_is_the_same_each_time_and_says_nothing_of_the_machine_that_wrote_it() -> None:
    ticket = load_ticket(V1)
    content = onnx_bytes(ticket.model(), ticket.input_shape)
    assert onnx_bytes(ticket.model(), ticket.input_shape) == content
    for word in (b".py", b"site-packages", b"stack_trace", str(ROOT).encode()):
        assert word not in content
