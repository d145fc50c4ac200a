"""Imports run one way: spaces <- trainers <- analysis <- search."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["spaces", "trainers", "analysis", "search"]
FORBIDDEN = {
    "spaces": {"torch", "ray", "optuna", "mlflow", "numpy"},
    "trainers": {"ray", "optuna", "mlflow"},
    "analysis": {"ray", "optuna"},
    "search": set(),
}
TRAINER_ROWS = [
    {"loop"},
    {"evaluate", "operations", "conformance"},
    {"gather", "verify", "sparsifier", "lowering"},
    {"signals"},
    {"losses", "relaxation", "units", "compaction", "grafting"},
    {"attack", "topology"},
    {"wiring"},
    {"bounds"},
    {
        *("data", "models", "cost", "optimizer", "schedules"),
        *("averaging", "batches", "twin", "transfer", "device", "errors", "imports"),
    },
]


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_layers_before_it(layer: str) -> None:
    later = set(LAYERS[LAYERS.index(layer) + 1 :])
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        tops = {name.split(".")[0] for name in imported_modules(path)}
        assert not tops & (later | FORBIDDEN[layer]), path


def test_only_the_adapter_imports_auto_lirpa() -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
        if any(name.split(".")[0] == "auto_LiRPA" for name in imported_modules(path))
    }
    assert importers == {"trainers/bounds/lirpa.py"}


def trainer_row(module: str) -> int | None:
    part = module.split(".")[1] if module.startswith("trainers.") else None
    if module.startswith("trainers.topology.conformance"):  # a tool on top of all that it tests
        part = "conformance"
    return next((i for i, row in enumerate(TRAINER_ROWS) if part in row), None)


def test_rows_of_trainers_import_only_rows_below_them_or_their_own_package() -> None:
    for path in (ROOT / "trainers").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        own = trainer_row(module)
        if own is None:
            assert module == "trainers.__init__"
            continue
        for name in imported_modules(path):
            other = trainer_row(name)
            same_package = name.split(".")[:2] == module.split(".")[:2]
            if other is not None and not (same_package and other == own):
                ground = len(TRAINER_ROWS) - 1
                assert other > own or own == ground, f"{module} imports {name}"
