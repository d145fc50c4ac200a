"""Orders to a running search, by a file in its folder, and the lock that makes it the only one."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from spaces.base import ConfigError

Order = Literal["pause", "stop"]
"""pause: trials in progress are kept for --resume. stop: they end, and the search ends."""
_ORDER, _LOCK = "order", "lock"


def give_order(folder: Path, order: Order) -> None:
    """Ask the search in a folder to pause or stop; it obeys when a trial next reports."""
    (folder / _ORDER).write_text(order, encoding="utf-8")


def read_order(folder: Path) -> Order | None:
    """The order that was given to the search in a folder, if any."""
    try:
        text = (folder / _ORDER).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return text if text in get_args(Order) else None  # type: ignore[return-value]


def clear_order(folder: Path) -> None:
    """Forget an order: it was for an earlier part of the search."""
    (folder / _ORDER).unlink(missing_ok=True)


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold the search in a folder for this process alone; the lock goes when the process goes.

    ConfigError when another process holds it.
    """
    with (folder / _LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is in use: {_told(file.name)} runs this search; wait for it, or end it "
                "by `goldenticket stop`"
            ) from None
        except OSError:  # a file system without locks: some network ones
            pass
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield


def is_running(folder: Path) -> bool:
    """Whether a process on a machine that shares this folder's locks runs the search in it."""
    try:
        with (folder / _LOCK).open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, by which clusters end a process, do what Ctrl-C does: the search is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(path: str) -> str:
    try:
        holder = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
