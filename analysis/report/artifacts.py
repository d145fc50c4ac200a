"""What a report reads in a study's runs besides their last figures: curves, files, manifests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.errors import FrontError
from analysis.export import ARTIFACT
from analysis.manifest import MANIFEST, LayerCount
from analysis.recorded import StudyRecord, Trial
from analysis.store import no_progress_bar, open_store
from spaces.base import ConfigError
from spaces.study import StudyConfig

STUDY_FILE = "study.yaml"
CURVES = ("natural_accuracy", "verified_accuracy", "rung_score", "train_epsilon")
FOLDER = "report"

Curve = tuple[tuple[int, float], ...]
"""Epochs and values, in the order of the epochs."""


@dataclass(frozen=True)
class Learning:
    """How one trial's figures developed, per metric of CURVES that it has.

    `seconds` went by from its start to the last of these figures, waiting at rungs included.
    """

    trial: Trial
    curves: Mapping[str, Curve]
    seconds: float


def read_study_file(record: StudyRecord) -> StudyConfig | None:
    """The study file that the newest search recorded; None when it has none that can be read."""
    client = open_store(record.tracking_uri)
    try:
        with tempfile.TemporaryDirectory() as scratch, no_progress_bar():
            return StudyConfig.from_yaml(
                client.download_artifacts(record.run_ids[0], STUDY_FILE, scratch)
            )
    except (MlflowException, OSError, ConfigError):
        return None  # the report says so, and does without rungs


def read_learning(trials: Sequence[Trial]) -> list[Learning]:
    """The curves of these trials; those without any are left out."""
    if not trials:
        return []
    clients = {uri: open_store(uri) for uri in {trial.tracking_uri for trial in trials}}
    with _readable(", ".join(sorted(clients))):
        found = [_learning(clients[trial.tracking_uri], trial) for trial in trials]
    return [learning for learning in found if learning.curves]


def _learning(client: MlflowClient, trial: Trial) -> Learning:
    curves: dict[str, Curve] = {}
    last = trial.started
    for name in CURVES:
        if name not in trial.metrics:
            continue
        # The last point of an epoch counts: at its end a trial is measured again, with more care.
        history = client.get_metric_history(trial.run_id, name)
        points = {point.step: point.value for point in history}
        last = max([last, *(point.timestamp for point in history)])
        if len(points) > 1:
            curves[name] = tuple(sorted(points.items()))
    return Learning(trial, curves, (last - trial.started) / 1000)


def read_layers(trials: Sequence[Trial]) -> dict[str, dict[str, LayerCount]]:
    """Per run id, the layers that its ticket lists; runs without a ticket are left out."""
    found = {}
    for trial in trials:
        client = open_store(trial.tracking_uri)
        try:
            with tempfile.TemporaryDirectory() as scratch, no_progress_bar():
                path = client.download_artifacts(trial.run_id, f"{ARTIFACT}/{MANIFEST}", scratch)
                layers = json.loads(Path(path).read_bytes())["layers"]
            found[trial.run_id] = {k: LayerCount.model_validate(v) for k, v in layers.items()}
        except (MlflowException, OSError, KeyError, ValueError):
            continue  # the figure says how many it shows
    return found


def log_files(record: StudyRecord, files: Sequence[Path]) -> None:
    """Keep files with the newest search's run, under `report/`; FrontError when it refuses."""
    client = open_store(record.tracking_uri)
    try:
        with no_progress_bar():
            for path in files:
                client.log_artifact(record.run_ids[0], str(path), FOLDER)
    except (MlflowException, OSError) as error:
        raise FrontError(
            f"the tracking store {record.tracking_uri} did not take the report ({error}), but "
            f"{', '.join(map(str, files[:1]))} is written: log it later, or use --no-log"
        ) from error


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise FrontError(f"the tracking store {uri} cannot be read: {error.message}") from error
