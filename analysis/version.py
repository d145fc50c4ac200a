"""Which code produced a result."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("spaces", "trainers", "analysis", "search")


@cache
def code_version() -> str:
    """`<release>+<hash>`: the release, and twelve digits of the sha256 of all source files.

    The hash tells two states of one release apart, in a checkout without version control too.
    """
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return f"{library_version('goldenticket')}+{digest.hexdigest()[:12]}"


def library_version(name: str) -> str:
    """The installed version of a distribution; `unknown` when it is used without installation."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
