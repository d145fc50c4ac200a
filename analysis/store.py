"""Reading studies from MLflow; the only writer is search/tracking.py."""

from __future__ import annotations

import difflib
import math
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.errors import FrontError
from spaces.study import StudyConfig

EXPERIMENT = "goldenticket"
DEFAULT_URI = "sqlite:///mlflow.db"
NEWEST, ALL = "newest", "all"
_PAGE = 1000
_EXACT: Mapping[str, Any] = {
    "bound": str,
    "split": str,
    "num_examples": int,
    "num_unknown": int,
    "seconds": float,
}


@dataclass(frozen=True)
class Trial:
    """One recorded trial: a child run of its study's run.

    `number` is its place in the study, from 0; `metrics` holds the last value of each metric of
    docs/contract.md, without those that are not finite.
    """

    run_id: str
    number: int
    state: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    tracking_uri: str

    @property
    def bound(self) -> str:
        """The cascade of bounds behind its verified accuracy."""
        return self.tags.get("goldenticket.bound", "unknown")

    @property
    def split(self) -> str:
        """The split on which it was measured."""
        return self.tags.get("goldenticket.split", "unknown")

    @property
    def radius(self) -> float | None:
        """The l-infinity radius of its verified accuracy, in data units; None if not recorded."""
        recorded = self.params.get("evaluation.radius")
        return None if recorded is None else float(recorded)

    @property
    def num_examples(self) -> int | None:
        """On how many examples it was measured; None if not recorded."""
        recorded = self.tags.get("goldenticket.num_examples")
        return None if recorded is None else int(recorded)

    @property
    def num_timeouts(self) -> int:
        """How many examples its verified accuracy left open for lack of time."""
        return int(self.tags.get("goldenticket.num_timeouts", 0))

    @property
    def provenance(self) -> str:
        """How its accuracies were obtained, for people."""
        examples = "an unknown number of" if self.num_examples is None else self.num_examples
        radius = "unknown" if self.radius is None else f"{self.radius:g}"
        return (
            f"{self.split} split, {examples} examples  ·  radius {radius} (l∞)  ·  "
            f"verified by {self.bound.replace('+', ' + ')}"
        )

    @property
    def exact(self) -> dict[str, str | int | float] | None:
        """How its exact_* metrics were obtained: bound, split, counts and seconds; or None."""
        tags = {name: self.tags.get(f"goldenticket.exact_{name}") for name in _EXACT}
        if any(tag is None for tag in tags.values()):
            return None
        return {name: _EXACT[name](tag) for name, tag in tags.items()}

    @property
    def method(self) -> str:
        """Its topology method."""
        return self.params.get("topology.method", "unknown")


@dataclass(frozen=True)
class StudyRecord:
    """All recorded trials of a study, completed or not, in their order."""

    name: str
    tracking_uri: str
    run_ids: tuple[str, ...]
    trials: tuple[Trial, ...]
    objectives: tuple[str, ...] | None

    def count(self, state: str) -> int:
        """How many trials are in a state: completed, stopped or failed."""
        return sum(trial.state == state for trial in self.trials)

    def trial(self, run_id: str) -> Trial:
        """The trial with this run id; its first characters suffice when no other has them."""
        found = [trial for trial in self.trials if trial.run_id.startswith(run_id)]
        if len(found) == 1 and run_id:
            return found[0]
        if not found or not run_id:
            raise FrontError(
                f"study {self.name!r} has no run {run_id!r}: `goldenticket front {self.name}` "
                "lists the runs on the front"
            )
        raise FrontError(
            f"{len(found)} runs of study {self.name!r} start with {run_id!r}: give more of the id"
        )


def read_study(
    study: str | Path, *, tracking_uri: str | None = None, study_run: str = NEWEST
) -> StudyRecord:
    """Read a study by its name or YAML file: its newest search, `all`, or the one with a run id.

    FrontError when there is no such tracking store or study; it lists the names that exist.
    """
    name, uri, objectives = _resolve(study, tracking_uri)
    client = open_store(uri)
    runs = _runs_of_study(client, name, uri)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    chosen = _choose(parents, study_run, name)
    if objectives is None:
        stated = chosen[0].data.tags.get("goldenticket.objectives") if chosen else None
        objectives = tuple(stated.split(",")) if stated else None
    ids = tuple(run.info.run_id for run in chosen)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in ids]
    children.sort(key=lambda run: (run.info.start_time, run.info.run_id))
    trials = tuple(_trial(run, place, uri) for place, run in enumerate(children))
    return StudyRecord(name, uri, ids, trials, objectives)


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


def limit_waiting() -> None:
    """Make MLflow give up on a server after seconds, not minutes, unless a person set otherwise."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")


def _resolve(
    study: str | Path, tracking_uri: str | None
) -> tuple[str, str, tuple[str, ...] | None]:
    if isinstance(study, Path) or study.endswith((".yaml", ".yml")):
        config = StudyConfig.from_yaml(study)
        return config.name, tracking_uri or config.tracking.uri, tuple(config.objectives)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return study, uri, None


def _runs_of_study(client: MlflowClient, name: str, uri: str) -> list[Run]:
    runs: list[Run] = []
    if not set(name) & set("'\"`\\"):  # such a name cannot be asked for, and no study has one
        runs = _search(client, f"tags.goldenticket.study = '{name}'", uri)
    if runs:
        return runs
    names = sorted(
        {run.data.tags.get("goldenticket.study", "") for run in _search(client, "", uri)}
    )
    known = [n for n in names if n]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listing = f"it has: {', '.join(known)}" if known else "it has no study yet"
    raise FrontError(f"no study is called {name!r} in {uri}: {hint}{listing}")


def _search(client: MlflowClient, query: str, uri: str) -> list[Run]:
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id], query, max_results=_PAGE, page_token=token
            )
            runs.extend(page)
            token = page.token
            if not token:
                return runs
    except MlflowException as error:
        raise FrontError(f"the tracking store {uri} cannot be read: {error.message}") from error


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


def _trial(run: Run, place: int, uri: str) -> Trial:
    tags = dict(run.data.tags)
    return Trial(
        run_id=run.info.run_id,
        number=int(tags.get("goldenticket.number", place)),
        state=tags.get("goldenticket.state", "running"),
        metrics={k: v for k, v in run.data.metrics.items() if math.isfinite(v)},
        params=dict(run.data.params),
        tags=tags,
        tracking_uri=uri,
    )
