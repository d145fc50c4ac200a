"""From a recorded trial to a ticket folder that can be shipped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from mlflow.exceptions import MlflowException

from analysis.errors import FrontError
from analysis.files import ticket_folder
from analysis.front import Studies, check_rule, load_front, read_studies
from analysis.manifest import MANIFEST, ONNX, TENSORS, read_manifest, write_manifest
from analysis.onnx_model import BATCH_SIZES, check_onnx, write_onnx
from analysis.recorded import Trial
from analysis.store import no_progress_bar, open_store
from analysis.ticket import Ticket, load_ticket
from spaces.metrics import Constraint
from trainers.data import load_data

ARTIFACT = "ticket"
NUM_EXAMPLES = 28


def export_ticket(
    source: Studies | Trial,
    folder: str | Path,
    *,
    run: str | None = None,
    best: str | None = None,
    where: Sequence[str | Constraint] = (),
    tracking_uri: str | None = None,
    onnx: bool = True,
) -> Path:
    """Write the ticket of one trial to `folder`, with `model.onnx` unless `onnx` is False.

    The trial is `source` itself (a member of a front), or that of study `source` (name or YAML
    file, or several) with run id `run`, or the one that rule `best` picks among the trials that
    satisfy `where`. The ONNX model is checked against the weights on validation examples; the
    folder appears whole or not at all, and may replace an older ticket but nothing else.

    FrontError when there is no such trial or it has no ticket; TicketError when the ticket is
    damaged, the network cannot be exported, or the folder cannot be written.
    """
    trial = _choose(source, run, best, where, tracking_uri)
    folder = Path(folder)
    with ticket_folder(folder) as new:
        _download(trial, new)
        ticket = load_ticket(new)
        if onnx:
            add_onnx(ticket, new)
    return folder


def _choose(
    source: Studies | Trial,
    run: str | None,
    best: str | None,
    where: Sequence[str | Constraint],
    tracking_uri: str | None,
) -> Trial:
    if isinstance(source, Trial):
        if run or best or where:
            raise FrontError("a trial was given: run, best and where choose one from a study")
        return source
    if (run is None) == (best is None):
        raise FrontError(
            "which ticket? Give either a run id (--run) or a rule (--best verified, natural, "
            "smallest or knee)"
        )
    if best is not None:
        check_rule(best)
        return load_front(source, tracking_uri=tracking_uri, where=where).best(best)
    if where:
        raise FrontError("where chooses among trials, but run names one: leave one of them out")
    assert run is not None
    return read_studies(source, tracking_uri=tracking_uri, study_run="all").trial(run)


def _download(trial: Trial, folder: Path) -> None:
    client = open_store(trial.tracking_uri)
    try:
        present = {item.path for item in client.list_artifacts(trial.run_id, ARTIFACT)}
        if not present:
            raise FrontError(
                f"run {trial.run_id} (trial {trial.number}, {trial.state}) has no ticket: only "
                "completed trials have one; `goldenticket front` lists them"
            )
        with tempfile.TemporaryDirectory() as scratch, no_progress_bar():
            for name in (MANIFEST, TENSORS):
                path = client.download_artifacts(trial.run_id, f"{ARTIFACT}/{name}", scratch)
                shutil.copyfile(path, folder / name)
    except (MlflowException, OSError) as error:
        raise FrontError(
            f"the ticket of run {trial.run_id} cannot be read from the artifacts of "
            f"{trial.tracking_uri}: {error}"
        ) from error


def add_onnx(ticket: Ticket, folder: Path) -> None:
    """Write model.onnx beside a saved ticket, checked on validation examples; TicketError."""
    data = load_data(ticket.config.data, torch.device("cpu"))
    model = ticket.model()
    write_onnx(model, ticket.input_shape, folder / ONNX)
    check = check_onnx(folder / ONNX, model, data.validation.x[:NUM_EXAMPLES], BATCH_SIZES)
    write_manifest(folder, read_manifest(folder).model_copy(update={"onnx": check}))
