"""Tables as kubectl prints them: columns three spaces apart."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "   "


class Table:
    """Turns rows into lines. Widths are remembered, so that rows that come later stand under the earlier ones."""

    def __init__(self, columns: Sequence[str], *, headers: bool = True) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._headers = headers

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """The rows as lines, the first time with the headers above them."""
        if self._headers:
            rows = [self._columns, *rows]
            self._headers = False
        shown = [[cell.replace("\n", " ") for cell in row] for row in rows]
        self._widths = [max(old, *(len(row[i]) for row in shown)) for i, old in enumerate(self._widths)] if rows else []
        return [_GAP.join(map(str.ljust, row, self._widths)).rstrip() for row in shown]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """All lines of one table."""
    return Table(columns).lines(rows)
