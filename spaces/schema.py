"""JSON Schema of study files for editors: a trial's schema, with holes wherever they may stand."""

from __future__ import annotations

import copy
import json
from typing import Any

from spaces.trial import TrialConfig

Schema = dict[str, Any]

STUDY_LEVEL_KEYS = ("data", "evaluation", "epochs", "seed", "compute")
"""Keys of a trial that a study file sets outside `space`."""


def space_schema() -> Schema:
    """Schema of a TrialConfig with holes."""
    schema = copy.deepcopy(TrialConfig.model_json_schema())
    definitions = schema["$defs"]
    for part in (schema, *definitions.values()):
        _open_part(part, definitions)
    return schema


def study_schema(schema: Schema) -> Schema:
    """The schema of a study file, given StudyConfig's own: `space` and `data` filled in.

    Definitions with holes get names of their own, since `data` and `evaluation` take none; of the
    data only `augment` does.
    """
    trial, space = TrialConfig.model_json_schema(), space_schema()
    augment = space["$defs"]["AugmentConfig"]
    space = json.loads(json.dumps(space).replace("#/$defs/", "#/$defs/open."))
    opened = {f"open.{name}": definition for name, definition in space["$defs"].items()}
    inner = {k: v for k, v in space["properties"].items() if k not in STUDY_LEVEL_KEYS}
    schema = copy.deepcopy(schema)
    schema["$defs"] = {**schema.get("$defs", {}), **trial["$defs"], **opened}
    schema["$defs"]["AugmentConfig"] = augment
    schema["properties"]["data"] = trial["properties"]["data"]
    schema["properties"]["space"] = {
        "type": "object",
        "description": "What may be tried: the other settings of a trial, with holes.",
        "properties": inner,
        "additionalProperties": False,
    }
    return schema


def _open_part(part: Schema, definitions: dict[str, Schema]) -> None:
    """Let holes stand in the place of a part's leaves and unions."""
    for name, member in part.get("properties", {}).items():
        if "const" in member or "$ref" in member:
            continue
        if "discriminator" in member:
            part["properties"][name] = _open_union(member, definitions)
        elif not _is_discriminator(name, part):
            part["properties"][name] = _open_leaf(member)


def _is_discriminator(name: str, part: Schema) -> bool:
    """A union's key with several values, such as the name of packaged data."""
    return name == "name" and name in part.get("required", ())


def _open_union(member: Schema, definitions: dict[str, Schema]) -> Schema:
    key = member["discriminator"]["propertyName"]
    for reference in member["oneOf"]:
        definition = definitions[reference["$ref"].rpartition("/")[2]]
        if "python" not in definition["properties"]:  # {python: ...} stands without its key
            definition["required"] = sorted({*definition.get("required", ()), key})
    union = {"oneOf": member["oneOf"]}
    about = {k: v for k, v in member.items() if k in ("default", "description", "title")}
    return {**about, "anyOf": [union, _choice_of(union)]}


def _open_leaf(member: Schema) -> Schema:
    about = {k: v for k, v in member.items() if k in ("default", "description", "title")}
    leaf = {k: v for k, v in member.items() if k not in about}
    alternatives = [leaf, _choice_of(leaf)]
    kinds = leaf.get("anyOf", [leaf])
    for kind in kinds:
        if kind.get("type") in ("integer", "number"):
            alternatives.append(_range_of(kind))
        elif kind.get("type") == "array":
            alternatives.append(_open_array(kind))
    return {**about, "anyOf": alternatives}


def _open_array(kind: Schema) -> Schema:
    opened = copy.deepcopy(kind)
    if "items" in kind:
        opened["items"] = _open_leaf(kind["items"])
    if "prefixItems" in kind:
        opened["prefixItems"] = [_open_leaf(item) for item in kind["prefixItems"]]
    return opened


def _choice_of(schema: Schema) -> Schema:
    alternatives = {"type": "array", "items": schema, "minItems": 1, "uniqueItems": True}
    return {
        "type": "object",
        "properties": {"choice": alternatives},
        "required": ["choice"],
        "additionalProperties": False,
    }


def _range_of(number: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {
            "low": number,
            "high": number,
            "log": {"type": "boolean"},
            "step": {"type": number["type"], "exclusiveMinimum": 0},
        },
        "required": ["low", "high"],
        "additionalProperties": False,
    }
