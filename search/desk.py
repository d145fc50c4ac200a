"""Where a worker has the files of its trial: the search's folder, or a copy of its own."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from search.storage import Storage, StorageError

if TYPE_CHECKING:
    from search.trial import TrialJob

_WAITS_S = (1.0, 5.0, 15.0, 30.0, 60.0)  # before each further attempt to leave a ticket


class Desk:
    """The files of a job on a disk that driver and workers share: nothing need be carried."""

    def __init__(self, job: TrialJob) -> None:
        self.job = job
        """The job with paths that the worker may use."""

    def fetch_checkpoint(self) -> None:
        """Bring the trial's checkpoint here, if there is one."""

    def keep_checkpoint(self) -> None:
        """Put the checkpoint where another worker finds it."""

    def keep_ticket(self) -> Path:
        """Put the ticket where the driver finds it, and say where that is for the driver."""
        return self.job.ticket

    def clear(self) -> None:
        """The worker is done with the trial."""


class RemoteDesk(Desk):
    """A folder of the worker's own; what must last is carried to and from a storage."""

    def __init__(self, job: TrialJob, storage: Storage) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="goldenticket-")
        here = Path(self._folder.name)
        super().__init__(replace(job, ticket=here / "ticket", checkpoint=here / "checkpoint.pt"))
        self._storage, self._ticket = storage, job.ticket
        self._names = f"checkpoints/{job.checkpoint.name}", f"tickets/{job.ticket.name}"

    def fetch_checkpoint(self) -> None:
        """Without one, or when the storage does not answer, the trial starts from its beginning."""
        with suppress(FileNotFoundError, StorageError):
            self._storage.get(self._names[0], self.job.checkpoint)

    def keep_checkpoint(self) -> None:
        """When the storage does not answer, an older one is there, and a newer one follows."""
        with suppress(StorageError):
            self._storage.put(self.job.checkpoint, self._names[0])

    def keep_ticket(self) -> Path:
        """Waits for a storage that does not answer, as the whole trial would be lost."""
        for wait_s in _WAITS_S:
            try:
                self._storage.put(self.job.ticket, self._names[1])
                return self._ticket
            except StorageError:
                time.sleep(wait_s)
        self._storage.put(self.job.ticket, self._names[1])
        return self._ticket

    def clear(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()


def desk_for(job: TrialJob) -> Desk:
    """The desk for a job, by where its search keeps its files."""
    return Desk(job) if job.storage is None else RemoteDesk(job, job.storage)
