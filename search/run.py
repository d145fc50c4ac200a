"""`run_study`: from a study to its results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from search.ledger import Ledger
from search.ranking import front
from search.records import Observer, SearchRun, StudyResult
from search.sampling import JOURNAL, Sampling
from search.tracking import MlflowTracker
from search.trial import TrialFactory
from spaces.base import ConfigError
from spaces.study import StudyConfig

STUDY_FILE = "study.yaml"
# What may differ when a search is resumed: it changes no trial, only how many there are and where.
_MAY_CHANGE = ("budget", "resources", "tracking", "storage")


def run_study(
    study: StudyConfig,
    executor: Literal["ray", "local"] = "ray",
    *,
    address: str | None = None,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    factory: TrialFactory | None = None,
) -> StudyResult:
    """Search: run the study's trials and record each in its folder and in MLflow.

    `address` is a running Ray cluster; without it Ray is started on loopback, for this call only.
    `resume` goes on with the newest search of this name: finished trials are not run again. The
    trials of an interrupted search (Ctrl-C) are closed before KeyboardInterrupt goes on. With
    study.evaluation.certify_front, members of the front are certified at the end. Raises
    ConfigError for input that cannot work; a trial that fails is recorded, and the search goes on.
    """
    if executor not in ("ray", "local"):
        raise ConfigError(f"executor: {executor!r} must be ray or local")
    factory = factory or _training_factory()
    factory.prepare(study)
    run = SearchRun(study, open_folder(study, resume=resume), executor)
    tracker = MlflowTracker(study.tracking.uri)
    everyone = (tracker, *observers)
    sampling = Sampling(study, run.folder)
    ledger = Ledger(run, sampling, everyone)
    for observer in everyone:
        observer.on_study_start(run, ledger.records)
    try:
        _execute(ledger, factory, address)
    finally:
        ledger.close()
        for observer in everyone:
            observer.on_study_end(run, ledger.records)
    result = StudyResult(
        run, ledger.records, front(study, ledger.records), tracker.run_id, tracker.trial_run_ids
    )
    return _certified(result, everyone) if study.evaluation.certify_front else result


def _certified(result: StudyResult, observers: Sequence[Observer]) -> StudyResult:
    from search.certify import certify_front  # noqa: PLC0415

    return certify_front(result, observers=observers)


def open_folder(study: StudyConfig, *, resume: bool) -> Path:
    """The folder of a new search, `<storage.path>/<name>/<number>`, or the newest one to resume."""
    home = Path(study.storage.path) / study.name
    numbers = [int(p.name) for p in home.glob("*") if re.fullmatch(r"\d{3,}", p.name)]
    if resume:
        if not numbers:
            raise ConfigError(
                f"storage.path: {home} holds no search to resume: start one without --resume, "
                "or change to the folder where it was started"
            )
        folder = home / f"{max(numbers):03d}"
        _check_unchanged(study, folder)
        return folder
    folder = home / f"{max(numbers, default=0) + 1:03d}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"storage.path: {folder} cannot be made: {error.strerror}") from error
    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
    (folder / STUDY_FILE).write_text(text, encoding="utf-8")
    return folder


def _check_unchanged(study: StudyConfig, folder: Path) -> None:
    """Trials of one search must be comparable, and its parameters must still mean the same."""
    if not (folder / JOURNAL).exists():
        raise ConfigError(f"{folder}: there is no {JOURNAL} to resume from: start a new search")
    before = _substance(StudyConfig.from_yaml(folder / STUDY_FILE))
    now = _substance(study)
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise ConfigError(
            *(
                f"{key}: differs from {folder / STUDY_FILE}, the search to resume: change it back, "
                "or start a new search without --resume"
                for key in changed
            )
        )


def _substance(study: StudyConfig) -> dict[str, Any]:
    tree = study.model_dump(mode="json", exclude=set(_MAY_CHANGE))
    del tree["evaluation"]["certify_front"]
    return {**tree, "budget.epochs": study.budget.epochs}


def _training_factory() -> TrialFactory:
    from search.training import TrainingFactory  # noqa: PLC0415

    return TrainingFactory()


def _execute(ledger: Ledger, factory: TrialFactory, address: str | None) -> None:
    if ledger.run.executor == "local":
        from search.local import run_local  # noqa: PLC0415

        run_local(ledger, factory)
    else:
        # Imported here, because it takes seconds that the local executor does not need.
        from search.ray_executor import run_ray  # noqa: PLC0415

        run_ray(ledger, factory, address=address)
