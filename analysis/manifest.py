"""ticket.json: the manifest of a ticket, sealed so that an edit of it or of its files is seen."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from analysis.errors import TicketError
from analysis.files import write_whole
from spaces.base import Config
from spaces.trial import TrialConfig

SCHEMA_VERSION = 2
"""1 had `onnx`, the comparison of model.onnx alone, in the place of `exports`."""
MANIFEST = "ticket.json"
TENSORS = "ticket.safetensors"
ONNX = "model.onnx"
COMPACT = "compact.onnx"
INT8 = "int8.onnx"
C_SOURCE, C_HEADER = "model.c", "model.h"
CSR = "csr.safetensors"
EXPORTS: Mapping[str, tuple[str, ...]] = {
    "onnx": (ONNX,),
    "compact": (COMPACT,),
    "int8": (INT8,),
    "c": (C_SOURCE, C_HEADER),
    "csr": (CSR,),
}
"""The files of each route by which a ticket can be shipped."""


class Provenance(Config):
    """How the accuracies were obtained."""

    split: str
    bound: str = Field(description="The cascade of bounds, cheapest first, joined by +.")
    radius: float = Field(description="l-infinity, in data units.")
    num_examples: int
    num_timeouts: int = Field(0, description="Examples left open at this radius for lack of time.")


class LayerCount(Config):
    """Weights of one layer: kept by the mask, and those of them that are not zero."""

    shape: tuple[int, ...]
    kept: int
    nonzero: int


class OnnxCheck(Config):
    """How far the exported model's outputs were from the weights', on validation examples."""

    max_abs_difference: float
    tolerance: float
    num_examples: int
    batch_sizes: tuple[int, ...]
    onnxruntime: str


class ExportRecord(Config):
    """One export of a ticket: what it weighs, how near to the PyTorch model it is, how fast.

    Times are medians on one thread of the machine that exported it, in one interleaved run with
    model.onnx, whose times are `dense_*`; None where it is not run.
    """

    files: tuple[str, ...]
    bytes: int
    compressed_bytes: int = Field(description="The same by xz.")
    max_abs_difference: float = Field(description="Of the logits, from the PyTorch model's.")
    tolerance: float | None = Field(description="What it may be; None where weights are rounded.")
    agreement: float = Field(description="Share of examples with the same predicted class.")
    num_examples: int
    split: str
    batch_sizes: tuple[int, ...]
    latency_s: float | None = Field(None, description="Seconds for one example.")
    latency_256_s: float | None = Field(None, description="Seconds for 256 examples.")
    dense_latency_s: float | None = None
    dense_latency_256_s: float | None = None
    tools: dict[str, str] = Field(default_factory=dict, description="Versions of what was used.")

    @property
    def speedup(self) -> float | None:
        """How many times faster than model.onnx, one example at a time."""
        if self.latency_s is None or self.dense_latency_s is None:
            return None
        return self.dense_latency_s / self.latency_s


class LayerWidth(Config):
    """Units of one layer: in the network, in the compacted one, and the next full vector."""

    name: str
    units: int
    live: int
    padded: int = Field(description="`live` rounded up to a multiple of the vector width.")


class Footprint(Config):
    """What the compacted network needs, counted from its weights."""

    entropy_bound_bytes: int = Field(
        description="Entropy of masks and float32 values: no lossless coding of them is smaller."
    )
    compacted_flops: int
    flash_bytes: int
    ram_bytes: int
    vector_width: int = Field(description="float32 values in a vector of the target.")
    widths: tuple[LayerWidth, ...]


class Manifest(Config):
    """What a ticket says of itself; docs/contract.md lists the promised fields."""

    schema_version: int = SCHEMA_VERSION
    config: TrialConfig
    seed: int
    metrics: dict[str, float]
    provenance: Provenance
    input_shape: tuple[int, ...]
    num_classes: int
    layers: dict[str, LayerCount]
    data_fingerprints: dict[str, str]
    code_version: str
    parent: str = Field("", description="Digest of the ticket that this one was trained from.")
    exports: dict[str, ExportRecord] = Field(default_factory=dict)
    footprint: Footprint | None = None
    files: dict[str, str] = Field(description="sha256 of each file beside this one.")
    digest: str = Field("", description="sha256 of this document's other fields, canonical JSON.")


def sha256(content: bytes) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write ticket.json, sealed and listing the files beside it; same ticket in, same bytes out."""
    files = {name: sha256((folder / name).read_bytes()) for name in sorted(_names(manifest))}
    listed = manifest.model_copy(update={"files": files})
    body = listed.model_dump(mode="json")
    sealed = {**body, "digest": digest(body)}
    text = json.dumps(sealed, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_whole(folder / MANIFEST, text.encode())
    return listed.model_copy(update={"digest": sealed["digest"]})


def read_manifest(folder: Path) -> Manifest:
    """Read ticket.json and check it and every file that it lists.

    TicketError names the file that is missing or altered, with the expected and the found value.
    """
    path = folder / MANIFEST
    body = _read_object(path)
    if body.get("schema_version") not in (*_MIGRATIONS, SCHEMA_VERSION):
        raise TicketError(
            f"{path}: schema_version is {body.get('schema_version')!r}, but this version reads "
            f"{min(_MIGRATIONS)} to {SCHEMA_VERSION}: use the goldenticket version that wrote the "
            f"ticket ({body.get('code_version', 'unknown')})"
        )
    if body.get("digest") != digest(body):
        raise TicketError(
            f"{path} was changed after it was written: it says that its digest is "
            f"{body.get('digest')}, but its content gives {digest(body)}. Export the ticket again"
        )
    try:
        manifest = Manifest.model_validate(_migrated(body, folder))
    except (ValidationError, KeyError, TypeError) as error:
        raise TicketError(f"{path} is not a ticket's manifest: {error}") from error
    _check_names(manifest, path)
    for name, recorded in manifest.files.items():
        _check_file(folder / name, recorded)
    return manifest


def check_no_others(folder: Path, manifest: Manifest) -> None:
    """Raise TicketError for a file that ships and lies in the folder, but is not of this ticket."""
    ship = sorted(chain.from_iterable(EXPORTS.values()))
    others = [name for name in ship if name not in manifest.files and (folder / name).exists()]
    if others:
        raise TicketError(
            f"{folder / others[0]} is not of this ticket: {MANIFEST} does not list it, so nothing "
            "says what it is. Delete it, or export the ticket again with it"
        )


def _names(manifest: Manifest) -> set[str]:
    """The files that belong to a ticket with its exports."""
    routes = (EXPORTS.get(route, ()) for route in manifest.exports)
    return {TENSORS, *chain.from_iterable(routes)}


def _check_names(manifest: Manifest, path: Path) -> None:
    """The files are those of a ticket and of the exports that it has, and no others."""
    expected = _names(manifest)
    if set(manifest.exports) - set(EXPORTS) or set(manifest.files) != expected:
        raise TicketError(
            f"{path}: files lists {', '.join(sorted(manifest.files)) or 'nothing'}, but a ticket "
            f"with exports {', '.join(sorted(manifest.exports)) or 'of no kind'} has "
            f"{', '.join(sorted(expected))}. Export the ticket again"
        )
    for route, record in manifest.exports.items():
        if record.files != EXPORTS[route]:
            raise TicketError(
                f"{path}: export {route} lists {', '.join(record.files) or 'no file'}, but it is "
                f"{', '.join(EXPORTS[route])}. Export the ticket again"
            )


def _migrated(body: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The manifest as this version would have written it; its digest stays that of the file."""
    while body["schema_version"] < SCHEMA_VERSION:
        body = _MIGRATIONS[body["schema_version"]](body, folder)
    return body


def _from_1(body: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`onnx` becomes an export whose times nobody took."""
    rest = {key: value for key, value in body.items() if key != "onnx"}
    return {**rest, "schema_version": 2, "exports": _exports_of_1(body["onnx"], folder)}


def _exports_of_1(check: dict[str, Any] | None, folder: Path) -> dict[str, Any]:
    if check is None:
        return {}
    content = (folder / ONNX).read_bytes() if (folder / ONNX).exists() else b""
    return {
        "onnx": {
            "files": (ONNX,),
            "bytes": len(content),
            "compressed_bytes": len(lzma.compress(content)),
            "max_abs_difference": check["max_abs_difference"],
            "tolerance": check["tolerance"],
            "agreement": 1.0,
            "num_examples": check["num_examples"],
            "split": "validation",
            "batch_sizes": check["batch_sizes"],
            "tools": {"onnxruntime": check["onnxruntime"]},
        }
    }


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any], Path], dict[str, Any]]] = {1: _from_1}


def digest(body: Mapping[str, Any]) -> str:
    """sha256 of a JSON object's fields without `digest`, by which an edit of it is seen."""
    rest = {key: value for key, value in body.items() if key != "digest"}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def _read_object(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        what = f"has no {MANIFEST}" if path.parent.is_dir() else "does not exist"
        raise TicketError(
            f"{path.parent} {what}: give the folder that an export wrote (goldenticket export "
            "STUDY --best verified --to DIR)"
        ) from error
    except OSError as error:
        raise TicketError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{path} is not JSON ({error}). Export the ticket again") from error
    if not isinstance(body, dict):
        raise TicketError(f"{path} holds a JSON {type(body).__name__}, not an object with keys")
    return body


def _check_file(path: Path, recorded: str) -> None:
    try:
        found = sha256(path.read_bytes())
    except OSError as error:
        raise TicketError(
            f"{path} cannot be read ({error.strerror}), but the manifest lists it with sha256 "
            f"{recorded}. Export the ticket again"
        ) from error
    if found != recorded:
        raise TicketError(
            f"{path} was changed: its sha256 is {found}, but the manifest says {recorded}. "
            "Export the ticket again"
        )
