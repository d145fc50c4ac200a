"""Reading a raw tree into parts and holes, guided by the fields of the configuration classes.

Every problem is noted with its place, and reading goes on, so that an author sees all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

from spaces.base import Config, ConfigError
from spaces.holes import (
    Choice,
    Condition,
    Fixed,
    Node,
    Part,
    Range,
    Scalar,
    Variants,
    fill,
    is_multiple,
)
from spaces.kinds import adapter, base_type, bounds, kind_of, number_kind, unwrapped
from spaces.reading import compact_json, did_you_mean, explain, join, show, suggest_name

_RANGE_KEYS = ("low", "high", "log", "step")


class Walker:
    """Walks a raw tree; `problems` collects what is wrong with it.

    With `holes=False` every leaf must be a fixed value. `locate` turns a path of the configuration
    into the path that the author wrote.
    """

    def __init__(self, *, holes: bool, locate: Callable[[str], str] = str) -> None:
        self.problems: list[str] = []
        self._holes = holes
        self._locate = locate

    def part(self, cls: type[Config], raw: Any, path: str, condition: Condition = ()) -> Part:
        """Read the settings of one configuration class."""
        members: dict[str, Node] = {}
        if not isinstance(raw, Mapping):
            self._note(path, f"{show(raw)} must be a mapping, with {_some_keys(cls)}")
            return Part(path, cls, members)
        for key, value in raw.items():
            if key in cls.model_fields:
                where = join(path, key)
                members[key] = self._field(cls.model_fields[key], value, where, condition)
            elif key == "choice" and self._holes:
                self._note(path, "is not a union, so it cannot be a choice: put the holes inside")
            else:
                self._note(join(path, str(key)), "unknown key", suggest_name(key, cls.model_fields))
        for key, field in cls.model_fields.items():
            if field.is_required() and key not in raw:
                self._note(join(path, key), "is missing")
        return Part(path, cls, members)

    def _field(self, field: FieldInfo, raw: Any, path: str, condition: Condition) -> Node:
        if isinstance(field.discriminator, str):
            return self._union(field, raw, path, condition)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            return self.part(field.annotation, raw, path, condition)
        return self._leaf(kind_of(field), raw, path, condition, field.description)

    def _union(self, field: FieldInfo, raw: Any, path: str, condition: Condition) -> Node:
        if not (self._holes and isinstance(raw, Mapping) and "choice" in raw):
            return self._variant(field, raw, path, condition)[1]
        hole_path = join(path, str(field.discriminator))
        parts: dict[str, Part] = {}
        variants = self._choices(raw, path)
        for index, variant in enumerate(variants):
            if variant in variants[:index]:
                self._note(f"{path}.choice.{index}", "appears twice: remove it")
                continue
            label = _discriminate(field, variant) if isinstance(variant, Mapping) else None
            same = sum(name.partition("#")[0] == label for name in parts)
            label = f"{label}#{same + 1}" if same else label
            nested = (*condition, (hole_path, str(label)))
            where = f"{path}.choice.{index}"
            known, part = self._variant(field, variant, path, nested, label=label, where=where)
            if known:
                parts[str(label)] = part
        labels = tuple(parts)
        return Variants(Choice(hole_path, condition, labels, labels), parts)

    def _variant(
        self,
        field: FieldInfo,
        raw: Any,
        path: str,
        condition: Condition,
        *,
        label: str | None = None,
        where: str | None = None,
    ) -> tuple[bool, Part]:
        """One variant of a union, and whether its discriminator was understood."""
        classes = _classes_by_tag(field)
        where = where or path
        key = str(field.discriminator)
        raw = _expand(field, raw)
        if not isinstance(raw, Mapping):
            self._note(where, f"{show(raw)} must be a mapping with the key {key}")
        elif key not in raw:
            self._note(join(where, key), "is missing", f"; one of: {', '.join(classes)}")
        elif not isinstance(raw[key], str) or raw[key] not in classes:
            rule = f"{show(raw[key])} must be one of: {', '.join(classes)}"
            hint = did_you_mean(raw[key], classes)
            if isinstance(raw[key], Mapping):
                name = where.rpartition(".")[2]
                hint = f"; to choose, write {name}: {{choice: [{{{key}: ..., ...}}, ...]}}"
            self._note(join(where, key), rule, hint)
        else:
            name = join(path, label or raw[key]) if self._holes else path
            return True, self.part(classes[raw[key]], raw, name, condition)
        return False, Part(path, None)

    def _leaf(
        self, kind: Any, raw: Any, path: str, condition: Condition, about: str | None = None
    ) -> Node:
        base = base_type(kind)
        if not self._holes:
            return Fixed(self._checked(kind, raw, path, about))
        if isinstance(raw, Mapping):
            if "choice" in raw and (base is not dict or len(raw) == 1):
                return self._choice(kind, raw, path, condition, about)
            if base is dict:
                value_type = get_args(unwrapped(kind))[1]
                items = {
                    str(key): self._leaf(value_type, value, join(path, str(key)), condition)
                    for key, value in raw.items()
                }
                return Part(path, None, items)
            if base is not Any or {"low", "high"} <= set(raw):
                return self._range(kind, raw, path, condition)
        if base is tuple and isinstance(raw, Sequence) and _has_hole(raw):
            return self._tuple(kind, raw, path, condition)
        return Fixed(self._checked(kind, raw, path, about))

    def _tuple(self, kind: Any, raw: Sequence[Any], path: str, condition: Condition) -> Node:
        kinds = get_args(unwrapped(kind))
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(raw)
        if len(raw) != len(kinds):
            self._note(path, f"has {len(raw)} items but must have {len(kinds)}")
            return Fixed(None)
        before = len(self.problems)
        items = {
            str(index): self._leaf(kinds[index], item, f"{path}.{index}", condition)
            for index, item in enumerate(raw)
        }
        part = Part(path, None, items, sequence=True)
        if len(self.problems) == before:
            self._checked(kind, fill(part, lambda hole: hole.corners[0]), path)
        return part

    def _choice(
        self, kind: Any, raw: Mapping[str, Any], path: str, condition: Condition, about: str | None
    ) -> Node:
        labels: list[Scalar] = []
        values: list[Any] = []
        for index, item in enumerate(self._choices(raw, path)):
            where = f"{path}.choice.{index}"
            before = len(self.problems)
            value = self._checked(kind, item, where, about)
            if len(self.problems) > before:
                continue
            label = _label(value)
            if label in labels:
                self._note(where, f"{show(item)} appears twice: remove it")
                continue
            labels.append(label)
            values.append(value)
        return Choice(path, condition, tuple(labels), tuple(values))

    def _choices(self, raw: Mapping[str, Any], path: str) -> Sequence[Any]:
        for key in raw:
            if key != "choice":
                self._note(join(path, str(key)), "unknown key beside choice: choice stands alone")
        choices = raw["choice"]
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            self._note(join(path, "choice"), f"{show(choices)} must be a list of alternatives")
            return ()
        if not choices:
            self._note(join(path, "choice"), "is empty: list at least one alternative")
        return choices

    def _range(self, kind: Any, raw: Mapping[str, Any], path: str, condition: Condition) -> Node:
        before = len(self.problems)
        number = number_kind(kind, raw)
        for key in raw:
            if key not in _RANGE_KEYS:
                hint = suggest_name(key, (*_RANGE_KEYS, "choice"))
                self._note(join(path, str(key)), "unknown key of a range or choice", hint)
        if base_type(kind) is tuple:
            self._note(path, "is a list: write a range for an item of it, or use {choice: [...]}")
        elif number is None:
            self._note(path, "takes no number, so it cannot be a range: use {choice: [...]}")
        for key in ("low", "high"):
            if key not in raw:
                self._note(join(path, key), "is missing; a range is {low: ..., high: ...}")
        log, step = raw.get("log", False), raw.get("step")
        if not isinstance(log, bool):
            self._note(join(path, "log"), f"{show(log)} must be true or false")
        if len(self.problems) > before or number is None:
            return Fixed(None)
        low, high = (self._checked(kind, raw[key], join(path, key)) for key in ("low", "high"))
        if step is not None:
            step = self._checked(int if number == "int" else float, step, join(path, "step"))
        if len(self.problems) > before:
            return Fixed(None)
        if number == "int":
            return self._ordered(Range(path, condition, "int", int(low), int(high), log, step))
        return self._ordered(Range(path, condition, "float", float(low), float(high), log, step))

    def _ordered(self, hole: Range) -> Range:
        ends = f"low ({hole.low!r}), high ({hole.high!r})"
        if hole.low >= hole.high:
            self._note(hole.path, f"{ends}: low must be less than high, or write the value alone")
        elif hole.log and hole.low <= 0:
            self._note(join(hole.path, "low"), f"{hole.low!r} must be above 0 when log is true")
        if hole.log and hole.step is not None:
            self._note(join(hole.path, "step"), "does not go with log: remove one of them")
        elif hole.step is not None and hole.step <= 0:
            self._note(join(hole.path, "step"), f"{hole.step!r} must be above 0")
        elif hole.step is not None and not is_multiple(hole.high - hole.low, hole.step):
            self._note(hole.path, f"{ends}: high - low must be a multiple of step ({hole.step!r})")
        return hole

    def _checked(self, kind: Any, raw: Any, path: str, about: str | None = None) -> Any:
        """The value as its field takes it; None, and a problem noted, if the field refuses it."""
        if isinstance(raw, bool) and base_type(kind) in (int, float):
            self._note(path, f"{show(raw)} must be a number")
            return None
        try:
            return adapter(kind).validate_python(raw)
        except ValidationError as error:
            hint = bounds(kind)
            if any(item["type"] == "string_pattern_mismatch" for item in error.errors()) and about:
                hint = f"; {about[0].lower()}{about[1:].rstrip('.')}"
            if not self._holes and isinstance(raw, Mapping) and {"low", "choice"} & set(raw):
                hint = "; ranges and choices may stand in `space` only"
            self.problems += [line + hint for line in explain(error, self._locate(path))]
            return None

    def _note(self, path: str, rule: str, hint: str = "") -> None:
        self.problems.append(f"{self._locate(path)}: {rule}{hint}")


def _some_keys(cls: type[Config]) -> str:
    first = list(cls.model_fields)[:3]
    return f"keys such as {', '.join(first)}" if first else "no keys"


_ConfigT = TypeVar("_ConfigT", bound=Config)


def read_config(cls: type[_ConfigT], tree: Any, *, source: str | None = None) -> _ConfigT:
    """A configuration without holes from a raw tree; ConfigError with a line per problem."""
    walker = Walker(holes=False)
    walker.part(cls, tree, "")
    if walker.problems:
        raise ConfigError(*walker.problems, source=source)
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(*explain(error, "", tree), source=source) from None


def _classes_by_tag(field: FieldInfo) -> dict[str, type[Config]]:
    key = str(field.discriminator)
    return {
        tag: cls
        for cls in get_args(field.annotation)
        for tag in get_args(cls.model_fields[key].annotation)
    }


def _expand(field: FieldInfo, raw: Any) -> Any:
    """Apply the field's shorthands, such as {python: ...} for {family: python, python: ...}."""
    for item in field.metadata:
        if isinstance(item, BeforeValidator):
            raw = item.func(raw)  # type: ignore[call-arg]
    return raw


def _discriminate(field: FieldInfo, raw: Any) -> str | None:
    tag = _expand(field, raw).get(str(field.discriminator))
    return tag if isinstance(tag, str) else None


def _has_hole(items: Sequence[Any]) -> bool:
    return not isinstance(items, str) and any(isinstance(item, Mapping) for item in items)


def _label(value: Any) -> Scalar:
    if value is None or isinstance(value, str | int | float):
        return value
    return compact_json(adapter(Any).dump_python(value, mode="json"))
