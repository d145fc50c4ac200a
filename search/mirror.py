"""A search's folder, kept at an address too: the driver's side.

The driver works in a folder of its own machine, as always. Copies of its files (study, journal,
what was certified: all small) go to the address; tickets, which workers put there, are fetched. So
a driver on another machine finds all it needs to go on.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from search.records import ExactVerdicts, Observer, SearchRun, TrialRecord
from search.sampling import JOURNAL
from search.storage import Storage, StorageError
from spaces.base import ConfigError

_EVERY_S = 5.0
_SHARE = 0.05  # of the driver's time, at most, while a search runs: its journal grows
_HERE_ONLY = ("lock", "order")  # they are about this process
_ENDED = ("completed", "stopped", "failed")


class Mirror(Observer):
    """Copies a search's files to its storage, and fetches tickets; before any other observer.

    What fails in mid-search is said in a warning, and done at the end: the search goes on.
    """

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder
        self._journal: BinaryIO | None = None
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of what was copied last
        self._next = 0.0

    def on_study_start(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Copy what there is, and fetch the tickets of an earlier part of the search."""
        self.copy()
        self._fetch_missing(records)

    def on_trial_start(self, record: TrialRecord) -> None:
        """Copy, if that was long ago."""
        self._copy_if_due()

    def on_report(self, record: TrialRecord) -> None:
        """Copy, if that was long ago."""
        self._copy_if_due()

    def on_trial_pause(self, record: TrialRecord) -> None:
        """Copy, if that was long ago."""
        self._copy_if_due()

    def on_trial_end(self, record: TrialRecord) -> None:
        """Fetch the trial's ticket; drop its checkpoint."""
        self._fetch_missing([record])
        with self._or_warn():
            self._storage.delete(f"checkpoints/{record.name}.pt")
        self._copy_if_due()

    def on_study_end(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Copy and fetch what is missing; drop checkpoints that were saved after their trial."""
        self._fetch_missing(records)
        ended = {f"{record.name}.pt" for record in records if record.state in _ENDED}
        with self._or_warn():
            for name in ended.intersection(self._storage.folder("checkpoints").names()):
                self._storage.delete(f"checkpoints/{name}")
        self.copy()

    def on_certify_start(
        self,
        known: Mapping[int, ExactVerdicts],
        members: Sequence[TrialRecord],
        budget_s: float,
    ) -> None:
        """Copy what other observers wrote at the search's end."""
        self.copy()

    def on_certified(self, record: TrialRecord, found: ExactVerdicts | str) -> None:
        """Copy the verdicts."""
        self.copy()

    def on_certify_end(self) -> None:
        """Copy the last verdicts."""
        self.copy()

    def copy(self) -> None:
        """Copy each file that has changed."""
        started = time.monotonic()
        with self._or_warn():
            for path in _files(self._folder):
                state = path.stat()
                mark = (state.st_size, state.st_mtime_ns)
                if self._copied.get(path.name) != mark:
                    self._storage.write(self._content(path), path.name)
                    self._copied[path.name] = mark
        ended = time.monotonic()
        self._next = ended + max(_EVERY_S, (ended - started) / _SHARE)

    def _content(self, path: Path) -> bytes:
        if path.name != JOURNAL:
            return path.read_bytes()
        if self._journal is None:  # stays open: closing it would end the lock of its writer
            self._journal = path.open("rb")
        self._journal.seek(0)
        return self._journal.read()

    def _copy_if_due(self) -> None:
        if time.monotonic() >= self._next:
            self.copy()

    def _fetch_missing(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            if record.ticket is not None and not record.ticket.exists():
                with self._or_warn():
                    self._storage.get(f"tickets/{record.name}", record.ticket)

    @contextmanager
    def _or_warn(self) -> Iterator[None]:
        try:
            yield
        except (StorageError, FileNotFoundError) as error:
            warnings.warn(
                f"{error}. The search goes on, and this is done again at its end",
                RuntimeWarning,
                stacklevel=2,
            )


def bring(storage: Storage, folder: Path) -> None:
    """Bring a search's files here, to go on with it, if the storage has more than the folder.

    ConfigError when both have trials that the other has not.
    """
    if not storage.exists(JOURNAL):
        return
    folder.mkdir(parents=True, exist_ok=True)
    there = folder / f".{JOURNAL}.there"
    storage.get(JOURNAL, there)
    try:
        if _goes_on(there, folder / JOURNAL):
            for name in storage.names():
                if name not in ("tickets", "checkpoints"):
                    storage.get(name, folder / name)
        elif not _goes_on(folder / JOURNAL, there):
            raise ConfigError(
                f"storage.path: the search at {storage.address} and the one in {folder} have both "
                "gone on, apart: move that folder away to go on with the former, or change "
                "storage.path to go on with the latter"
            )
    finally:
        there.unlink()


def _goes_on(longer: Path, shorter: Path) -> bool:
    """Whether a journal, to which lines are only ever added, begins with the lines of another."""
    if not shorter.exists():
        return True
    lines, end, _torn = shorter.read_bytes().rpartition(b"\n")
    beginning = lines + end
    with longer.open("rb") as file:
        return file.read(len(beginning)) == beginning


def _files(folder: Path) -> list[Path]:
    wanted: Callable[[Path], bool] = lambda path: (  # noqa: E731
        path.is_file() and path.name not in _HERE_ONLY and not path.name.startswith(".")
    )
    return sorted(path for path in folder.iterdir() if wanted(path))
