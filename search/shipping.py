"""The code that a cluster's workers need: nodes have the dependencies, and not goldenticket."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.version import PACKAGES
from spaces.study import StudyConfig


def shipped_code(study: StudyConfig, *parts: object) -> list[str]:
    """Folders and files of Python code that a search takes along to its workers.

    The packages of goldenticket; the top-level packages or modules of a person's own functions
    (`python: package.module:function`) and of the classes of `parts`, with those beside them that
    this process has imported. What is installed, under site-packages, is expected on the nodes, as
    the other dependencies are.
    """
    named = [path.partition(":")[0] for path in _functions([study.data, study.space])]
    named += [type(part).__module__ for part in parts]
    own = [place for name in _top_levels(named) for place in _places(name) if _is_own(place)]
    folders = {place.parent for place in own}
    beside = (place for name in _top_levels(sys.modules) for place in _places(name))
    found = [*own, *(place for place in beside if place.parent in folders)]
    ours = [place for name in PACKAGES for place in _places(name)]
    return [str(place) for place in dict.fromkeys((*ours, *found))]


def _top_levels(modules: Iterable[str]) -> list[str]:
    names = dict.fromkeys(module.partition(".")[0] for module in modules)
    known = {*sys.stdlib_module_names, *PACKAGES, "__main__"}
    return [name for name in names if name not in known]


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


def _places(name: str) -> list[Path]:
    """The folder of a top-level package, or several, or the file of a module."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:  # the trial's factory says what is wrong with it
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place).resolve() for place in spec.submodule_search_locations]
    return [] if spec.origin is None else [Path(spec.origin).resolve()]


def _is_own(place: Path) -> bool:
    return not {"site-packages", "dist-packages"} & set(place.parts)
