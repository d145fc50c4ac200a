"""What the documents say is what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

from spaces import StudyConfig

ROOT = Path(__file__).resolve().parents[1]


def test_the_list_of_settings_is_up_to_date() -> None:
    path = ROOT / "docs" / "generate_settings.py"
    spec = importlib.util.spec_from_file_location("generate_settings", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert committed == module.settings_page(), "run docs/generate_settings.py"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_is_a_valid_study(path: Path) -> None:
    assert StudyConfig.from_yaml(path).search_space().parameters()


@pytest.mark.parametrize("page", ["README.md", "docs/contract.md"])
def test_every_study_file_in_a_document_is_valid(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "budget:" in b]
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        StudyConfig.from_yaml(path)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_named_in_a_document_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    folders = "docs|examples|benchmarks|tests|spaces|trainers"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
