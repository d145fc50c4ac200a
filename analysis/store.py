"""Reading studies from MLflow; the only writer is search/tracking."""

from __future__ import annotations

import difflib
import os
import sqlite3
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
from mlflow.entities import Experiment, Run, ViewType
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_TRACKING_URI,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.errors import FrontError
from analysis.recorded import StudyRecord, Trial
from analysis.trial_index import INDEX, INDEX_TAG, PARETO, TrialIndex, unpack
from spaces.study import StudyConfig

EXPERIMENT = "goldenticket"
DEFAULT_URI = "sqlite:///mlflow.db"
NEWEST, ALL = "newest", "all"
_PAGE = 1000
_IDS_AT_ONCE = 200
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_set_here: dict[str, str] = {}  # variables of the environment


def read_study(
    study: str | Path,
    *,
    tracking_uri: str | None = None,
    study_run: str = NEWEST,
    use_index: bool = True,
) -> StudyRecord:
    """Read a study by its name or YAML file: its newest search, `all`, or the one with a run id.

    Large searches keep an index of their trials; without `use_index` every run is read instead,
    with the same result. FrontError when there is no such tracking store or study; it lists the
    names that exist.
    """
    name, uri, objectives = _resolve(study, tracking_uri)
    client = open_store(uri)
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        searches = _searches(client, experiment, name, uri)
        chosen = _choose(searches, study_run, name)
        parts = [_read_trials(client, run, uri, use_index) for run in chosen]
    except MlflowException as error:
        raise FrontError(f"the tracking store {uri} cannot be read: {error.message}") from error
    if objectives is None:
        objectives = tuple(chosen[0].data.tags["goldenticket.objectives"].split(","))
    trials = sorted(
        (t for part, _ in parts for t in part), key=lambda t: (t.started, t.number, t.run_id)
    )
    return StudyRecord(
        name=name,
        tracking_uri=uri,
        run_ids=tuple(run.info.run_id for run in chosen),
        trials=tuple(trials),
        objectives=objectives,
        unconfirmed=frozenset().union(*(ids for _, ids in parts)),
    )


def _read_trials(
    client: MlflowClient, search: Run, uri: str, use_index: bool
) -> tuple[list[Trial], set[str]]:
    """All trials of one search, and the ids of those that only its index was asked for."""
    index = read_index(client, search, uri) if use_index else None
    if index is None:
        return [trial_of(run, uri) for run in children(client, search)], set()
    since = children(client, search, f"attributes.start_time >= {index.since}")
    front = children(client, search, f"tags.{PARETO} = 'true'")
    gone = {run.info.run_id for run in children(client, search, view=ViewType.DELETED_ONLY)}
    fresh = [trial_of(run, uri) for run in (*since, *front)]
    trials = index.brought_up_to_date(fresh, gone)
    return trials, index.trials.keys() - {trial.run_id for trial in fresh} - gone


def read_index(client: MlflowClient, search: Run, uri: str) -> TrialIndex | None:
    """The index of a search; None without one, or when it may not be relied on."""
    if search.data.tags.get(INDEX_TAG) != INDEX:
        return None
    try:
        with tempfile.TemporaryDirectory() as scratch, no_progress_bar():
            path = client.download_artifacts(search.info.run_id, INDEX, scratch)
            return unpack(Path(path).read_bytes(), uri)
    except (MlflowException, OSError, EOFError, ValueError, zlib.error):
        return None  # it is being replaced at this moment, or was removed: the runs have it all


def children(
    client: MlflowClient, search: Run, condition: str = "", view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    """The runs of a search's trials that satisfy a condition, earliest start first."""
    query = f"tags.mlflow.parentRunId = '{search.info.run_id}'"
    if condition:
        query += f" and {condition}"
    found = _search(client, search.info.experiment_id, query, view)
    runs = [run for run in found if "goldenticket.number" in run.data.tags]  # not a person's own
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def are_there(uri: str, run_ids: Collection[str]) -> bool:
    """Whether the store still has all these runs."""
    if not run_ids:
        return True
    client, ids = open_store(uri), sorted(run_ids)
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return False
        for first in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[first : first + _IDS_AT_ONCE]
            query = f"attributes.run_id IN ({', '.join(map(repr, some))})"
            if len(_search(client, experiment.experiment_id, query)) < len(some):
                return False
    except MlflowException as error:
        raise FrontError(f"the tracking store {uri} cannot be read: {error.message}") from error
    return True


def open_store(uri: str) -> MlflowClient:
    """A client of an existing store: a SQLite file that is none is an error, never created."""
    if uri.startswith("sqlite:///"):
        _check_database(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
    limit_waiting()
    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        raise FrontError(f"the tracking store {uri} cannot be opened: {error.message}") from error


def _check_database(path: Path) -> None:
    """MLflow would write its tables into any file, or a new one; only one that has them will do."""
    if not path.is_file():
        raise FrontError(
            f"there is no tracking store {path} (looked for in {Path.cwd()}): run `goldenticket "
            "search STUDY.yaml` first, change to the folder where it was run, or give its address "
            "by --tracking-uri"
        )
    try:
        with closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)) as database:
            database.execute("SELECT name FROM experiments LIMIT 1").fetchone()
    except sqlite3.Error as error:
        raise FrontError(
            f"{path} cannot be read as an MLflow database ({error}): give the address of the one "
            "that `goldenticket search` wrote, by --tracking-uri"
        ) from error


def limit_waiting(retries: int = 2) -> None:
    """Make MLflow give up on a server after seconds, not minutes, unless a person set otherwise."""
    fewest = min(retries, int(_set_here.get(_RETRIES, retries)))
    for name, value in ((_RETRIES, str(fewest)), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")):
        if os.environ.get(name) == _set_here.get(name):  # not set, or by us
            os.environ[name] = _set_here[name] = value


def _resolve(
    study: str | Path, tracking_uri: str | None
) -> tuple[str, str, tuple[str, ...] | None]:
    if isinstance(study, Path) or study.endswith((".yaml", ".yml")):
        config = StudyConfig.from_yaml(study)
        return config.name, tracking_uri or config.tracking.uri, tuple(config.objectives)
    return study, store_address(tracking_uri), None


def store_address(given: str | None) -> str:
    """The address of the tracking store: the given one, the environment's, or the usual file."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


@contextmanager
def as_default_store(uri: str) -> Iterator[None]:
    """Make `uri` the store of the whole process, as it was before afterwards.

    MLflow's SQL stores look the files of a new model version up in that one, whatever the client's.
    """
    variable = MLFLOW_TRACKING_URI.name
    before = os.environ.get(variable)
    chosen = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    try:
        mlflow.set_tracking_uri(uri)
        yield
    finally:
        # None leaves the choice to the environment, from which it takes the variable away.
        mlflow.set_tracking_uri(None if chosen == before else chosen)  # type: ignore[arg-type]
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


def _searches(
    client: MlflowClient, experiment: Experiment | None, name: str, uri: str
) -> list[Run]:
    """The runs of all searches of a study, without their trials: those have no objectives."""
    is_search = "tags.goldenticket.objectives != ''"
    if experiment is not None and not set(name) & set("'\"`\\"):  # no study has such a name
        query = f"{is_search} and tags.goldenticket.study = '{name}'"
        if runs := _search(client, experiment.experiment_id, query):
            return runs
    every = [] if experiment is None else _search(client, experiment.experiment_id, is_search)
    known = sorted({run.data.tags.get("goldenticket.study", "") for run in every} - {""})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listing = f"it has: {', '.join(known)}" if known else "it has no study yet"
    raise FrontError(f"no study is called {name!r} in {uri}: {hint}{listing}")


def _search(
    client: MlflowClient, experiment_id: str, query: str, view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], query, run_view_type=view, max_results=_PAGE, page_token=token
        )
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def _choose(parents: Sequence[Run], study_run: str, name: str) -> list[Run]:
    newest_first = sorted(parents, key=lambda run: run.info.start_time, reverse=True)
    if study_run == ALL:
        return newest_first
    if study_run == NEWEST:
        return newest_first[:1]
    chosen = [run for run in newest_first if run.info.run_id == study_run]
    if not chosen:
        ids = ", ".join(run.info.run_id for run in newest_first)
        raise FrontError(
            f"study {name!r} has no search with run id {study_run!r}: use newest, all or one of "
            f"{ids}"
        )
    return chosen


def trial_of(run: Run, uri: str) -> Trial:
    """The trial that a run records."""
    tags = dict(run.data.tags)
    return Trial(
        run_id=run.info.run_id,
        number=int(tags["goldenticket.number"]),
        state=tags.get("goldenticket.state", "running"),
        metrics=finite(run.data.metrics),
        params=dict(run.data.params),
        tags=tags,
        tracking_uri=uri,
        started=run.info.start_time,
    )


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are finite numbers; MLflow has the largest float for infinity."""
    return {name: value for name, value in metrics.items() if abs(value) < sys.float_info.max}


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep MLflow from drawing one while it moves files."""
    variable = MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
    before = variable.get_raw()
    variable.set(False)
    try:
        yield
    finally:
        variable.unset() if before is None else variable.set(before)
