"""Structural OpenAPI v3 schemas, as CustomResourceDefinitions bear them: checking plain JSON against one."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from informer import patch
from informer.codecs import SCALARS, Path, Raw, plain, render, show
from informer.errors import Invalid

_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "string": ("str", (str,)),
    "integer": ("int", (int,)),
    "number": ("float", (int, float)),
    "boolean": ("bool", (bool,)),
    "array": ("list", (list,)),
    "object": ("object", (dict,)),
}


def validate_schema(schema: Raw, value: object, path: Path = None) -> None:
    """Raise `Invalid` at the first place where the JSON does not fit, in the words that a typed class would use.

    Null counts as missing, and a missing object as an empty one, so that the error names the field needed inside.
    What the schema does not mention is let through: nothing is ever pruned.
    """
    value = plain(value)
    _check_type(schema, value, path)
    if "enum" in schema and not any(patch.equal(value, allowed) for allowed in schema["enum"]):
        raise Invalid(render(path), f"expected {' | '.join(map(show, schema['enum']))}, got {show(value)}")
    if isinstance(value, dict):
        _check_object(schema, value, path)
    elif isinstance(value, list):
        _check_size(schema, "Items", len(value), path)
        for index, item in enumerate(value):
            validate_schema(schema.get("items") or {}, item, (path, index))
    elif isinstance(value, str):
        _check_size(schema, "Length", len(value), path)
        if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
            raise Invalid(render(path), f"expected a match of {schema['pattern']}, got {show(value)}")
        if schema.get("format") == "date-time":
            _TIME.check(value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(schema, value, path)
    _check_combined(schema, value, path)


def check_schema(schema: object, path: Path = None) -> None:
    """Raise `Invalid` for a schema that `validate_schema` could not work with."""
    if not isinstance(schema, dict):
        raise Invalid(render(path), f"expected a schema, got {show(schema)}")
    for word, (name, kinds) in _WORDS.items():
        if word in schema and not isinstance(schema[word], kinds):
            raise Invalid(render((path, word)), f"expected {name}, got {show(schema[word])}")
    kind = schema.get("type")
    if kind is not None and kind not in _TYPES:
        raise Invalid(render((path, "type")), f"expected {' | '.join(map(show, _TYPES))}, got {show(kind)}")
    if "pattern" in schema:
        try:
            _pattern(schema["pattern"])
        except re.error as error:
            raise Invalid(render((path, "pattern")), f"is no regular expression: {error}") from None
    for key, inner in (schema.get("properties") or {}).items():
        check_schema(inner, ((path, "properties"), key))
    for word in ("items", "not", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            check_schema(schema[word], (path, word))
    for word in ("allOf", "anyOf", "oneOf"):
        for index, inner in enumerate(schema.get(word) or ()):
            check_schema(inner, ((path, word), index))


_NUMBER = ("a number", (int, float))
_SIZE = ("int", (int,))
_LIST = ("list", (list,))
_WORDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "properties": ("object", (dict,)),
    "additionalProperties": ("a schema or a bool", (dict, bool)),
    "items": ("object", (dict,)),
    "not": ("object", (dict,)),
    "pattern": ("str", (str,)),
    **dict.fromkeys(("required", "enum", "allOf", "anyOf", "oneOf"), _LIST),
    **dict.fromkeys(("minimum", "maximum"), _NUMBER),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _SIZE),
}


def _check_type(schema: Raw, value: object, path: Path) -> None:
    if schema.get("x-kubernetes-int-or-string"):
        if type(value) not in (int, str):
            raise Invalid(render(path), f"expected int | str, got {show(value)}")
        return
    expected = schema.get("type")
    if expected in _TYPES:
        name, kinds = _TYPES[expected]
        if type(value) not in kinds:
            raise Invalid(render(path), f"expected {name}, got {show(value)}")


def _check_object(schema: Raw, value: Raw, path: Path) -> None:
    properties: Raw = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    for key in schema.get("required") or ():
        if value.get(key) is None:
            inner = properties.get(key) or {}
            if inner.get("type") == "object" and inner.get("required"):
                validate_schema(inner, {}, (path, key))
            raise Invalid(render((path, key)), "required")
    for key, item in value.items():
        inner = properties.get(key, others)
        if isinstance(inner, dict) and item is not None:
            validate_schema(inner, item, (path, key))
    _check_size(schema, "Properties", len(value), path)


def _check_size(schema: Raw, what: str, size: int, path: Path) -> None:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if low is not None and size < low:
        raise Invalid(render(path), f"expected at least {low} {what.lower()}, got {size}")
    if high is not None and size > high:
        raise Invalid(render(path), f"expected at most {high} {what.lower()}, got {size}")


def _check_bounds(schema: Raw, value: float, path: Path) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value <= low if schema.get("exclusiveMinimum") else value < low):
        raise Invalid(
            render(path), f"expected {'more than' if schema.get('exclusiveMinimum') else 'at least'} {low}, got {value}"
        )
    if high is not None and (value >= high if schema.get("exclusiveMaximum") else value > high):
        raise Invalid(
            render(path), f"expected {'less than' if schema.get('exclusiveMaximum') else 'at most'} {high}, got {value}"
        )


def _check_combined(schema: Raw, value: object, path: Path) -> None:
    for each in schema.get("allOf") or ():
        validate_schema(each, value, path)
    for word in ("anyOf", "oneOf"):
        choices = schema.get(word) or ()
        fitting = sum(_fits(each, value, path) for each in choices)
        if choices and (not fitting or (word == "oneOf" and fitting > 1)):
            raise Invalid(render(path), f"{show(value)} fits {fitting or 'none'} of the alternatives of {word}")
    if schema.get("not") is not None and _fits(schema["not"], value, path):
        raise Invalid(render(path), f"{show(value)} is excluded")


def _fits(schema: Raw, value: object, path: Path) -> bool:
    try:
        validate_schema(schema, value, path)
    except Invalid:
        return False
    return True


@lru_cache(256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


_TIME = SCALARS[datetime]
