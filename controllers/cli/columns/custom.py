"""The columns that a CustomResourceDefinition gives its kind: `additionalPrinterColumns`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.durations import age
from controllers.cli.jsonpath import JsonPath, shown
from controllers.cli.raw import Raw, name_of, number, text


def custom_columns(specs: Sequence[Raw]) -> Columns | None:
    """NAME and the columns of a version; those with a priority are for `-o wide`. None if it gives none that work."""
    found: list[tuple[str, JsonPath, bool, bool]] = []
    for spec in specs:
        try:
            path = JsonPath(text(spec, "jsonPath"))
        except ValueError:
            continue
        title = text(spec, "name").upper()
        if title not in ("", "NAME") and all(title != each[0] for each in found):
            found.append((title, path, spec.get("type") == "date", number(spec, "priority") > 0))
    if not found:
        return None

    def cells(raw: Raw, now: datetime) -> Sequence[str]:
        return [name_of(raw), *(_cell(path.find(raw), now, is_date=is_date) for _, path, is_date, _ in found)]

    return Columns(("NAME", *(each[0] for each in found)), cells, wide=[each[0] for each in found if each[3]])


def _cell(values: list[object], now: datetime, *, is_date: bool) -> str:
    if not values or values[0] is None:
        return ""
    return age(values[0], now) if is_date else shown(values[0])
