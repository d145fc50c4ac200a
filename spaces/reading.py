"""From a YAML file, or from pydantic's errors, to something a person can act on."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spaces.base import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: a key may appear once only, and 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} appears twice, first in line {seen[key]}: "
                    "remove one of them",
                    problem_mark=key_node.start_mark,
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {  # no dates: 2024-01-01 is a text
    first: [(tag, regex) for tag, regex in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(  # YAML 1.1 wants a dot and a sign, and else reads a text
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raise ConfigError with file and line if there is none."""
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{source}: there is no such file: check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{source}: is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML (or JSON) text holds; ConfigError naming its source if none."""
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}{_place_and_rule(error, text)}") from None
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else f"holds {show(tree)}"
        raise ConfigError(f"{source}: {what}: a mapping of settings (`key: value`) is needed")
    return tree


def _place_and_rule(error: yaml.YAMLError, text: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        rule = error.problem or error.context or "is not YAML"
        if "\\t" in rule:
            rule = "a tab is used for indentation: use spaces"
        return f"{place}: {rule}"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return f", line {line}: the character U+{code:04X} is not allowed in YAML"
    return f": {error}"


def show(value: Any) -> str:
    """A value as it may stand in an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`; did you mean x?`, or nothing when no known name is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def suggest_name(name: object, known: Iterable[str]) -> str:
    """`; did you mean x?`, or the known names when none is close."""
    known = list(known)
    return did_you_mean(name, known) or f"; known: {', '.join(known)}"


_PLAIN_MESSAGES = {
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "string_type": "must be text: put it in quotes",
    "string_pattern_mismatch": "does not have the right form",
}


def explain(error: ValidationError, path: str, raw: Any = None) -> list[str]:
    """One line per pydantic error about the value `raw` at a path: path, value, rule."""
    lines: list[str] = []
    items = error.errors(include_url=False)
    for item in items:
        if item["type"] == "too_short" and len(items) > 1:
            continue  # pydantic leaves refused members out and then misses them
        where = join(path, *_keys(item["loc"], raw))
        where = f"{where}: " if where else ""
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            lines.extend(where + problem for problem in cause.problems)
            continue
        message = _PLAIN_MESSAGES.get(item["type"], item["msg"])
        message = re.sub(r" after validation, not \d+$", "", message)
        message = re.sub(r"^\w+ should ", "must ", message)
        message = re.sub(r"^Value error, ", "", message)
        if item["type"] == "value_error":
            lines.append(f"{where}{message}")
        elif item["type"] == "missing":
            lines.append(f"{where}is missing")
        else:
            allowed = re.findall(r"'([^']*)'", item.get("ctx", {}).get("expected", ""))
            hint = did_you_mean(item["input"], allowed)
            lines.append(f"{where}{show(item['input'])} {message}{hint}")
    return lines


def _keys(place: Iterable[object], raw: Any) -> Iterator[str]:
    """The keys to a place; pydantic adds names of variants (`moasha`), which are values there."""
    for part in place:
        if isinstance(raw, Mapping) and part not in raw and part in raw.values():
            continue
        yield str(part)
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None


def join(*parts: str) -> str:
    """Parts of a path, with dots between those that are not empty."""
    return ".".join(part for part in parts if part)


def compact_json(value: Any) -> str:
    """JSON without spaces: the label of a value that is no scalar."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
