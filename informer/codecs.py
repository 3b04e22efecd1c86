"""How one JSON value becomes what an attribute gives, and back: the scalars; `informer.objects` has the rest.

Every codec has `Codec`'s methods, which are described there.
"""

# ruff: noqa: D101, D102

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from informer import patch
from informer.errors import Invalid

Raw = dict[str, Any]

# Where a value sits: (path of the parent, field name or list index); None is the top. Rendered only for an error.
Path = tuple[Any, str | int] | None

MISSING: Any = object()


def render(path: Path) -> str:
    """The path as a reader writes it: `spec.containers[0].image`, `metadata.labels[app.kubernetes.io/name]`."""
    text = ""
    while path is not None:
        path, part = path
        text = (f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{part}]") + text
    return text.removeprefix(".")


def show(value: Any) -> str:
    """A value as JSON for an error text, cut to a readable length."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError):
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class View:
    """What models and their containers share: where the data is, and how a missing one joins its parent.

    `_pending` is (parent, key) as long as the data is not yet part of the parent's.
    """

    __slots__ = ("__weakref__", "_path", "_pending", "_raw")

    _raw: Any
    _path: Path
    _pending: tuple[View, str] | None

    def _attach(self) -> None:
        assert self._pending is not None
        parent, key = self._pending
        if parent._pending is not None:
            parent._attach()
        present = parent._raw.get(key)
        if type(present) is type(self._raw):
            self._raw = present
        else:
            parent._raw[key] = self._raw
        self._pending = None


class Codec:
    """One annotation. `load` JSON -> attribute, `dump` attribute or JSON -> JSON of its own, `check` JSON deeply.

    All raise `Invalid`. `kinds` are the types of JSON value it may accept: how a union chooses.
    """

    name: str
    kinds: frozenset[type] = frozenset()

    def load(self, value: Any, path: Path) -> Any:
        raise NotImplementedError

    def dump(self, value: Any, path: Path) -> Any:
        raise NotImplementedError

    def check(self, value: Any, path: Path) -> None:
        self.load(value, path)

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        """As OpenAPI v3; `within` are the models around it."""
        raise NotImplementedError

    def wrong(self, value: Any, path: Path) -> Invalid:
        return Invalid(render(path), f"expected {self.name}, got {show(value)}")


class Scalar(Codec):
    def __init__(self, kind: type, schema_type: str) -> None:
        self.kind = kind
        self.name = kind.__name__
        self.kinds = frozenset([int, float] if kind is float else [kind])
        self._schema_type = schema_type

    def load(self, value: Any, path: Path) -> Any:
        if type(value) is self.kind:
            return value
        if self.kind is float and type(value) is int:
            return float(value)
        raise self.wrong(value, path)

    def dump(self, value: Any, path: Path) -> Any:
        if type(value) in self.kinds:
            return value
        if isinstance(value, self.kind) and not isinstance(value, bool):
            return self.kind(value.value if isinstance(value, enum.Enum) else value)
        raise self.wrong(value, path)

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        return {"type": self._schema_type}


class Anything(Codec):
    name = "any JSON"
    kinds = frozenset([str, int, float, bool, list, dict])

    def load(self, value: Any, path: Path) -> Any:
        return value

    def dump(self, value: Any, path: Path) -> Any:
        if type(value) in _ATOMS:
            return value
        if isinstance(value, View):
            return patch.copy(value._raw)
        if isinstance(value, Mapping):
            return {k: self.dump(v, (path, k)) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.dump(v, (path, i)) for i, v in enumerate(value)]
        if isinstance(value, datetime):
            return _TIME.dump(value, path)
        if isinstance(value, enum.Enum):
            return self.dump(value.value, path)
        raise Invalid(render(path), f"expected JSON, got {type(value).__name__}")

    def check(self, value: Any, path: Path) -> None:
        pass

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        return {"x-kubernetes-preserve-unknown-fields": True}


_ATOMS = frozenset([str, int, float, bool, type(None)])


class Time(Codec):
    name = "an RFC 3339 time"
    kinds = frozenset([str])

    def load(self, value: Any, path: Path) -> datetime:
        if type(value) is str:
            try:
                parsed = datetime.fromisoformat(value)
            except ValueError:
                raise self.wrong(value, path) from None
            if parsed.tzinfo is not None:
                return parsed
        raise self.wrong(value, path)

    def dump(self, value: Any, path: Path) -> str:
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise Invalid(render(path), "expected a time with a zone, got a naive datetime")
            return format_time(value)
        self.load(value, path)
        return cast(str, value)

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        return {"type": "string", "format": "date-time"}


_TIME = Time()


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC: whole seconds as Kubernetes' Time, else with microseconds as its MicroTime."""
    spec = "microseconds" if moment.microsecond else "seconds"
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=spec) + "Z"


class Choice(Codec):
    """A Literal or an Enum: `values` maps JSON to what the attribute gives."""

    def __init__(self, values: dict[Any, Any]) -> None:
        self._values = {(type(value), value): result for value, result in values.items()}
        self._json = list(values)
        self.kinds = frozenset(map(type, values))
        self.name = " | ".join(show(value) for value in values)

    def load(self, value: Any, path: Path) -> Any:
        if type(value) in self.kinds:
            result = self._values.get((type(value), value), MISSING)
            if result is not MISSING:
                return result
        raise self.wrong(value, path)

    def dump(self, value: Any, path: Path) -> Any:
        if isinstance(value, enum.Enum):
            value = value.value
        self.load(value, path)
        return value

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        schema_type = {TYPE_NAMES[kind] for kind in self.kinds}
        return {"enum": self._json} | ({"type": schema_type.pop()} if len(schema_type) == 1 else {})


TYPE_NAMES = {str: "string", int: "integer", bool: "boolean", float: "number"}


class Union(Codec):
    def __init__(self, choices: list[Codec]) -> None:
        self.choices = choices
        self.name = " | ".join(choice.name for choice in choices)
        self.kinds = frozenset().union(*(choice.kinds for choice in choices))

    def _choose(self, value: Any, path: Path) -> Codec:
        kind = type(value)
        fitting = [choice for choice in self.choices if kind in choice.kinds]
        for choice in fitting[:-1]:
            try:
                choice.check(value, path)
            except Invalid:
                continue
            return choice
        if not fitting:
            raise self.wrong(value, path)
        return fitting[-1]

    def load(self, value: Any, path: Path) -> Any:
        return self._choose(value, path).load(value, path)

    def dump(self, value: Any, path: Path) -> Any:
        value = plain(value)
        return self._choose(value, path).dump(value, path)

    def check(self, value: Any, path: Path) -> None:
        self._choose(value, path).check(value, path)

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        if {choice.name for choice in self.choices} == {"int", "str"}:
            return {"x-kubernetes-int-or-string": True}
        return {"anyOf": [choice.schema(within) for choice in self.choices]}


ANYTHING = Anything()
SCALARS: dict[Any, Codec] = {
    str: Scalar(str, "string"),
    int: Scalar(int, "integer"),
    bool: Scalar(bool, "boolean"),
    float: Scalar(float, "number"),
    datetime: _TIME,
    Any: ANYTHING,
    object: ANYTHING,
}


def plain(value: Any) -> Any:
    """JSON of a value that may be a view or an enum member."""
    if isinstance(value, View):
        return value._raw
    return value.value if isinstance(value, enum.Enum) else value
