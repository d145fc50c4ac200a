"""Running the command line in this process, in a folder, on a study of a few seconds."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.cli import main

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.05, "examples": 20, "epoch_examples": 20},
    "space": {
        "model": {"family": "mlp", "widths": [16]},
        "topology": {"method": "static", "density": {"low": 0.2, "high": 0.8}},
        "batch_size": 64,
        "optimizer": {"lr": 0.01},
    },
    "budget": {"trials": 3, "epochs": 2},
}


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Of a command that was given wrong input: one message, and no result."""
        assert self.code == 2, self
        assert self.err.startswith("error: "), self
        assert self.err.count("error:") == 1
        assert "Traceback" not in self.err
        assert "not foreseen" not in self.err
        return self.err


def run_in(folder: Path, *words: str | Path) -> Answer:
    """Run `goldenticket` in this process, in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["goldenticket", *map(str, words)])
        patch.setattr(sys, "path", sys.path.copy())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as end:
                assert end.code is None or isinstance(end.code, int)
                code = end.code or 0
    return Answer(code, out.getvalue(), err.getvalue())


def write_study(folder: Path, **changes: Any) -> Path:
    """TINY with top-level keys replaced; its own store, since MLflow keeps relative ones open."""
    tree = {**TINY, "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}, **changes}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
