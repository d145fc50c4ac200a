"""The command line: words, study files and options, right and wrong."""

import ast
import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_runs import TINY, run_in, write_study

from search.cli import main
from spaces import TrialConfig

ROOT = Path(__file__).parents[2]


# What is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    ["", "search", "front", "export", "report", "verify", "graft", "retrain", "space", "space show",
     "space sample", "space schema"],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_verb_has_help(tmp_path: Path, verb: str, option: str) -> None:
    answer = run_in(tmp_path, *verb.split(), option)
    assert answer.code == 0
    assert "Usage:" in answer.out
    assert answer.err == ""


@pytest.mark.parametrize(
    "words",
    [
        "serch study.yaml",
        "search",
        "search study.yaml --trails 3",
        "search study.yaml --trials three",
        "search study.yaml --trials 0",
        "search study.yaml --executor slurm",
        "front tiny --format xml",
        "export tiny --best knee",
        "report tiny",
        "verify ticket --split tets",
        "verify ticket --radius big",
        "verify ticket --examples all",
        "graft ticket --fraction 0.2 --to new",
        "graft ticket --fraction half --epochs 1 --to new",
        "graft ticket --fraction 0.2 --epochs 1 --to new --significance size",
        "retrain ticket",
        "retrain ticket --to new --start middle",
        "space",
        "space shows study.yaml",
        "space sample study.yaml --count 0",
    ],
)
def test_mistyped_words_are_refused(tmp_path: Path, words: str) -> None:
    answer = run_in(tmp_path, *words.split())
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert "Usage:" in answer.out + answer.err


def test_help_and_mistakes_in_a_study_do_not_wait_for_heavy_libraries(tmp_path: Path) -> None:
    write_study(tmp_path)
    code = """
import sys
from search.cli import main
for words in (["--help"], ["search", "--help"], ["search", "nope.yaml"], ["space", "show", "study.yaml"]):
    sys.argv = ["goldenticket", *words]
    try:
        main()
    except SystemExit as end:
        print(words, end.code)
heavy = {"torch", "ray", "mlflow", "optuna", "matplotlib", "sklearn", "pandas"} & set(sys.modules)
print("heavy:", sorted(heavy))
"""  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "['search', 'nope.yaml'] 2" in done.stdout
    assert done.stderr == "error: nope.yaml: there is no such file: check the path\n"


# Wrong input --------------------------------------------------------------------------------------


def changed(path: str, value: Any) -> str:
    """TINY as YAML with one place replaced."""
    tree = copy.deepcopy(TINY)
    *parents, last = path.split(".")
    place = tree
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return yaml.safe_dump(tree)


DENSITY, AT = "space.topology.density", "space.topology.static.density"
WRONG_STUDIES: Mapping[str, tuple[str, list[str]]] = {
    "not YAML": ("name: [tiny", ["study.yaml, line 1"]),
    "not a mapping": ("- tiny", ["study.yaml: holds ['tiny']", "a mapping of settings"]),
    "empty": ("", ["study.yaml: is empty"]),
    "unknown key": (changed("budgets", 3), ["budgets", "did you mean budget?"]),
    "unknown key in space": (changed("space.optimzer", {}), ["space.optimzer", "optimizer"]),
    "density 0": (changed(DENSITY, 0), [AT + ": 0 must be greater than 0", "allowed: > 0, <= 1"]),
    "density 1.2": (changed(DENSITY, 1.2), [AT + ": 1.2 must be", "allowed: > 0, <= 1"]),
    "range to 1.2": (changed(DENSITY, {"low": 0.5, "high": 1.2}), [AT + ".high: 1.2 must be"]),
    "range upside down": (changed(DENSITY, {"low": 0.5, "high": 0.2}), [AT, "0.5", "0.2"]),
    "empty choice": (changed("space.batch_size", {"choice": []}), ["space.batch_size", "choice"]),
    "unknown variant": (changed("space.loss", {"name": "ipb"}), ["space.loss", "ipb", "ibp"]),
    "name": (changed("name", "a [b]"), ["name", "'a [b]'"]),
    "radius": (changed("evaluation.radius", -0.1), ["evaluation.radius", "-0.1"]),
    "no trials": (changed("budget.trials", 0), ["budget.trials", "0"]),
    "objective": (changed("objectives", ["epoch"]), ["objectives.0", "epoch"]),
    "constraint": (changed("constraints", ["accuracy > 1"]), ["constraints.0", "'accuracy'"]),
    "data with a hole": (changed("data.name", {"choice": ["digits", "mnist5k"]}), ["data"]),
    "data twice": (changed("space.data", {"name": "digits"}), ["space.data", "top level"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG_STUDIES)
def test_a_wrong_study_file_is_explained(tmp_path: Path, mistake: str) -> None:
    text, fragments = WRONG_STUDIES[mistake]
    (tmp_path / "study.yaml").write_text(text)
    message = run_in(tmp_path, "search", "study.yaml").message
    assert all(fragment in message for fragment in ["study.yaml", *fragments]), message
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(
    "words",
    ["search F", "front F", "export F --best verified --to T", "space show F", "space sample F",
     "space schema F"],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False])
def test_every_verb_explains_a_wrong_study_file(tmp_path: Path, words: str, there: bool) -> None:
    if there:
        (tmp_path / "my[b]study.yaml").write_text(changed(DENSITY, 1.2))
    answer = run_in(tmp_path, *words.replace("F", "my[b]study.yaml").split())
    expected = AT + ": 1.2 must be" if there else "there is no such file"
    assert expected in answer.message
    assert "my[b]study.yaml" in answer.message
    assert answer.out == ""


def test_data_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    write_study(tmp_path, data={"name": "npz", "path": "nowhere.npz"})
    answer = run_in(tmp_path, "search", "study.yaml", "--executor", "local")
    assert "nowhere.npz" in answer.message
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_data_outside_the_rules_is_told_before_anything_starts(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.full((20, 4), np.nan), y=np.arange(20) % 2)
    write_study(tmp_path, data={"name": "npz", "path": "data.npz"})
    answer = run_in(tmp_path, "search", "study.yaml", "--executor", "local")
    assert "x[0, 0] is nan" in answer.message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--best", "smalest"], ["'smalest'", "verified, natural, smallest or knee"]),
        (["--tracking-uri", ""], ["tracking.uri"]),
        (["--tracking-uri", "ftp://store"], ["tracking.uri: ftp://store"]),
        (["--executor", "local", "--address", "127.0.0.1:1"], ["--address", "executor ray"]),
        (["--resume"], ["no search to resume"]),
    ],
)
def test_wrong_options_of_search(tmp_path: Path, options: list[str], fragments: list[str]) -> None:
    write_study(tmp_path)
    message = run_in(tmp_path, "search", "study.yaml", *options).message
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize("verb", ["front", "export"])
def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, verb: str) -> None:
    options = ["--best", "knee", "--to", "ticket"] if verb == "export" else []
    message = run_in(tmp_path, verb, "tiny", *options).message
    assert "there is no tracking store mlflow.db" in message
    assert list(tmp_path.iterdir()) == []


# Errors -------------------------------------------------------------------------------------------


def test_what_was_not_foreseen_is_one_message_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(path: Path) -> None:
        raise ZeroDivisionError("no [bold] place")

    monkeypatch.setattr("search.cli.StudyConfig.from_yaml", breaks)
    monkeypatch.delenv("GOLDENTICKET_TRACEBACK", raising=False)
    answer = run_in(tmp_path, "space", "show", "study.yaml")
    assert answer.code == 1
    assert answer.err.startswith("error: ZeroDivisionError: no [bold] place\n")
    assert "Traceback" not in answer.err
    monkeypatch.setenv("GOLDENTICKET_TRACEBACK", "1")
    assert "Traceback" in run_in(tmp_path, "space", "show", "study.yaml").err


def test_an_interrupted_search_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.run.run_study", interrupted)
    write_study(tmp_path).rename(tmp_path / "my study.yaml")
    words = ("search", "my study.yaml", "--executor", "local", "--resume")
    answer = run_in(tmp_path, *words)
    assert answer.code == 130
    assert answer.err == (
        "interrupted; go on with: goldenticket search 'my study.yaml' --executor local --resume\n"
    )


def test_a_paused_search_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search import control, run

    def paused_at_once(folder: Path) -> control.Order:
        return "pause"

    monkeypatch.setattr("search.ledger.read_order", paused_at_once)
    write_study(tmp_path)
    words = ("search", "study.yaml", "--executor", "local", "--resume-or-start")
    answer = run_in(tmp_path, *words)
    assert answer.code == 0, answer
    assert answer.out == ""
    assert answer.err.endswith(
        "paused; go on with: goldenticket search study.yaml --executor local --resume\n"
    )
    study = run.StudyConfig.from_yaml(tmp_path / "study.yaml")
    monkeypatch.chdir(tmp_path)
    folder = run.newest_folder(study)
    assert folder is not None
    for order in ("pause", "stop"):
        assert (
            "no search of study 'tiny' is running in"
            in run_in(tmp_path, order, "study.yaml").message
        )
        with control.only_driver(folder):
            assert run_in(tmp_path, order, "study.yaml").code == 0
        assert control.read_order(folder) == order


def test_every_error_for_a_person_is_a_value_error() -> None:
    kinds = {"ValueError"}
    others = set()
    for package in ("spaces", "trainers", "analysis", "search"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and node.bases:
                    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                    if bases & kinds:
                        kinds.add(node.name)
                    elif any(base.endswith(("Error", "Exception")) for base in bases):
                        others.add(node.name)
    assert {"ConfigError", "DataError", "TicketError", "FrontError"} <= kinds
    assert others == {"JobFailed", "DamagedWorker", "SearchHalted", "StorageError"}


# Spaces -------------------------------------------------------------------------------------------


def test_a_space_is_shown_sampled_and_described(tmp_path: Path) -> None:
    write_study(tmp_path)
    shown = run_in(tmp_path, "space", "show", "study.yaml")
    assert shown.out.startswith("Search space of tiny\n")
    assert "topology.static.density   [0.2, 0.8]" in shown.out
    sampled = run_in(tmp_path, "space", "sample", "study.yaml", "-n", "3", "--seed", "5")
    trials = [TrialConfig.model_validate_json(line) for line in sampled.out.splitlines()]
    densities = [trial.topology.density for trial in trials]  # type: ignore[union-attr]
    assert len(set(densities)) == 3
    assert all(0.2 <= density <= 0.8 for density in densities)
    assert run_in(tmp_path, "space", "sample", "study.yaml", "-n", "3", "--seed", "5") == sampled
    schema = json.loads(run_in(tmp_path, "space", "schema", "study.yaml").out)
    assert set(TINY) <= set(schema["properties"])


def test_a_file_of_the_user_does_not_hide_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["goldenticket", "--help"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(SystemExit):
        main()
    assert sys.path.index(str(tmp_path)) == len(sys.path) - 1


def test_a_search_whose_ticket_has_no_place_is_refused_before_it_starts(tmp_path: Path) -> None:
    write_study(tmp_path)
    place = tmp_path / "tickets" / "tiny"
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("years of work")
    answer = run_in(tmp_path, "search", "study.yaml", "--executor", "local")
    assert answer.code == 2
    assert "is not a ticket (thesis.tex)" in answer.err
    assert not (tmp_path / "runs").exists()
