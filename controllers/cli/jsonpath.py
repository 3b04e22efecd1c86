"""The part of kubectl's JSONPath that names a value: `{.status.phase}`, `{.items[0].name}`, `{.a['b.c']}`, `[*]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_STEP = re.compile(
    r"""\.?\[\s*(?:(?P<index>-?[0-9]+)|(?P<all>\*)|'(?P<single>[^']*)'|"(?P<double>[^"]*)")\s*\]"""
    r"""|\.(?P<field>(?:\\.|[^.\[\]\\{}])+)"""
)
_ALL = object()


class JsonPath:
    """A parsed path. Raises ValueError for one that is malformed."""

    def __init__(self, text: str) -> None:
        inner = text.strip()
        if inner.startswith("{") and inner.endswith("}"):
            inner = inner[1:-1].strip()
        inner = inner.removeprefix("$")
        if inner and inner[0] not in ".[":
            inner = "." + inner
        self._steps: list[Any] = []
        position = 0
        while position < len(inner):
            found = _STEP.match(inner, position)
            if found is None:
                raise ValueError(f"the path {text!r} makes no sense at {inner[position:]!r}: write {{.status.phase}}")
            self._steps.append(_step(found))
            position = found.end()
        if not self._steps:
            raise ValueError("an empty path: write {.status.phase}")

    def find(self, value: Any) -> list[Any]:
        """The values at the path; none where something on the way is missing."""
        found = [value]
        for step in self._steps:
            found = [each for one in found for each in _take(one, step)]
        return found


def _step(found: re.Match[str]) -> Any:
    if found["index"] is not None:
        return int(found["index"])
    if found["all"] is not None:
        return _ALL
    for group in ("single", "double"):
        if found[group] is not None:
            return found[group]
    field = re.sub(r"\\(.)", r"\1", found["field"])
    return _ALL if field == "*" else field


def _take(value: Any, step: Any) -> list[Any]:
    if step is _ALL:
        return [*value.values()] if isinstance(value, Mapping) else [*value] if isinstance(value, list) else []
    if isinstance(step, int):
        fits = isinstance(value, list) and -len(value) <= step < len(value)
        return [value[step]] if fits else []
    return [value[step]] if isinstance(value, Mapping) and step in value else []
