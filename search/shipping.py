"""The code that a cluster's workers need: nodes have the dependencies, and not goldenticket."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from analysis.version import PACKAGES
from spaces.study import StudyConfig


def shipped_code(study: StudyConfig, *parts: object) -> list[str]:
    """Folders and files of Python code that a search takes along to its workers.

    The packages of goldenticket; the top-level packages or modules of a person's own functions
    (`python: package.module:function`) and of the classes of `parts`. What is installed, under
    site-packages, is expected on the nodes, as the other dependencies are.
    """
    own = (path.partition(":")[0] for path in _functions([study.data, study.space]))
    modules = [*own, *(type(part).__module__ for part in parts)]
    names = dict.fromkeys(module.partition(".")[0] for module in modules)
    found = [path for name in names if name not in PACKAGES for path in _found(name)]
    mine = [path for name in PACKAGES for path in _places(_spec(name))]
    return [str(path) for path in (*mine, *found)]


def _functions(tree: Any) -> Iterator[str]:
    """What is named by keys `python`, in choices too."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == "python" and isinstance(value, str):
                yield value
            else:
                yield from _functions(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _functions(value)


def _found(name: str) -> Iterator[Path]:
    if name == "__main__" or name in sys.stdlib_module_names:
        return
    for path in _places(_spec(name)):
        if not {"site-packages", "dist-packages"} & set(path.parts):
            yield path


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None  # the trial's factory says what is wrong with it


def _places(spec: ModuleSpec | None) -> list[Path]:
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place).resolve() for place in spec.submodule_search_locations]
    return [] if spec.origin is None else [Path(spec.origin).resolve()]
