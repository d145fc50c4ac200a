"""The file to which Optuna's journal of a search is appended.

Optuna's own backend takes a lock, opens, writes, syncs and reads the file anew for each of the some
twenty entries of a trial, so that several processes may share it. A search is written by its
driver alone. What is written here outlives the process, however it ends, from the moment that the
call returns; only the machine itself going down may cost the last seconds.
"""

from __future__ import annotations

import errno
import fcntl
import json
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from spaces.base import ConfigError


class JournalFile(BaseJournalBackend):
    """One process reads the file once and appends to it; a second one is refused (ConfigError).

    A last line that a killed process left half written is cut off: it was never acted upon. OSError
    when an entry cannot be written (no space is left): it leaves nothing of it in the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b", buffering=0)
        self._lock(path)
        self._file.seek(0)
        content = self._file.read()  # through another descriptor, closing it would end the lock
        self._end = content.rfind(b"\n") + 1
        self._file.truncate(self._end)
        self._num_read = 0
        self._unread = deque(content[: self._end].splitlines())

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries that have not been read, in their order; each can be had once."""
        assert log_number_from == self._num_read, "the journal has one reader"
        while self._unread:
            self._num_read += 1
            yield json.loads(self._unread.popleft())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries, all of them or none."""
        lines = [json.dumps(log, separators=(",", ":")).encode() for log in logs]
        data = b"".join(line + b"\n" for line in lines)
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(data)
        self._unread.extend(lines)

    def _lock(self, path: Path) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(
                    f"{path}: another process is running this search: end it first, or start a "
                    "new search without --resume"
                ) from error
            # A file system without locks; then it is up to the person.
