"""ticket.json: the manifest of a ticket, sealed so that an edit of it or of its files is seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from analysis.errors import TicketError
from analysis.files import write_whole
from spaces.base import Config
from spaces.trial import TrialConfig

SCHEMA_VERSION = 1
MANIFEST = "ticket.json"
TENSORS = "ticket.safetensors"
ONNX = "model.onnx"


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
    onnx: OnnxCheck | None = None
    files: dict[str, str] = Field(description="sha256 of each file beside this one.")
    digest: str = Field("", description="sha256 of this document's other fields, canonical JSON.")


def sha256(content: bytes) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write ticket.json, sealed and listing the files beside it; same ticket in, same bytes out."""
    files = {
        name: sha256((folder / name).read_bytes())
        for name in (TENSORS, ONNX)
        if (folder / name).exists()
    }
    listed = manifest.model_copy(update={"files": files})
    body = listed.model_dump(mode="json")
    sealed = {**body, "digest": _digest(body)}
    text = json.dumps(sealed, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_whole(folder / MANIFEST, text.encode())
    return listed.model_copy(update={"digest": sealed["digest"]})


def read_manifest(folder: Path) -> Manifest:
    """Read ticket.json and check it and every file that it lists.

    TicketError names the file that is missing or altered, with the expected and the found value.
    """
    path = folder / MANIFEST
    body = _read_object(path)
    if body.get("schema_version") != SCHEMA_VERSION:
        raise TicketError(
            f"{path}: schema_version is {body.get('schema_version')!r}, but this version reads "
            f"{SCHEMA_VERSION}: use the goldenticket version that wrote the ticket "
            f"({body.get('code_version', 'unknown')})"
        )
    if body.get("digest") != _digest(body):
        raise TicketError(
            f"{path} was changed after it was written: it says that its digest is "
            f"{body.get('digest')}, but its content gives {_digest(body)}. Export the ticket again"
        )
    try:
        manifest = Manifest.model_validate(body)
    except ValidationError as error:
        raise TicketError(f"{path} is not a ticket's manifest: {error}") from error
    if TENSORS not in manifest.files or set(manifest.files) - {TENSORS, ONNX}:
        raise TicketError(
            f"{path}: files lists {', '.join(sorted(manifest.files)) or 'nothing'}, but a ticket "
            f"has {TENSORS} and, once exported, {ONNX}"
        )
    for name, recorded in manifest.files.items():
        _check_file(folder / name, recorded)
    return manifest


def _digest(body: dict[str, Any]) -> str:
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
    except ValueError as error:
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
