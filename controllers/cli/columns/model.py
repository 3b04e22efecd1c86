"""A kind's columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from controllers.cli.raw import Raw

TEMPLATE = ("CONTAINERS", "IMAGES", "SELECTOR")  # what `-o wide` adds for kinds that have a pod template


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a kind in the order of `-o wide`; those of `wide` are left out without it.

    cells: makes a cell for each column, the wide ones included, of an object and the time.
    """

    names: Sequence[str]
    cells: Callable[[Raw, datetime], Sequence[str]]
    wide: Sequence[str] = ()

    def header(self, *, wide: bool) -> list[str]:
        """The column names."""
        return [name for name in self.names if wide or name not in self.wide]

    def row(self, raw: Raw, now: datetime, *, wide: bool) -> list[str]:
        """The object's cells."""
        cells = zip(self.names, self.cells(raw, now), strict=True)
        return [cell for name, cell in cells if wide or name not in self.wide]
