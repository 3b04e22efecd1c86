"""Patches and comparisons of JSON values: pure functions, nothing is changed in place.

A result may share parts with the arguments it was made of; `copy` it before changing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from informer.errors import Invalid

Json: TypeAlias = Any

# Sorted keys make equal values equal bytes, and tell `true` from `1`, which Python's == does not.
_canonical = msgspec.json.Encoder(order="deterministic")


def encode(value: Json) -> bytes:
    """The canonical JSON text: keys sorted, no spaces."""
    return _canonical.encode(value)


def equal(left: Json, right: Json) -> bool:
    """Whether both are the same JSON, whatever the order of keys."""
    return _canonical.encode(left) == _canonical.encode(right)


def copy(value: Json) -> Json:
    """A value that shares nothing with this one."""
    kind = type(value)
    if kind is dict:
        return {k: copy(v) if type(v) is dict or type(v) is list else v for k, v in value.items()}
    if kind is list:
        return [copy(v) if type(v) is dict or type(v) is list else v for v in value]
    return value


def without_nulls(value: Json) -> Json:
    """The value without the fields that are null, at any depth: in an object null counts as missing."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def semantic_equal(left: Json, right: Json) -> bool:
    """Equality as Kubernetes compares specs: a missing field, null, an empty map and an empty list are all the same."""
    return equal(left, right) or _mean_the_same(left, right)  # nearly all are equal, and that is told ten times sooner


def _mean_the_same(left: Json, right: Json) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        if any(key not in left and not _is_nothing(value) for key, value in right.items()):
            return False
        return all(_mean_the_same(value, right.get(key)) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_mean_the_same, left, right))
    if _is_nothing(left) or _is_nothing(right):
        return _is_nothing(left) and _is_nothing(right)
    return type(left) is type(right) and bool(left == right)


def _is_nothing(value: Json) -> bool:
    if isinstance(value, dict):
        return all(map(_is_nothing, value.values()))
    return value is None or value == []


# ---- merge patch ----------------------------------------------------------------------------------------------------


def merge(target: Json, patch: Json) -> Json:
    """Apply a JSON merge patch (RFC 7386): objects merge, null removes, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


# ---- JSON patch -----------------------------------------------------------------------------------------------------


def json_patch(target: Json, operations: Sequence[Json]) -> Json:
    """Apply a JSON patch (RFC 6902): all of its operations, or none and `Invalid`, also when a `test` fails."""
    if not isinstance(operations, list | tuple):
        raise Invalid("", "a JSON patch is a list of operations")
    document = copy(target)
    for number, operation in enumerate(operations):
        try:
            document = _operate(document, operation)
        except Invalid as error:
            where = f"[{number}].{error.path}" if error.path else f"[{number}]"
            raise Invalid(f"patch{where}", error.problem) from None
    return document


def _operate(document: Json, operation: Json) -> Json:
    if not isinstance(operation, dict):
        raise Invalid("", "an operation is an object")
    op = operation.get("op")
    path = _pointer(operation, "path")
    if op in ("add", "replace", "test") and "value" not in operation:
        raise Invalid("value", "required")
    match op:
        case "add":
            return _add(document, path, copy(operation["value"]))
        case "remove":
            return _remove(document, path)
        case "replace":
            _find(document, path)
            return _add(_remove(document, path), path, copy(operation["value"])) if path else copy(operation["value"])
        case "move":
            source = _pointer(operation, "from")
            if path[: len(source)] == source and path != source:
                raise Invalid("from", "a value cannot move into itself")
            value = _find(document, source, "from")
            return _add(_remove(document, source), path, value)
        case "copy":
            return _add(document, path, copy(_find(document, _pointer(operation, "from"), "from")))
        case "test":
            if not equal(_find(document, path), operation["value"]):
                raise Invalid("path", f"test failed at {operation['path']!r}")
            return document
    raise Invalid("op", f"expected add, remove, replace, move, copy or test, got {op!r}")


def _pointer(operation: dict[str, Json], field: str) -> list[str]:
    """The parts of a JSON pointer (RFC 6901)."""
    text = operation.get(field)
    if not isinstance(text, str):
        raise Invalid(field, "required")
    if not text:
        return []
    if not text.startswith("/"):
        raise Invalid(field, f"a JSON pointer starts with a slash, got {text!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _index(items: list[Json], part: str, field: str, *, end: bool = False) -> int:
    if end and part == "-":
        return len(items)
    if not (part.isascii() and part.isdigit()) or (len(part) > 1 and part[0] == "0"):
        raise Invalid(field, f"expected a list index, got {part!r}")
    index = int(part)
    if index >= len(items) + end:
        raise Invalid(field, f"index {index} is beyond the end of the list")
    return index


def _find(document: Json, path: Sequence[str], field: str = "path") -> Json:
    for part in path:
        if isinstance(document, dict):
            if part not in document:
                raise Invalid(field, f"there is no {part!r} here")
            document = document[part]
        elif isinstance(document, list):
            document = document[_index(document, part, field)]
        else:
            raise Invalid(field, f"there is no {part!r} here")
    return document


def _add(document: Json, path: Sequence[str], value: Json) -> Json:
    if not path:
        return value
    parent, last = _find(document, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list):
        parent.insert(_index(parent, last, "path", end=True), value)
    else:
        raise Invalid("path", f"there is no place for {last!r} here")
    return document


def _remove(document: Json, path: Sequence[str]) -> Json:
    _find(document, path)
    if not path:
        return None
    parent, last = _find(document, path[:-1]), path[-1]
    del parent[int(last) if isinstance(parent, list) else last]
    return document


# ---- apply ----------------------------------------------------------------------------------------------------------


def three_way(last: Json, current: Json, new: Json) -> Json:
    """What `current` becomes when a manifest that was `last` is now `new`, as `kubectl apply` has it.

    What `last` set and `new` no longer sets is removed; what neither mentions stays. Maps merge. A list whose items
    all bear their own `name` (containers, env, volumes, ports) merges item by item and keeps the order of `current`;
    any other list is replaced.
    """
    if isinstance(new, dict):
        return _merge_maps(_as_dict(last), _as_dict(current), new)
    if isinstance(new, list) and isinstance(current, list):
        names = [by_name(items) for items in (last if isinstance(last, list) else [], current, new)]
        if new and current and all(found is not None for found in names):
            return _merge_named(*(found or {} for found in names))
    return new


def _merge_maps(last: dict[str, Json], current: dict[str, Json], new: dict[str, Json]) -> dict[str, Json]:
    result = {key: value for key, value in current.items() if key in new or key not in last}
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = three_way(last.get(key), current.get(key), value)
    return result


def _merge_named(last: dict[str, Json], current: dict[str, Json], new: dict[str, Json]) -> list[Json]:
    # The items of `new` take the places that their like have in `current`: an unchanged manifest changes nothing.
    ordered = iter([_merge_maps(last.get(name, {}), current.get(name, {}), item) for name, item in new.items()])
    result = [
        next(ordered) if name in new else item for name, item in current.items() if name in new or name not in last
    ]
    return [*result, *ordered]


def _as_dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def by_name(items: list[Json]) -> dict[str, Json] | None:
    """The items by their `name`, in order; None unless each is an object with a name of its own."""
    found: dict[str, Json] = {}
    for item in items:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name in found:
            return None
        found[name] = item
    return found
