"""What a field takes, seen from its annotation: its bare type, its limits, its validator."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo


def kind_of(field: FieldInfo) -> Any:
    """The field's annotation together with its constraints, as one type."""
    kind: Any = field.annotation
    return Annotated[(kind, *field.metadata)] if field.metadata else kind


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """A validator of values of a type, built once."""
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


@cache
def bounds(kind: Any) -> str:
    """`; allowed: > 0, <= 1` for a number field with limits."""
    if base_type(kind) not in (int, float):
        return ""
    schema = adapter(kind).json_schema()
    schema = schema.get("anyOf", [schema])[0]
    limits = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    found = [f"{sign} {schema[key]:.10g}" for key, sign in limits.items() if key in schema]
    return f"; allowed: {', '.join(found)}" if found else ""


def unwrapped(kind: Any) -> Any:
    """A type without Annotated and without `| None`."""
    if get_origin(kind) is Annotated:
        return unwrapped(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not types.NoneType]
        if len(members) == 1:
            return unwrapped(members[0])
    return kind


def base_type(kind: Any) -> Any:
    """The bare class: int, tuple, Literal, ..."""
    inner = unwrapped(kind)
    return get_origin(inner) or inner


def number_kind(kind: Any, raw: Mapping[str, Any]) -> Literal["int", "float"] | None:
    """What a range over a type yields; None if the type takes no number."""
    base = base_type(kind)
    if base is Any:  # an argument of the user's own function: the ends decide
        ends = [raw.get("low"), raw.get("high")]
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
            return None
        base = int if all(isinstance(end, int) for end in ends) else float
    return "int" if base is int else "float" if base is float else None
