"""A page of `Key:  value` lines, indented, aligned in blocks: what `describe` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from controllers.cli.raw import NONE
from controllers.cli.table import table

_WORD = re.compile(r"(?<![A-Z])[A-Z]")
_Line = tuple[int, str | None, str]  # indentation, key (None: the text stands alone), value


class Page:
    """Collects lines. Values of consecutive lines of one indentation stand under each other."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._indent = 0

    def field(self, key: str, value: Any) -> None:
        """One line; None and "" show as `<none>`."""
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
        self._lines.append((self._indent, f"{key}:", NONE if value is None or value == "" else text))

    def many(self, key: str, values: Iterable[str]) -> None:
        """One line a value, the key on the first."""
        shown = [*values] or [NONE]
        self.field(key, shown[0])
        self._lines += [(self._indent, "", value) for value in shown[1:]]

    def text(self, text: str) -> None:
        """A line as it is."""
        self._lines.append((self._indent, None, text))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table with ruled headers."""
        ruled = [["-" * len(name) for name in columns], *rows]
        for line in table(columns, ruled):
            self.text(line)

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """Lines below a title, indented."""
        self.text(f"{title}:")
        with self.indented():
            yield

    @contextmanager
    def indented(self, by: int = 2) -> Iterator[None]:
        """Lines further to the right."""
        self._indent += by
        try:
            yield
        finally:
            self._indent -= by

    def tree(self, value: Any) -> None:
        """Any JSON, keys as words: `creationTimestamp` is `Creation Timestamp`."""
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if isinstance(inner, Mapping | list) and inner:
                    with self.section(words(key)):
                        self.tree(inner)
                elif isinstance(inner, str) and "\n" in inner:
                    with self.section(words(key)):
                        for line in inner.splitlines():
                            self.text(line)
                else:
                    self.field(words(key), None if isinstance(inner, Mapping | list) else inner)
            return
        for inner in value:
            if isinstance(inner, Mapping | list):
                self.tree(inner)
            else:
                self.text(str(inner))

    def __str__(self) -> str:
        """The whole page."""
        shown: list[str] = []
        for start, end in self._blocks():
            block = self._lines[start:end]
            width = max((len(key) for _, key, _ in block if key is not None), default=0) + 2
            for indent, key, value in block:
                line = value if key is None else key.ljust(width) + value
                shown.append((" " * indent + line).rstrip())
        return "\n".join(shown) + "\n"

    def _blocks(self) -> Iterable[tuple[int, int]]:
        start = 0
        for place in range(1, len(self._lines) + 1):
            if place == len(self._lines) or not self._same_block(place - 1, place):
                yield start, place
                start = place

    def _same_block(self, one: int, other: int) -> bool:
        (indent, key, _), (next_indent, next_key, _) = self._lines[one], self._lines[other]
        return indent == next_indent and (key is None) == (next_key is None)


def words(key: str) -> str:
    """`creationTimestamp` as `Creation Timestamp`; a key that is no plain name stays."""
    if not key.isalnum():
        return key
    spaced = _WORD.sub(r" \g<0>", key).strip()
    return spaced[:1].upper() + spaced[1:]
