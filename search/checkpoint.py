"""A trial's state on disk, from which another worker goes on.

Training is a function of its settings, so that a checkpoint that is lost, torn or of another
version costs time and changes no result: the trial then starts from its first epoch.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.trial import Measurement, TrialJob

_VERSION = 2


def save_checkpoint(job: TrialJob, state: Mapping[str, Any], last: Measurement) -> None:
    """Write the state of a job's trial, whole or not at all. OSError when there is no room.

    `last` is what its last epoch measured: whether that report will arrive is not known yet.
    """
    import torch  # noqa: PLC0415

    document = {
        "version": _VERSION,
        "config": job.config.model_dump_json(),
        "state": dict(state),
        "metrics": dict(last.metrics),
        "provenance": dict(last.provenance),
    }
    path = job.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(job: TrialJob) -> dict[str, Any] | None:
    """What was saved of a job's trial: `state`, and `metrics` and `provenance` of its last epoch.

    None if there is nothing that can be read.
    """
    if not job.checkpoint.exists():
        return None
    import torch  # noqa: PLC0415

    try:
        # On the CPU: the training puts each tensor where it belongs.
        document = torch.load(job.checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        return None
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return None
    if document["config"] != job.config.model_dump_json():
        return None
    return document
