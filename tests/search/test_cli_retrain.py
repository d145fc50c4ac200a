"""`goldenticket retrain`: on a ticket that an earlier version wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_runs import TINY, run_in, write_study

from analysis import load_ticket
from search.cli_retrain import read_data

V1 = Path(__file__).parents[1] / "analysis" / "tickets" / "v1"


@pytest.fixture
def ticket(tmp_path: Path) -> Path:
    return Path(shutil.copytree(V1, tmp_path / "ticket"))


def test_a_ticket_is_trained_again_and_both_are_shown(ticket: Path) -> None:
    words = "retrain ticket --to new --start final --epochs 1 --lr 0.001 --seed 7 --no-onnx"
    answer = run_in(ticket.parent, *words.split())
    assert answer.code == 0, answer.err
    assert "next: goldenticket verify new" in answer.err
    for word in ("final weights: new", "before", "after", "digits", "60.0%", "40 examples"):
        assert word in answer.out
    old, new = load_ticket(ticket), load_ticket(ticket.parent / "new")
    assert (new.config.epochs, new.config.optimizer.lr, new.seed) == (1, 0.001, 7)
    assert new.parent == old.digest


def test_the_report_is_one_json_document(ticket: Path) -> None:
    words = "retrain ticket --to new --data digits --epochs 1 --no-onnx --format json"
    document = json.loads(run_in(ticket.parent, *words.split()).out)
    assert document["before"]["metrics"]["natural_accuracy"] == 0.6
    assert document["after"]["split"] == "validation"


def test_data_are_named_written_out_or_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    npz = {"name": "npz", "path": "mine.npz"}
    Path("mine.yaml").write_text("name: npz\npath: mine.npz\n")
    Path("mine.json").write_text(json.dumps(npz))
    write_study(tmp_path)
    assert read_data("digits") == {"name": "digits"}
    for given in ("{name: npz, path: mine.npz}", json.dumps(npz), "mine.yaml", "mine.json"):
        assert read_data(given) == npz
    assert read_data("study.yaml") == TINY["data"]


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--data", "digit"], ["data.name: 'digit'", "did you mean digits"]),
        (["--data", "{name: npz"], ["--data, line 1"]),
        (["--data", "mine.yaml"], ["mine.yaml: there is no such file"]),
        (["--data", "ticket/ticket.safetensors"], ["a file of examples", "{name: KIND, path: "]),
        (["--data", "breast_cancer"], ["breast_cancer has shape (30,)", "takes (1, 8, 8)"]),
        (["--epochs", "0"], ["epochs: 0 must be"]),
    ],
)
def test_what_cannot_be_trained_again_is_told(
    ticket: Path, words: list[Any], fragments: list[str]
) -> None:
    message = run_in(ticket.parent, "retrain", "ticket", "--to", "new", *words).message
    assert all(fragment in message for fragment in fragments), message
    assert not (ticket.parent / "new").exists()
