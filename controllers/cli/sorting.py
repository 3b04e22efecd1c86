"""`--sort-by`: objects by the value at a path."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar

from controllers.cli.errors import CliError
from controllers.cli.jsonpath import JsonPath, shown
from informer.errors import Invalid
from informer.resources import Resource

R = TypeVar("R", bound=Resource)


def sorted_by(found: Sequence[R], path: str) -> list[R]:
    """The objects, those without such a value first; numbers and quantities by size, all else as text.

    Raises `CliError` if no object has one, ValueError for a path that is malformed.
    """
    wanted = JsonPath(path)
    values = [(wanted.find(obj.raw), obj) for obj in found]
    if found and not any(value for value, _ in values):
        raise CliError(f'couldn\'t find any field with path "{path}" in the list of objects')
    sized = all(_size(value[0]) is not None for value, _ in values if value)
    return [obj for _, obj in sorted(values, key=lambda each: _key(each[0], sized=sized))]


def _key(value: list[Any], *, sized: bool) -> tuple[Any, ...]:
    if not value:
        return (0,)
    return (1, _size(value[0])) if sized else (1, shown(value[0]))


def _size(value: Any) -> Decimal | None:
    from controllers.core.quantities import scaled

    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return Decimal(scaled(value, 1000))
    except Invalid:
        return None
