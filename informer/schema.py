"""Structural OpenAPI v3 schemas, as CustomResourceDefinitions bear them: checking plain JSON against one."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from informer import patch
from informer.codecs import SCALARS, Path, Raw, plain, render, show
from informer.errors import Invalid, Problems

# The one rule in CEL that is understood here, which is how definitions say that a value cannot change.
IMMUTABLE_RULE = "self == oldSelf"

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
    What the schema does not mention is let through: nothing is ever pruned. What does not fit in several fields of an
    object is one error that tells of all of them.
    """
    value = plain(value)
    _check_type(schema, value, path)
    if "enum" in schema and not any(patch.equal(value, allowed) for allowed in schema["enum"]):
        raise Invalid(render(path), f"expected {' | '.join(map(show, schema['enum']))}, got {show(value)}")
    if isinstance(value, dict):
        _check_object(schema, value, path)
    elif isinstance(value, list):
        problems = Problems()
        for index, item in enumerate(value):
            with problems:
                validate_schema(schema.get("items") or {}, item, (path, index))
        problems.tell()
    elif isinstance(value, str) and schema.get("format") == "date-time":
        _TIME.check(value, path)
    check_value(schema, value, path)
    _check_combined(schema, value, path)


def check_value(schema: Raw, value: object, path: Path) -> None:
    """Raise `Invalid` if a value of the right type breaks a rule about its size or form; not for what is inside it."""
    if isinstance(value, dict):
        _check_size(schema, "Properties", "entry", "entries", len(value), path)
    elif isinstance(value, list):
        _check_size(schema, "Items", "item", "items", len(value), path)
    elif isinstance(value, str):
        _check_size(schema, "Length", "character", "characters", len(value), path)
        if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
            raise Invalid(render(path), f"expected a match of {schema['pattern']}, got {show(value)}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(schema, value, path)


def check_transition(schema: Raw, old: object, new: object, path: Path = None) -> None:
    """Raise `Invalid` if a value that the schema says cannot change has changed.

    Of the rules that a definition may have in CEL only `self == oldSelf` is known here; others are passed over.
    """
    if not isinstance(old, dict):
        return
    problems = Problems()
    for key, inner in (schema.get("properties") or {}).items():
        before, after = (
            value.get(key) if value.get(key) is not None else inner.get("default")
            for value in (old, new if isinstance(new, dict) else {})
        )
        with problems:
            if is_immutable(inner) and before is not None and not patch.equal(before, after):
                raise Invalid(render((path, key)), "is immutable")
            check_transition(inner, before, after, (path, key))
    others = schema.get("additionalProperties")
    if isinstance(others, dict) and isinstance(new, dict):
        for key, after in new.items():
            with problems:
                check_transition(others, old.get(key), after, (path, key))
    problems.tell()


def is_immutable(schema: Raw) -> bool:
    """Whether the schema bears the rule that a value cannot change."""
    rules = schema.get("x-kubernetes-validations") or ()
    return any(isinstance(each, dict) and each.get("rule") == IMMUTABLE_RULE for each in rules)


def json_schema(schema: Raw) -> Raw:
    """An OpenAPI v3 schema as JSON Schema 2020-12: for editors and validators that know nothing of Kubernetes."""
    result: Raw = {}
    for word, value in schema.items():
        if word == "x-kubernetes-int-or-string":
            result["type"] = ["integer", "string"]
        elif word.startswith(("x-kubernetes-", "exclusive")) or word == "nullable":
            continue
        elif word in ("minimum", "maximum") and schema.get(f"exclusive{word.capitalize()}") is True:
            result[f"exclusive{word.capitalize()}"] = value
        elif word == "properties":
            result[word] = {key: json_schema(inner) for key, inner in value.items()}
        elif word in ("allOf", "anyOf", "oneOf"):
            result[word] = [json_schema(inner) for inner in value]
        elif word in ("items", "not", "additionalProperties") and isinstance(value, dict):
            result[word] = json_schema(value)
        else:
            result[word] = value
    return result


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
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), _NUMBER),
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
    problems = Problems()
    for key in schema.get("required") or ():
        if value.get(key) is None:
            inner = properties.get(key) or {}
            with problems:
                if inner.get("type") == "object" and inner.get("required"):
                    validate_schema(inner, {}, (path, key))
                raise Invalid(render((path, key)), "required")
    for key, item in value.items():
        inner = properties.get(key, others)
        if isinstance(inner, dict) and item is not None:
            with problems:
                validate_schema(inner, item, (path, key))
    problems.tell()


def _check_size(schema: Raw, what: str, one: str, many: str, size: int, path: Path) -> None:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if low is not None and size < low:
        raise Invalid(render(path), f"expected at least {low} {one if low == 1 else many}, got {size}")
    if high is not None and size > high:
        raise Invalid(render(path), f"expected at most {high} {one if high == 1 else many}, got {size}")


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

    factor = schema.get("multipleOf")
    if factor and (value % factor if type(value) is type(factor) is int else abs(_remainder(value, factor)) > 1e-9):
        raise Invalid(render(path), f"expected a multiple of {factor}, got {value}")


def _remainder(value: float, factor: float) -> float:
    """Of the division, in parts of the factor: 0.3 is three times 0.1, whatever floats make of it."""
    return value / factor - round(value / factor)


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
