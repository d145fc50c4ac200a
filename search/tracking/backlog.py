"""What the driver knows of a search and its MLflow store does not: noted in microseconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from search.records import ExactVerdicts, TrialRecord
from search.tracking.trial_run import Point

_FLUSH_S = 5.0  # a batch costs some 7 ms whatever its size: epochs are written together


@dataclass
class News:
    """The newest record of a trial, and its metrics of epochs that have not been written.

    `since` is when it became news, `not_before` when it may be written, on the monotonic clock.
    """

    record: TrialRecord
    points: list[Point] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)
    not_before: float = 0.0


@dataclass(frozen=True)
class End:
    """All records at the end of a search; `time` is in milliseconds since 1970."""

    records: Sequence[TrialRecord]
    time: int


@dataclass(frozen=True)
class Exact:
    """Exact verdicts on a trial, or why there are none; `time` as above."""

    record: TrialRecord
    found: ExactVerdicts | str
    time: int


class Backlog:
    """News of trials, filled by the driver and emptied by the writer's thread.

    What is taken and cannot be written is put back, so that it holds, after an outage of any
    length, just what is missing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news: dict[int, News] = {}
        self.exact: dict[int, Exact] = {}
        self.end: End | None = None

    def __len__(self) -> int:
        """How many trials have news."""
        return len(self._news)

    def add(self, record: TrialRecord, *points: Point) -> None:
        """Note a trial's newest record, and metrics."""
        with self._lock:
            news = self._news.setdefault(record.number, News(record))
            news.record = record
            news.points.extend(points)

    def due(self, everything: bool) -> list[int]:
        """The trials to write now: those that have ended, and epochs that have waited long enough.

        A trial that starts and ends in the meantime costs one batch.
        """
        now = time.monotonic()
        with self._lock:
            return [
                number
                for number, news in self._news.items()
                if everything
                or (news.record.state != "running" or now - news.since >= _FLUSH_S)
                and now >= news.not_before
            ]

    def take(self, number: int) -> News:
        """The news of a trial, which are forgotten here."""
        with self._lock:
            return self._news.pop(number)

    def put_back(self, news: News, wait_s: float = 0.0) -> None:
        """Take back news that could not be written, behind all others; see `due` after `wait_s`."""
        with self._lock:
            later = self._news.pop(news.record.number, None)
            if later is not None:
                news.record = later.record
                news.points.extend(later.points)
            news.not_before = time.monotonic() + wait_s
            self._news[news.record.number] = news

    def records(self) -> list[TrialRecord]:
        """The newest records of the trials with news."""
        with self._lock:
            return [news.record for news in self._news.values()]
