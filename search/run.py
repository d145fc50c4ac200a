"""`run_study`: from a study to its results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from analysis.files import write_whole
from search.control import clear_order, only_driver, sigterm_interrupts
from search.ledger import Ledger
from search.mirror import Mirror, bring
from search.ranking import front
from search.records import Observer, SearchRun, StudyResult
from search.sampling import JOURNAL, Sampling
from search.storage import Storage, is_address, storage_of
from search.tracking import MlflowTracker
from search.trial import TrialFactory, fault_of
from search.warm_start import Earlier, read_earlier
from spaces.base import ConfigError
from spaces.reading import join, show
from spaces.study import StudyConfig

STUDY_FILE = "study.yaml"
# What may differ when a search is resumed: it changes no trial, only how many there are and where.
_MAY_CHANGE = ("budget", "resources", "tracking", "storage")


class SearchHalted(RuntimeError):
    """A search that had to end before its time, and can be resumed."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(
            f"the search in {folder} had to halt: {problem}. Make room, then go on with --resume: "
            "what had ended is kept"
        )


def run_study(
    study: StudyConfig,
    executor: Literal["ray", "local"] = "ray",
    *,
    address: str | None = None,
    resume: bool | Literal["auto"] = False,
    observers: Sequence[Observer] = (),
    factory: TrialFactory | None = None,
) -> StudyResult:
    """Search: run the study's trials and record each in its folder and in MLflow.

    `address` is a running Ray cluster; without it Ray is started on loopback, for this call only.
    `resume` goes on with the newest search of this name: trials that have ended are not run again,
    the others go on from their checkpoints; "auto" starts a new search when there is none. A larger
    budget.trials adds trials to a search that had ended. Trials in progress when a search is
    interrupted (Ctrl-C) are kept for that before KeyboardInterrupt goes on, and so they are when it
    is paused; the result then says `is_finished` False. With study.evaluation.certify_front,
    members of the front of a search that has ended are certified. Raises ConfigError for input that
    cannot work, SearchHalted when there is no room left on a disk; a trial that fails is recorded,
    and the search goes on.
    """
    if executor not in ("ray", "local"):
        raise ConfigError(f"executor: {executor!r} must be ray or local")
    factory = factory or _training_factory()
    factory.prepare(study)
    # Before there is a folder, so that a mistyped name or address leaves nothing behind.
    earlier = None if resume and newest_folder(study) else read_earlier(study)
    with _cluster(study, executor, factory, address) as told:
        if told is not None:
            for observer in observers:
                observer.on_cluster(told)
        return _run(study, executor, address, resume, observers, factory, earlier)


@contextmanager
def _cluster(
    study: StudyConfig, executor: str, factory: TrialFactory, address: str | None
) -> Iterator[str | None]:
    """The cluster that a search joins; a Ray of our own is started when trials are to run.

    What is to be told of the cluster.
    """
    if executor == "local":
        yield None
    elif address is None:
        from search.nodes import check_machine  # noqa: PLC0415

        check_machine(study.resources)
        yield None
    else:
        from search.ray_executor import joined  # noqa: PLC0415

        with joined(study, factory, address) as num_fitting:
            yield f"joined the Ray cluster at {address}: room for {num_fitting} trials at once"


def _run(
    study: StudyConfig,
    executor: Literal["ray", "local"],
    address: str | None,
    resume: bool | Literal["auto"],
    observers: Sequence[Observer],
    factory: TrialFactory,
    earlier: Earlier | None,
) -> StudyResult:
    run = SearchRun(study, open_folder(study, resume=resume), executor)
    tracker = MlflowTracker(study.tracking.uri)
    everyone: tuple[Observer, ...] = (tracker, *observers)
    if run.storage is not None:
        everyone = (Mirror(run.storage, run.folder), *everyone)
    with only_driver(run.folder):
        clear_order(run.folder)
        sampling = Sampling(study, run.folder, earlier)
        ledger = Ledger(run, sampling, everyone)
        _check_trials(ledger)
        if sampling.warm_start:
            for observer in observers:
                observer.on_warm_start(sampling.warm_start)
        _search(ledger, factory, address, everyone)
    result = StudyResult(
        run,
        ledger.records,
        front(study, ledger.records),
        tracker.run_id,
        tracker.trial_run_ids,
        is_finished=ledger.order != "pause",
    )
    if result.is_finished and study.evaluation.certify_front:
        return _certified(result, everyone)
    return result


def _check_trials(ledger: Ledger) -> None:
    begun, wanted = len(ledger.records), ledger.run.study.budget.trials
    if begun > wanted:
        raise ConfigError(
            f"budget.trials: {wanted} is less than the {begun} trials that the search to resume "
            f"has begun: give --trials {begun} to end it with these, or more to go on"
        )


def _search(
    ledger: Ledger, factory: TrialFactory, address: str | None, observers: Sequence[Observer]
) -> None:
    """Run the ledger's trials, and close it whatever happens."""
    run = ledger.run
    for observer in observers:
        observer.on_study_start(run, ledger.records)
    try:
        with sigterm_interrupts(), _halting_on_full_disk(run.folder):
            _execute(ledger, factory, address)
            ledger.close()
            _drop_checkpoints(ledger)
    finally:
        with suppress(OSError):  # else a full disk would hide why the search ends
            ledger.close()
        for observer in observers:
            observer.on_study_end(run, ledger.records)
    if ledger.problem is not None:
        raise SearchHalted(run.folder, ledger.problem)


@contextmanager
def _halting_on_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if fault_of(error) == "storage":
            raise SearchHalted(folder, str(error)) from error
        raise


def _drop_checkpoints(ledger: Ledger) -> None:
    """A worker may have saved a trial that had just been stopped."""
    for record in ledger.records:
        if record.state in ("completed", "stopped", "failed"):
            ledger.run.checkpoint(record.number).unlink(missing_ok=True)


def _certified(result: StudyResult, observers: Sequence[Observer]) -> StudyResult:
    from search.certify import certify_front  # noqa: PLC0415

    return certify_front(result, observers=observers)


def newest_folder(study: StudyConfig) -> Path | None:
    """The folder of the study's newest search; None if it has none.

    With a storage.path that is an address, it may not be on this machine yet.
    """
    home, storage = _home(study), storage_of(study)
    names = [path.name for path in home.glob("*")]
    names += storage.names() if storage is not None else []
    numbers = [int(name) for name in names if re.fullmatch(r"\d{3,}", name)]
    return home / f"{max(numbers):03d}" if numbers else None


def _home(study: StudyConfig) -> Path:
    """Where the searches of a study are, on this machine."""
    place = study.storage.local if is_address(study.storage.path) else study.storage.path
    return Path(place) / study.name


def open_folder(study: StudyConfig, *, resume: bool | Literal["auto"]) -> Path:
    """The folder of a new search, `<storage.path>/<name>/<number>`, or the newest one to resume.

    When storage.path is an address: of the same names in `storage.local`; what the address has of a
    search to resume is brought there.
    """
    if is_address(study.storage.path):
        Storage(study.storage.path).check()
    home, newest = _home(study), newest_folder(study)
    if resume and newest is not None:
        storage = storage_of(study, newest.name)
        if storage is not None:
            bring(storage, newest)
        # Without a journal nothing had begun: its driver was killed while it opened the folder.
        if resume is True or (newest / JOURNAL).exists():
            _check_unchanged(study, newest)
            return newest
    if resume is True:
        raise ConfigError(
            f"storage.path: {_place(study)} holds no search to resume: start one without "
            "--resume, or change to the folder where it was started"
        )
    folder = home / f"{int(newest.name) + 1 if newest is not None else 1:03d}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"storage.path: {folder} cannot be made: {error.strerror}") from error
    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
    write_whole(folder / STUDY_FILE, text.encode())
    return folder


def _place(study: StudyConfig) -> str:
    storage = storage_of(study)
    return str(_home(study)) if storage is None else storage.address


def _check_unchanged(study: StudyConfig, folder: Path) -> None:
    """Trials of one search must be comparable, and its parameters must still mean the same."""
    if not (folder / JOURNAL).exists():
        raise ConfigError(f"{folder}: there is no {JOURNAL} to resume from: start a new search")
    before = _substance(StudyConfig.from_yaml(folder / STUDY_FILE))
    changed = list(_differences(before, _substance(study)))
    if changed:
        raise ConfigError(
            *changed,
            f"the search to resume has what {folder / STUDY_FILE} says: change it back, or start a "
            "new search without --resume",
        )


def _differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """A line for each setting that has changed, with both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), join(place, str(key)))
    elif before != now:
        old, new = ("not set" if value is None else show(value) for value in (before, now))
        yield f"{place}: was {old}, is now {new}"


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
