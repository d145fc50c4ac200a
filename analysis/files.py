"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.errors import TicketError

TICKET_FILES = frozenset(
    {
        "ticket.json",
        "ticket.safetensors",
        "model.onnx",
        "compact.onnx",
        "int8.onnx",
        "model.c",
        "model.h",
        "csr.safetensors",
        "certificate.json",
        "certificate.md",
        "counterexamples.safetensors",
    }
)


@contextmanager
def ticket_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to fill; it takes its place once the block ends without error.

    TicketError when `folder` holds anything but an older ticket, or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    check_ticket_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        new = workshop / "new"
        new.mkdir()
        yield new
        _replace(folder, new, workshop / "old")
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` so that a reader finds either all of it or what was there before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _replace(folder: Path, new: Path, old: Path) -> None:
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise _unwritable(folder, error) from error


def check_ticket_place(folder: Path) -> None:
    """Raise TicketError when `folder` holds anything but an older ticket."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise TicketError(f"{folder} exists and is not a folder: give another place for the ticket")
    names = {path.name for path in folder.iterdir()}
    if names and not ("ticket.json" in names and names <= TICKET_FILES):
        others = ", ".join(sorted(names - TICKET_FILES)[:3]) or "no ticket.json"
        raise TicketError(
            f"{folder} exists and is not a ticket ({others}): nothing was written; give a new "
            "folder, or empty this one"
        )


def _unwritable(path: Path, error: OSError) -> TicketError:
    reason = error.strerror or str(error)
    return TicketError(f"{path} cannot be written ({reason}): choose a place that you can write to")
