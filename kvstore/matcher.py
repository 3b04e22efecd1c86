"""Which watchers does a key concern? A dict for watchers of one key, an interval tree for watchers of ranges."""

from __future__ import annotations

from collections.abc import Iterator
from functools import total_ordering
from typing import Generic, TypeVar

from intervaltree import Interval, IntervalTree

W = TypeVar("W")


@total_ordering
class _Unbounded:
    """The end of a range without an upper end: above every key."""

    def __lt__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


UNBOUNDED = _Unbounded()


class Group(set[W], Generic[W]):
    """The watchers of one range, or of one key; equal ranges share it."""

    def __hash__(self) -> int:  # type: ignore[override]  # a group is itself, whoever is in it
        return id(self)


class Matcher(Generic[W]):
    """Watchers by what they watch. `match` is O(log n + m) in the number of distinct ranges."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Group[W]] = {}
        self._ranges: dict[tuple[bytes, bytes], Group[W]] = {}
        self._tree = IntervalTree()

    def __len__(self) -> int:
        return sum(map(len, self._keys.values())) + sum(map(len, self._ranges.values()))

    def add(self, watcher: W, key: bytes, range_end: bytes) -> None:
        """Watch [key, range_end), with Range's meaning of `range_end`."""
        if not range_end:
            self._keys.setdefault(key, Group()).add(watcher)
            return
        group = self._ranges.get((key, range_end))
        if group is None:
            group = self._ranges[key, range_end] = Group()
            self._tree.add(_interval(key, range_end, group))
        group.add(watcher)

    def remove(self, watcher: W, key: bytes, range_end: bytes) -> None:
        """Undo `add` with the same arguments. Raises KeyError if it was not there."""
        if not range_end:
            group = self._keys[key]
            group.remove(watcher)
            if not group:
                del self._keys[key]
            return
        group = self._ranges[key, range_end]
        group.remove(watcher)
        if not group:
            del self._ranges[key, range_end]
            self._tree.remove(_interval(key, range_end, group))

    def groups(self) -> Iterator[tuple[bytes, bytes, Group[W]]]:
        """Every group with its key and range_end."""
        for key, group in self._keys.items():
            yield key, b"", group
        for (key, range_end), group in self._ranges.items():
            yield key, range_end, group

    @property
    def distinct(self) -> int:
        """How many groups there are."""
        return len(self._keys) + len(self._ranges)

    def match(self, key: bytes) -> Iterator[Group[W]]:
        """The groups of watchers that a change of `key` concerns."""
        exact = self._keys.get(key)
        if exact is not None:
            yield exact
        if self._ranges:
            for interval in self._tree.at(key):
                yield interval.data

    def _check(self) -> None:
        """Verify every invariant; for tests."""
        self._tree.verify()
        assert all(self._keys.values())
        assert all(self._ranges.values())
        assert {(i.begin, i.end, id(i.data)) for i in self._tree} == {
            (*_interval(key, end, group)[:2], id(group)) for (key, end), group in self._ranges.items()
        }


def _interval(key: bytes, range_end: bytes, group: Group[W]) -> Interval:
    return Interval(key, UNBOUNDED if range_end == b"\x00" else range_end, group)
