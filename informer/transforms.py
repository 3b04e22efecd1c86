"""Transforms: what a cache makes of an object before it keeps it, to save memory.

A transformed object is not the stored one, and must not be written back whole: what was dropped would be lost. So it
says of itself which of its top-level fields were changed, and `ObjectClient` refuses to write these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from informer import fields, patch

Transform: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Gets an object's JSON, to edit and give back. It must depend on the object alone, and doing it twice must change
nothing more: the cache applies it once to each state of an object, a test or a reader may do so again."""

TRANSFORMED: Final = "x-transformed"
"""The top-level field in which a transformed object lists the top-level fields that were changed."""

_decode: Final = msgspec.json.Decoder().decode


def drop_fields(*paths: str) -> Transform:
    """A transform that drops fields: `drop_fields("metadata.managedFields", "spec.containers.env")`.

    Raises ValueError for a path that is none.
    """
    parsed = [fields.parse(path) for path in paths]

    def drop(raw: dict[str, Any]) -> dict[str, Any]:
        for parts in parsed:
            fields.drop(raw, parts)
        return raw

    drop.__qualname__ = f"drop_fields({', '.join(paths)})"
    return drop


drop_managed_fields: Final = drop_fields("metadata.managedFields")
"""Drops what an API server notes about who set which field: often half of an object, and of no use to a controller."""


def transform(data: bytes, function: Transform) -> bytes:
    """The object as the function leaves it, with the note of what was changed; the same bytes if nothing was.

    Raises whatever the function raises, and TypeError or ValueError for a result that is no object or another one.
    """
    before = _decode(data)
    after = function(_decode(data))
    if not isinstance(after, dict):
        raise TypeError(f"a transform gives the object back, not {after!r}")
    changed = sorted(field for field in before.keys() | after.keys() if before.get(field) != after.get(field))
    if not changed:
        return data
    if _uid(before) != _uid(after):
        raise ValueError("a transform keeps metadata.uid: by it an object is told from another of its name")
    after[TRANSFORMED] = changed
    return patch.encode(after)


def _uid(raw: dict[str, Any]) -> object:
    metadata = raw.get("metadata")
    return metadata.get("uid") if isinstance(metadata, dict) else None
