"""A ticket as a version of a model in MLflow's registry, for mlflow.onnx and mlflow.pyfunc."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow.onnx
import numpy as np
import onnx
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from analysis.again import own_data
from analysis.errors import TicketError
from analysis.files import TICKET_FILES
from analysis.manifest import COMPACT, ONNX, read_manifest
from analysis.quiet import quiet
from analysis.store import (
    EXPERIMENT,
    as_default_store,
    no_progress_bar,
    open_store,
    store_address,
)
from analysis.ticket import Ticket, load_ticket
from analysis.version import library_version
from trainers.lowering.onnx_writer import OUTPUT

TICKET_FOLDER = "ticket"
"""Where in the model's artifacts the ticket's own folder lies."""
_LOGGED = "network"
"""The logged model's name. MLflow looks for files of a run whose path begins with it in the model,
and for the model in the process's own store: no folder of a trial's artifacts may be called so."""
_MODEL_FILE, _DESCRIPTION = "model.onnx", "MLmodel"  # as mlflow.onnx calls them
_FORBIDDEN = "/:"
_LONGEST = 256
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_FAULTS = (MlflowException, OSError)


def check_registry(name: str, tracking_uri: str | None = None) -> bool:
    """Whether the registry has a model `name` already; nothing is written.

    TicketError for a name that no model can have, and when the registry cannot be asked.
    """
    if not name.strip() or name != name.strip() or set(name) & set(_FORBIDDEN):
        raise TicketError(
            f"a model cannot be called {name!r}: give a name without / and :, and without blanks "
            "at its ends"
        )
    if name in (".", "..") or len(name) > _LONGEST:
        raise TicketError(f"a model cannot be called {name!r}: give another, shorter name")
    uri = store_address(tracking_uri)
    try:
        open_store(uri).get_registered_model(name)
    except MlflowException as error:
        if error.error_code == _ABSENT:
            return False
        raise TicketError(
            f"the model registry of {uri} cannot be asked for {name!r} ({error.message}): check "
            "the address (--tracking-uri), that the server runs, and that you may use its registry"
        ) from error
    return True


def register_ticket(
    folder: str | Path, name: str, tracking_uri: str | None = None, *, run_id: str | None = None
) -> int:
    """Register the ticket in `folder` as a new version of the model `name`; returns the version.

    What is registered is compact.onnx where the ticket has it, else model.onnx, byte for byte:
    `mlflow.onnx.load_model("models:/NAME/1")`, or `mlflow.pyfunc.load_model` of the same, whose
    `predict` takes float32 (B, *input_shape) and returns {"logits": (B, num_classes)}. With it go
    a validation example, the ticket's digest and figures (metadata, and tags of the version), and
    the ticket's files in `ticket/` of the model's artifacts. The model belongs to the run `run_id`,
    if given. Nothing of it is a pickle.

    TicketError when the ticket is damaged or has no ONNX file, for a name that no model can have,
    and when the registry refuses; what was written until then is removed, or the error names it.
    """
    folder, uri = Path(folder), store_address(tracking_uri)
    is_known = check_registry(name, uri)
    ticket = load_ticket(folder)
    source = _source(ticket, folder)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        about = _about(ticket, source.name, read_manifest(folder).files[source.name], run_id)
        description = _write_model(ticket, source, model, about)
        _copy_ticket(folder, model / TICKET_FOLDER)
        registration = _Registration(open_store(uri), uri, name, run_id)
        try:
            with no_progress_bar(), as_default_store(uri):
                return registration.run(model, description, about, is_known=is_known)
        except _FAULTS as error:
            reason = getattr(error, "message", str(error))
            raise TicketError(
                f"{uri} refused to register {folder} as {name!r} while {registration.doing} "
                f"({reason}): {registration.undone()}"
            ) from error


def _source(ticket: Ticket, folder: Path) -> Path:
    for route, file in (("compact", COMPACT), ("onnx", ONNX)):
        if route in ticket.exports:
            return folder / file
    raise TicketError(
        f"{folder} has neither {COMPACT} nor {ONNX}, of which one is registered: export the ticket "
        "with --onnx or --compact"
    )


def _about(ticket: Ticket, file: str, file_hash: str, run_id: str | None) -> dict[str, Any]:
    """What the registry is told of the ticket."""
    how = ticket.provenance.model_dump()
    return {
        "ticket_digest": ticket.digest,
        "file": file,
        "file_sha256": file_hash,
        "code_version": ticket.code_version,
        "data": ticket.config.data.name,
        **({} if run_id is None else {"run_id": run_id}),
        **how,
        "metrics": dict(ticket.metrics),
    }


def _write_model(ticket: Ticket, source: Path, model: Path, about: dict[str, Any]) -> Model:
    """The model's folder as mlflow.onnx writes it, and its description."""
    x_BCHW = own_data(ticket).validation.x[:1].cpu().numpy()
    description = Model(metadata={"goldenticket": about})
    inputs = TensorSpec(np.dtype(np.float32), (-1, *ticket.input_shape))
    outputs = TensorSpec(np.dtype(np.float32), (-1, ticket.num_classes), OUTPUT)
    with quiet():
        mlflow.onnx.save_model(
            onnx.load(source),
            model,
            mlflow_model=description,
            signature=ModelSignature(Schema([inputs]), Schema([outputs])),
            input_example=x_BCHW,
            # Not found out by importing everything in a new process.
            pip_requirements=[f"{lib}=={library_version(lib)}" for lib in ("onnx", "onnxruntime")],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
        )
    # The very bytes that are certified, should a library write them in another way.
    shutil.copyfile(source, model / _MODEL_FILE)
    return description


def _copy_ticket(folder: Path, to: Path) -> None:
    to.mkdir()
    for path in folder.iterdir():
        if path.name in TICKET_FILES:
            shutil.copyfile(path, to / path.name)


@dataclass
class _Registration:
    """The steps by which a model gets into the registry, and how they are taken back."""

    client: MlflowClient
    uri: str
    name: str
    run_id: str | None
    doing: str = ""
    made: list[tuple[str, Callable[[], object]]] = field(default_factory=list)

    def run(self, model: Path, description: Model, about: dict[str, Any], *, is_known: bool) -> int:
        """Create the name, log the folder as a model, and make it a version."""
        client, name = self.client, self.name
        if not is_known:
            self.doing = "creating the model"
            client.create_registered_model(name)
            self._can_undo(f"the model {name!r}", lambda: client.delete_registered_model(name))
        self.doing = "logging its files"
        logged = client.create_logged_model(self._experiment(), _LOGGED, self.run_id)
        model_id = logged.model_id
        self._can_undo(f"the logged model {model_id}", lambda: client.delete_logged_model(model_id))
        description.model_id = description.model_uuid = model_id
        description.run_id, description.artifact_path = self.run_id, logged.artifact_location
        description.save(str(model / _DESCRIPTION))
        client.log_model_artifacts(model_id, str(model))
        client.finalize_logged_model(model_id, "READY")
        if self.run_id is not None:
            client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step=0)])
        self.doing = "creating the version"
        version = client.create_model_version(
            name, f"models:/{model_id}", self.run_id, _tags(about), model_id=model_id
        )
        return int(version.version)

    def undone(self) -> str:
        """Take back what was made, newest first; what is left, in words."""
        left = []
        for what, remove in reversed(self.made):
            try:
                remove()
            except _FAULTS:
                left.append(what)
        if not left:
            return "nothing of it is left there"
        return f"{' and '.join(left)} could not be removed again and is left there"

    def _can_undo(self, what: str, remove: Callable[[], object]) -> None:
        self.made.append((what, remove))

    def _experiment(self) -> str:
        if self.run_id is not None:
            return str(self.client.get_run(self.run_id).info.experiment_id)
        found = self.client.get_experiment_by_name(EXPERIMENT)
        return str(found.experiment_id if found else self.client.create_experiment(EXPERIMENT))


def _tags(about: dict[str, Any]) -> dict[str, str]:
    flat = {**about, **about["metrics"]}
    del flat["metrics"]
    return {f"goldenticket.{key}": str(value) for key, value in flat.items()}
