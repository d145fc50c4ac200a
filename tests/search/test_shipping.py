"""Which code goes to the workers of a cluster."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from toy_trials import ToyFactory, toy_study

from search.shipping import shipped_code

ROOT = Path(__file__).resolve().parents[2]
OURS = [str(ROOT / name) for name in ("spaces", "trainers", "analysis", "search")]


def code_for(folder: Path, data: Any, *parts: object) -> list[str]:
    return shipped_code(toy_study(folder, data=data), *parts)


def test_a_study_without_functions_takes_the_four_packages(tmp_path: Path) -> None:
    assert code_for(tmp_path, {"name": "digits"}) == OURS


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder: a module, what it imports, a package, data and results."""
    (tmp_path / "mydata.py").write_text("import helpers_of_mydata\ndef load(): ...\n")
    (tmp_path / "helpers_of_mydata.py").write_text("")
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets" / "__init__.py").write_text("")
    (tmp_path / "runs").mkdir()
    (tmp_path / "images.npz").write_text("large")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return tmp_path


def test_a_persons_own_modules_are_taken_and_nothing_else_of_the_folder(project: Path) -> None:
    importlib.import_module("mydata")  # as reading the data does, before anything is shipped
    space = {"model": {"choice": [{"python": "mynets.small:build"}, {"family": "mlp"}]}}
    study = toy_study(project, data={"python": "mydata:load"}, space=space)
    code = shipped_code(study)
    assert code[:4] == OURS
    names = {"mydata.py", "helpers_of_mydata.py", "mynets"}
    assert set(code[4:]) == {str(project / name) for name in names}


def test_what_is_installed_or_part_of_python_or_missing_is_not_taken(tmp_path: Path) -> None:
    for function in ("sklearn.datasets:load_digits", "json:load", "no_such_module:load"):
        assert code_for(tmp_path, {"python": function}) == OURS


def test_the_module_of_a_trials_factory_is_taken(tmp_path: Path) -> None:
    code = code_for(tmp_path, {"name": "digits"}, ToyFactory())
    assert str(Path(__file__).with_name("toy_trials.py")) in code


def test_a_factory_of_the_main_program_is_pickled_whole(tmp_path: Path) -> None:
    factory = type("Own", (), {"__module__": "__main__"})()
    assert isinstance(sys.modules["__main__"], ModuleType)
    assert code_for(tmp_path, {"name": "digits"}, factory) == OURS
