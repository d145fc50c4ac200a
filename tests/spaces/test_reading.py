"""YAML files: what is no study at all is told with file and line."""

import pytest

from spaces import ConfigError
from spaces.reading import read_yaml


def read(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2e+2", -200.0),
        ("1.5e3", 1500.0),
        ("3.0", 3.0),
        ("12", 12),
        ("e3", "e3"),
        ("1e", "1e"),
        ("'1e-3'", "1e-3"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
    ],
)
def test_values_mean_what_they_look_like(tmp_path, text, value):
    read_value = read(tmp_path, f"a: {text}")["a"]
    assert (read_value, type(read_value)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nb: 2\na: 3\n",
            ", line 3, column 1: the key 'a' appears twice, first in line 1: remove one of them",
        ),
        (
            "a:\n  - {b: 1, b: 2}\n",
            ", line 2, column 12: the key 'b' appears twice, first in line 2: remove one of them",
        ),
        ("a:\n\tb: 1\n", ", line 2, column 1: a tab is used for indentation: use spaces"),
        ("a: [1, 2\n", ", line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("", ": is empty: a mapping of settings (`key: value`) is needed"),
        ("- 1\n", ": holds [1]: a mapping of settings (`key: value`) is needed"),
        ("a: 1\n--- \nb: 2\n", ", line 2, column 1: but found another document"),
        (
            "a: 1\nb: \x00\n",
            ", line 2: the character U+0000 is not allowed in YAML",
        ),
        (b"a: \xff\n", ": is not UTF-8 text (byte 3): save it as UTF-8"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_place(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'study.yaml'}{message}"


def test_yaml_cannot_run_code(tmp_path):
    with pytest.raises(ConfigError, match="line 1, column 4: could not determine a constructor"):
        read(tmp_path, "a: !!python/object/apply:os.getcwd []")


def test_a_merged_mapping_may_be_overridden(tmp_path):
    text = "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}"
    assert read(tmp_path, text)["mine"] == {"a": 1, "b": 3}


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file: check the path$"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
