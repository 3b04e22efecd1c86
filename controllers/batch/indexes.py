"""Sets of completion indexes as Kubernetes writes them: `1,3-5,7`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def format_indexes(indexes: Iterable[int]) -> str:
    """In order, three neighbours or more joined: `{7, 3, 4, 5, 1}` is `1,3-5,7`, and `{1, 2}` is `1,2`."""
    parts: list[str] = []
    for first, last in _runs(sorted(set(indexes))):
        parts += [f"{first}-{last}"] if last > first + 1 else map(str, range(first, last + 1))
    return ",".join(parts)


def parse_indexes(text: str, completions: int) -> set[int]:
    """The indexes below `completions`. Raises ValueError for a text that is not of this form, or not in order.

    O(completions), however large the numbers of the text are.
    """
    found: set[int] = set()
    before = -1
    for part in text.split(",") if text else ():
        first, last = _interval(part)
        if not before < first <= last:
            raise ValueError(f'"{part}" is not in order')
        before = last
        found.update(range(first, min(last + 1, completions)))
    return found


def last_index(text: str) -> int:
    """The greatest index of a text that `parse_indexes` takes, -1 if there is none. Raises ValueError."""
    return _interval(text.rpartition(",")[2])[1] if text else -1


def _interval(part: str) -> tuple[int, int]:
    first, dash, last = part.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise ValueError(f'expected indexes such as "1,3-5", got "{part}"')
    return int(first), int(last) if dash else int(first)


def _runs(ordered: list[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for place in range(1, len(ordered) + 1):
        if place == len(ordered) or ordered[place] != ordered[place - 1] + 1:
            yield ordered[start], ordered[place - 1]
            start = place
