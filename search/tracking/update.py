"""Makes the MLflow runs of a search say what its backlog says."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import partial

from mlflow.exceptions import MlflowException

from search.ranking import GrowingFront, pareto_ranks
from search.tracking.backlog import Backlog, End
from search.tracking.runs import SearchRuns
from search.tracking.writer import BackgroundWriter, reason_of
from spaces.study import StudyConfig

_RETRY_S = 30.0  # for what the store refuses although it takes other things
_INDEX_FROM = 500  # trials; fewer are read in a second without an index
_INDEX_EVERY_S = 60.0


class Update:
    """One look at what there is to write, and the writing of it; the work of the writer's thread.

    `refused` says what the store does not take although it takes other things, and why.
    """

    def __init__(self, study: StudyConfig, backlog: Backlog, runs: SearchRuns, store: str) -> None:
        self._study, self._backlog, self._runs, self._store = study, backlog, runs, store
        self.refused: dict[str, str] = {}
        self.front = GrowingFront(study)
        self.writer = BackgroundWriter(self, store)
        self._index_is_old = False
        self._next_index = 0.0

    def __call__(self, everything: bool) -> bool:
        """Write what is due, or everything, and return whether the store has taken all of it.

        Raises when the store takes nothing at all.
        """
        for number in self._backlog.due(everything):
            self._write_trial(number)
        self._mark_members()
        for number in list(self._backlog.exact):
            self._write_exact(number)
        if everything and self._backlog.end is not None:
            self._write_end(self._backlog.end)
        self._write_index(everything)
        return not self.refused

    def _write_trial(self, number: int) -> None:
        news = self._backlog.take(number)

        def write() -> None:
            self.front.add(news.record)
            self._runs.write(news.record, news.points, number in self.front.members)

        try:
            is_written = self._try(news.record.name, write)
        except Exception:
            self._backlog.put_back(news)
            raise
        if not is_written:
            self._backlog.put_back(news, _RETRY_S)

    def _mark_members(self) -> None:
        front = self.front.members
        for number in sorted(front ^ self._runs.members):
            what = f"whether trial_{number} is on the front"
            if self._runs.has_ended(number) and what not in self.refused:
                self._try(what, partial(self._runs.mark, number, number in front))

    def _write_exact(self, number: int) -> None:
        exact = self._backlog.exact[number]
        what = f"the exact verdicts on trial_{number}"
        write = partial(self._runs.add_exact, exact.record, exact.found, exact.time)
        if self._runs.has_ended(number) and self._try(what, write):
            del self._backlog.exact[number]

    def _write_end(self, end: End) -> None:
        for number, rank in pareto_ranks(self._study, end.records).items():
            if self._runs.has_ended(number):
                what = f"the rank of trial_{number}"
                self._try(what, partial(self._runs.rank, number, rank, end.time))
        for number in self._runs.unfinished:
            self._try(f"that trial_{number} waits", partial(self._runs.wait, number))
        if self._try("the end of the search", partial(self._runs.end, end.records, end.time)):
            self._backlog.end = None

    def _write_index(self, everything: bool) -> None:
        now = time.monotonic()
        is_due = everything or now >= self._next_index
        if is_due and self._index_is_old and self._runs.num_ended >= _INDEX_FROM:
            unwritten = self._backlog.records()
            if self._try("the index of its trials", partial(self._runs.write_index, unwritten)):
                self._index_is_old = False
            self._next_index = now + _INDEX_EVERY_S

    def _try(self, what: str, write: Callable[[], None]) -> bool:
        """Whether the store took it; raises if the store takes nothing."""
        try:
            write()
        except Exception as error:
            if _concerns_all(error):
                raise
            self._runs.probe()
            self.writer.succeeded()
            if not self.refused:
                self.writer.say(
                    f"MLflow at {self._store} did not take {what}: {reason_of(error)}. The search "
                    "goes on, and it is tried again"
                )
            self.refused[what] = reason_of(error)
            return False
        self.refused.pop(what, None)
        self._index_is_old = True
        self.writer.succeeded()
        return True


def _concerns_all(error: Exception) -> bool:
    """Whether an error is the store's own: its database or disk does not take what it should."""
    if isinstance(error, MlflowException):
        return bool(error.error_code == "TEMPORARILY_UNAVAILABLE")
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
