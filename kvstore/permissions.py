"""Which keys somebody may read and write: permissions for key intervals, merged."""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable

import msgspec

OPEN_END = b"\x00"


class PermissionType(enum.IntEnum):
    """What a permission allows."""

    READ = 0
    WRITE = 1
    READWRITE = 2


class Permission(msgspec.Struct, frozen=True):
    """Leave to do `type` in [key, range_end), with `Range`'s meaning of range_end."""

    type: int
    key: bytes
    range_end: bytes = b""


def is_valid(permission: Permission) -> bool:
    """Whether its range can hold a key."""
    key, end = permission.key, permission.range_end
    return bool(key) and (not end or end == OPEN_END or key < end)


class KeySet:
    """The union of key intervals. `covers` is O(log n)."""

    __slots__ = ("_ends", "_starts")

    # Sorted, disjoint and not adjacent: interval i is [_starts[i], _ends[i]), None is no upper end.
    _starts: list[bytes]
    _ends: list[bytes | None]

    def __init__(self, intervals: Iterable[tuple[bytes, bytes]]) -> None:
        """Of (key, range_end) pairs, with `Range`'s meaning of range_end."""
        self._starts, self._ends = [], []
        for start, end in sorted((key, _end_of(key, range_end)) for key, range_end in intervals):
            upper = None if end == _LAST else end[1]
            if self._starts and _reaches(self._ends[-1], start):
                if not _reaches(self._ends[-1], upper):
                    self._ends[-1] = upper
            else:
                self._starts.append(start)
                self._ends.append(upper)

    def covers(self, key: bytes, range_end: bytes) -> bool:
        """Whether every key of the range is in the set. For a range that cannot hold a key: whether it lies in it."""
        upper = None if range_end == OPEN_END else range_end or key + b"\x00"
        at = bisect_right(self._starts, key) - 1
        if at < 0:
            return False
        end = self._ends[at]
        return _reaches(end, upper) and (upper is None or self._starts[at] < upper) and (end is None or key < end)


class Grants:
    """What the permissions of somebody's roles add up to."""

    __slots__ = ("read", "write")

    def __init__(self, permissions: Iterable[Permission]) -> None:
        reads: list[tuple[bytes, bytes]] = []
        writes: list[tuple[bytes, bytes]] = []
        for permission in permissions:
            interval = (permission.key, permission.range_end)
            if permission.type in (PermissionType.READ, PermissionType.READWRITE):
                reads.append(interval)
            if permission.type in (PermissionType.WRITE, PermissionType.READWRITE):
                writes.append(interval)
        self.read = KeySet(reads)
        self.write = KeySet(writes)


_LAST = (1, b"")  # sorts behind (0, any end)


def _end_of(key: bytes, range_end: bytes) -> tuple[int, bytes]:
    if range_end == OPEN_END:
        return _LAST
    return (0, range_end or key + b"\x00")  # no key lies between a key and that


def _reaches(end: bytes | None, other: bytes | None) -> bool:
    """Whether the upper end `end` is at or above `other`; None is above all."""
    return end is None or (other is not None and end >= other)
