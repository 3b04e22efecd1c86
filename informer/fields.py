"""Paths to fields of a JSON object, as error messages write them: `spec.nodeName`, `metadata.annotations[a.b/c]`.

A path goes through lists: `spec.containers.image` is the image of each container.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

_PATH = re.compile(r"(?:(?:^|\.)[^.\[\]]+|\[[^\[\]]+\])+")
_PART = re.compile(r"\[([^\[\]]+)\]|([^.\[\]]+)")


def parse(path: str) -> tuple[str, ...]:
    """The names along the path. Raises ValueError if it is none."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"not a path to a field: {path!r}")
    return tuple(bracketed or plain for bracketed, plain in _PART.findall(path))


def values(obj: Any, parts: Sequence[str]) -> Iterator[Any]:
    """What the object has there; nothing where it has none. O(values)."""
    if isinstance(obj, list):
        for each in obj:
            yield from values(each, parts)
    elif not parts:
        yield obj
    elif isinstance(obj, dict) and parts[0] in obj:
        yield from values(obj[parts[0]], parts[1:])


def drop(obj: Any, parts: Sequence[str]) -> None:
    """Take the field away wherever it is, in place."""
    if isinstance(obj, list):
        for each in obj:
            drop(each, parts)
    elif isinstance(obj, dict):
        if len(parts) == 1:
            obj.pop(parts[0], None)
        elif parts[0] in obj:
            drop(obj[parts[0]], parts[1:])
