"""Importing a person's own function, `package.module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from trainers.errors import TrainerError


def import_function(path: str, error: type[TrainerError]) -> Callable[..., Any]:
    """The function at `package.module:function`; raises `error` naming the part that failed."""
    module_name, _, function_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as cause:  # a person's module may raise anything when it is imported
        raise error(
            f"python: {path!r}: importing module {module_name!r} failed with "
            f"{type(cause).__name__}: {cause}; it must be importable from where the study runs "
            "(install its package or set PYTHONPATH)"
        ) from cause
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if function is None:
        raise error(f"python: {path!r}: module {module_name!r} has no {function_name!r}")
    if not callable(function):
        raise error(
            f"python: {path!r}: {function_name!r} is a {type(function).__name__}, not a function"
        )
    return function


def call_function(path: str, error: type[TrainerError], *args: Any, **kwargs: Any) -> Any:
    """Call the function at `path`; whatever it raises becomes an `error` that names it."""
    function = import_function(path, error)
    try:
        return function(*args, **kwargs)
    except Exception as cause:  # a person's function may raise anything
        raise error(f"python: {path!r} failed with {type(cause).__name__}: {cause}") from cause
