"""A person's own arrays: an npz archive, or a function that returns them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from spaces.data import NpzDataConfig, PythonDataConfig
from trainers.data.base import Raw
from trainers.errors import DataError
from trainers.imports import call_function


def read_npz(config: NpzDataConfig) -> Raw:
    """Arrays x and y of a NumPy archive; nothing in it is ever unpickled."""
    path = Path(config.path)
    if not path.is_file():
        raise DataError(f"npz: {path} is not a file: give the path of an archive with x and y")
    if not zipfile.is_zipfile(path):
        raise DataError(f"npz: {path} is not an npz archive: write it with np.savez(path, x=, y=)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("x", "y") if name in archive.files}
            found = sorted(archive.files)
    except (ValueError, OSError, zipfile.BadZipFile) as cause:
        raise DataError(f"npz: {path} cannot be read as plain arrays: {cause}") from cause
    for name in ("x", "y"):
        if name not in arrays:
            raise DataError(
                f"npz: {path} has no array {name!r}, only {found}: write it with "
                "np.savez(path, x=..., y=...)"
            )
    return Raw(arrays["x"], arrays["y"], value_range=config.value_range)


def read_python(config: PythonDataConfig) -> Raw:
    """What the function returns: a pair (x, y) of arrays, or of tensors on the CPU."""
    result = call_function(config.python, DataError)
    if not isinstance(result, tuple) or len(result) != 2:
        raise DataError(
            f"python: {config.python!r} returned a {type(result).__name__}: it must return a pair "
            "(x, y) of arrays"
        )
    try:
        x, y = (np.asarray(part) for part in result)
    except (TypeError, ValueError) as cause:
        raise DataError(
            f"python: {config.python!r} returned something that is no array: {cause}"
        ) from cause
    return Raw(x, y, value_range=config.value_range)
