"""One thread that writes in the background, through times in which nothing can be written."""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable

_EVERY_S = 1.0  # between two looks at what there is to write
_SLOWEST_S = 15.0  # between two tries while the store is away
_TRIES = 3  # of writing everything, if the store refuses a part of it
_PATIENCE_S = 60.0  # for a store that is away when everything has to be written


class BackgroundWriter:
    """Calls `write(everything)` once a second in a thread of its own.

    `write` brings a store up to date and returns whether the store has taken all that it was given.
    It raises when the store takes nothing; it is then called again, less and less often. With
    `everything` set it leaves nothing for later. Whoever hands over work calls `wake`, in the one
    thread in which warnings are to appear.
    """

    def __init__(self, write: Callable[[bool], bool], store: str) -> None:
        self._write, self._store = write, store
        self._thread: threading.Thread | None = None
        self._condition = threading.Condition()
        self._closing = self._given_up = False
        self._away_since: float | None = None  # on the wall clock, for people
        self._last_success = 0.0
        self._messages: deque[str] = deque()

    def wake(self) -> None:
        """Go on in the background; warn of what has happened there."""
        if self._thread is None or not self._thread.is_alive():
            self._closing = self._given_up = False
            self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
            self._thread.start()
        self._warn()

    def flush(self) -> None:
        """Write everything and end the thread.

        Waits as long as it makes progress, and for at most a minute while the store is away.
        """
        self.wake()
        assert self._thread is not None
        started = time.monotonic()
        with self._condition:
            self._closing, self._given_up = True, False
            self._condition.notify()
        while self._thread.is_alive():
            self._thread.join(0.05)
            self._warn()
            idle = time.monotonic() - max(started, self._last_success)
            if self._away_since is not None and idle > _PATIENCE_S:
                self._given_up = True
                break
        self._warn()

    def succeeded(self) -> None:
        """Called by `write` whenever the store has taken something."""
        self._last_success = time.monotonic()

    def say(self, message: str) -> None:
        """Have a warning appear in the thread that hands over work."""
        self._messages.append(message)

    def _run(self) -> None:
        pause, tries_left = _EVERY_S, _TRIES
        while tries_left:
            with self._condition:
                if not self._closing or self._away_since is not None or tries_left < _TRIES:
                    self._condition.wait(min(pause, _EVERY_S) if self._closing else pause)
                everything = self._closing
            if self._given_up:
                return
            try:
                is_done = self._write(everything)
            except Exception as error:  # whatever it is, it must not end the thread unseen
                self._went_away(error)
                pause = min(2 * pause, _SLOWEST_S)
                continue
            self._came_back()
            pause = _EVERY_S
            if everything:
                tries_left = 0 if is_done else tries_left - 1

    def _went_away(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.time()
            self.say(
                f"MLflow at {self._store} cannot be written to since {time.strftime('%H:%M:%S')} "
                f"({reason_of(error)}). The search goes on, and what is missing there is written "
                "as soon as it can be"
            )

    def _came_back(self) -> None:
        if self._away_since is not None:
            away = time.time() - self._away_since
            self._away_since = None
            self.say(
                f"MLflow at {self._store} is back after {away:.0f} s, and has what it had missed"
            )

    def _warn(self) -> None:
        while self._messages:
            warnings.warn(self._messages.popleft(), RuntimeWarning, stacklevel=3)


def reason_of(error: BaseException) -> str:
    """Why something could not be written, in one line: of a failed connection the system's word."""
    innermost = error
    while (deeper := innermost.__cause__ or innermost.__context__) is not None:
        innermost = deeper
    if isinstance(innermost, OSError):
        error = innermost
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 200 else line[:197] + "..."
