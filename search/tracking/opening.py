"""Opening a tracking store for a search: its experiment, and the search's own run."""

from __future__ import annotations

import json
import logging
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.files import write_whole
from analysis.store import EXPERIMENT, limit_waiting
from analysis.version import code_version
from search.records import SearchRun
from search.tracking.runs import SearchRuns
from spaces.base import ConfigError

_NOTE = "tracking.json"


def open_search(uri: str, search: SearchRun) -> SearchRuns:
    """The runs that an earlier part of this search wrote to, or a new one for the search.

    Raises ConfigError when the store cannot be opened or written to.
    """
    _be_quiet()
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = _open_experiment(client, uri)
        return SearchRuns(client, uri, search, _open_run(client, experiment, uri, search))
    except (MlflowException, OSError) as error:
        raise ConfigError(
            f"tracking.uri: {uri} cannot be written to ({error}): check the address, or give "
            "another one by --tracking-uri"
        ) from error


def _be_quiet() -> None:
    """Keep MLflow from printing, and from asking a slow server for the same run twice."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is told by a warning
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    limit_waiting(retries=0)


def _open_experiment(client: MlflowClient, uri: str) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return str(client.create_experiment(EXPERIMENT, _artifact_location(uri)))
    if found.lifecycle_stage == "deleted":
        raise ConfigError(
            f"tracking.uri: the experiment {EXPERIMENT!r} in {uri} has been deleted: restore it "
            f"(`mlflow experiments restore -x {found.experiment_id}`) or use another store"
        )
    return str(found.experiment_id)


def _artifact_location(uri: str) -> str | None:
    """Beside a SQLite file, so that `mlflow ui` needs no set-up; elsewhere the server decides."""
    if not uri.startswith("sqlite:///"):
        return None
    folder = Path(uri.removeprefix("sqlite:///")).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "mlartifacts").as_uri()


def _open_run(client: MlflowClient, experiment: str, uri: str, search: SearchRun) -> Run:
    path = search.folder / _NOTE
    note = _Note.read(path)
    if note is None:
        # Noted before the run is made: a process may be killed, or get no answer, in between.
        note = _Note(uuid.uuid4().hex)
        note.write(path)
    elif known := _find_run(client, experiment, note.search, note.runs.get(uri)):
        client.update_run(known.info.run_id, status="RUNNING")
        return known
    tags = {
        "goldenticket.study": search.study.name,
        "goldenticket.version": code_version(),
        "goldenticket.objectives": ",".join(search.study.objectives),
        "goldenticket.seed": str(search.study.seed),
        "goldenticket.executor": search.executor,
        "goldenticket.folder": str(search.folder.absolute()),
        "goldenticket.search": note.search,
    }
    run = client.create_run(experiment, tags=tags, run_name=search.study.name)
    client.log_artifact(run.info.run_id, str(search.folder / "study.yaml"))
    note.runs[uri] = run.info.run_id
    note.write(path)
    return run


@dataclass
class _Note:
    """What a search notes in its folder: its own identifier, and its run in each store, by URI."""

    search: str
    runs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Note | None:
        if not path.exists():
            return None
        known = json.loads(path.read_text())
        return cls(known["search"], known.get("runs", {}))

    def write(self, path: Path) -> None:
        write_whole(path, (json.dumps(asdict(self)) + "\n").encode())


def _find_run(client: MlflowClient, experiment: str, search: str, run_id: str | None) -> Run | None:
    """The run of a search; None when the store does not have it."""
    if run_id is None:
        query = f"tags.goldenticket.search = '{search}'"
        found: list[Run] = client.search_runs([experiment], query, max_results=1)
        return found[0] if found else None
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None  # another database at the same address: all is written to it anew
