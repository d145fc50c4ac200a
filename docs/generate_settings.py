"""Writes docs/settings.md, the list of all settings of a study, from the configuration classes.

uv run docs/generate_settings.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spaces.study import StudyConfig
from spaces.trial import TrialConfig

HEADER = """# All settings

Made by `docs/generate_settings.py` from the configuration classes; do not edit.

First those of a study: the search, each key at the top level of the study file. Then those of a
trial: of these `data` and `evaluation` stand at the top level too, `epochs` under `budget`,
`compute` under `resources`, and the rest under `space`, where each value may be a range
`{low, high, log?, step?}` or a choice `{choice: [...]}`.
"""
OF_TRIALS = ("data", "evaluation", "space")


def settings_page() -> str:
    """The page as Markdown: one table per part, one row per setting."""
    study = StudyConfig.model_json_schema()
    study["properties"] = {k: v for k, v in study["properties"].items() if k not in OF_TRIALS}
    parts = [*_parts("study", study), *_parts("trial", TrialConfig.model_json_schema())]
    return HEADER + "".join(_part(name, part) for name, part in parts)


def _parts(root: str, schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The root, then the parts that it and they refer to, by the names under which they stand."""
    parts = {"": (root, schema)}
    todo = list(schema["properties"].items())
    for name, member in todo:
        for reference in member.get("oneOf", [member]):
            if "$ref" in reference and reference["$ref"] not in parts:
                part = schema["$defs"][reference["$ref"].rpartition("/")[2]]
                parts[reference["$ref"]] = (name, part)
                todo += [(f"{name}.{key}", inner) for key, inner in part["properties"].items()]
    return list(parts.values())


def _part(name: str, part: dict[str, Any]) -> str:
    keys = [key for key in ("family", "method", "name") if key in part["properties"]]
    member = part["properties"][keys[0]] if keys else {}
    names = [member["const"]] if "const" in member else member.get("enum", [])
    heading = f"{name}, {keys[0]}: {' | '.join(names)}" if names else name
    paragraphs = part.get("description", "").split("\n\n")
    about = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
    rows = [
        f"| `{key}` | {_values(member)} | {_default(member)} | {member.get('description', '')} |"
        for key, member in part["properties"].items()
        if "$ref" not in member and "oneOf" not in member and "const" not in member
    ]
    table = "\n".join(["| setting | values | default | |", "|---|---|---|---|", *rows])
    return f"\n## {heading}\n\n{about}\n" + (f"\n{table}\n" if rows else "")


def _values(member: dict[str, Any]) -> str:
    if "$ref" in member:  # what is written as text
        return "string"
    if "enum" in member:
        return ", ".join(f"`{value}`" for value in member["enum"])
    if "anyOf" in member:
        return " or ".join(_values(option) for option in member["anyOf"])
    if member.get("type") == "array":
        items = member.get("items") or {"type": "number"}
        return f"list of {_values(items)}"
    bounds = [
        f"{sign} {member[key]:g}"
        for key, sign in (
            ("exclusiveMinimum", ">"),
            ("minimum", ">="),
            ("exclusiveMaximum", "<"),
            ("maximum", "<="),
        )
        if key in member
    ]
    return " ".join([str(member.get("type", "")), ", ".join(bounds)]).strip()


def _default(member: dict[str, Any]) -> str:
    if "default" not in member:
        return "required"
    value = member["default"]
    return "unset" if value is None else f"`{value}`"


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(settings_page(), encoding="utf-8")
