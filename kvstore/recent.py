"""Recently used records, kept in memory within a bound: a list of objects that are in use touches no disk page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a dictionary and a bytes object take beside the record itself.
ENTRY_OVERHEAD = 150


class RecentRecords:
    """Packed revision -> record, for up to `limit` bytes.

    Two generations: what was used since the last turn is young; when the young fill half of the bound they become the
    old ones, and the old ones that nobody asked for meanwhile are dropped. Every step is O(1).
    """

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}
        self._size = 0

    def add(self, revision: int, record: bytes) -> None:
        """Keep a record. Revisions never change, so there is nothing to invalidate."""
        self._young[revision] = record
        self._size += len(record) + ENTRY_OVERHEAD
        if self._size > self._half:
            self._old, self._young, self._size = self._young, {}, 0

    def get_many(self, revisions: Sequence[int], load: Callable[[list[int]], list[bytes]]) -> list[bytes]:
        """The records in the order asked for; `load` reads those that are not here."""
        young = self._young
        found = [young.get(revision) for revision in revisions]
        if None not in found:
            return found  # type: ignore[return-value]
        old = self._old
        missing = []
        for at, record in enumerate(found):
            if record is None:
                revision = revisions[at]
                if (kept := old.get(revision)) is not None:
                    found[at] = kept
                    self.add(revision, kept)
                else:
                    missing.append(at)
        if missing:
            for at, record in zip(missing, load([revisions[at] for at in missing]), strict=True):
                found[at] = record
                self.add(revisions[at], record)
        return found  # type: ignore[return-value]

    def _check(self) -> None:
        """Verify the bound; for tests."""
        young = sum(len(record) + ENTRY_OVERHEAD for record in self._young.values())
        old = sum(len(record) + ENTRY_OVERHEAD for record in self._old.values())
        assert young <= self._size <= self._half
        assert old <= self._half + max((len(record) + ENTRY_OVERHEAD for record in self._old.values()), default=0)
