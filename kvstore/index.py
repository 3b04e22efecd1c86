"""The index: every key's generations of revisions, in memory and in key order, as etcd's treeIndex.

A generation is one life of a key, from its creation to its tombstone. The index answers which revision of a key was
live at a given main revision, and holds staged revisions too: a read at the durable revision does not see them.
Complexity: a lookup is O(log r) in the revisions of the key; a range O(log n + m).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from sortedcontainers import SortedDict, SortedList

from kvstore.revision import TOMBSTONE, ceiling, is_tombstone, main_of


class Generation:
    """One life of a key. `revisions` is ascending and never empty; only its last may be a tombstone.

    `versions` counts all puts of this life, compacted ones too, so the version of the i-th put that is left can be
    told by counting back from it.
    """

    __slots__ = ("created", "revisions", "versions")

    def __init__(self, created: int, revision: int, versions: int) -> None:
        self.created = created
        self.revisions = [revision]
        self.versions = versions

    @property
    def ended(self) -> bool:
        """Whether the life is over."""
        return is_tombstone(self.revisions[-1])


class Index:
    """Keys to generations. Not thread-safe; the event loop owns it."""

    def __init__(self) -> None:
        self._keys: SortedDict = SortedDict()  # key -> list[Generation], never an empty list
        self._deleted: SortedList = SortedList()  # keys whose newest revision is a tombstone

    def __len__(self) -> int:
        return len(self._keys)

    # ---- writes: always the newest revision so far ----------------------------------------------------------------

    def put(self, key: bytes, revision: int) -> tuple[int, int, int]:
        """Add a put. Gives (create revision, version, the packed revision it replaces or 0)."""
        generations = self._keys.get(key)
        if generations is None:
            self._keys[key] = [Generation(main_of(revision), revision, 1)]
            return main_of(revision), 1, 0
        last = generations[-1]
        previous: int = last.revisions[-1]
        if previous & TOMBSTONE:
            generations.append(Generation(main_of(revision), revision, 1))
            self._deleted.remove(key)
            return main_of(revision), 1, 0
        last.revisions.append(revision)
        last.versions += 1
        return last.created, last.versions, previous

    def delete(self, keys: Sequence[bytes], tombstones: Sequence[int]) -> list[int]:
        """End the lives of live keys, one tombstone each. Gives the packed revisions they end."""
        held = self._keys
        replaced: list[int] = []
        for key, tombstone in zip(keys, tombstones, strict=True):
            revisions = held[key][-1].revisions
            previous = revisions[-1]
            assert not previous & TOMBSTONE, "only a live key can be deleted"
            revisions.append(tombstone)
            replaced.append(previous)
        self._deleted.update(keys)
        return replaced

    def undo(self, key: bytes, revision: int) -> None:
        """Take back the newest revision of a key."""
        generations = self._keys[key]
        last = generations[-1]
        taken = last.revisions.pop()
        assert taken == revision, "undo goes from the newest revision back"
        if taken & TOMBSTONE:
            self._deleted.remove(key)
            return
        last.versions -= 1
        if not last.revisions:
            generations.pop()
            if not generations:
                del self._keys[key]
            else:
                self._deleted.add(key)

    def restore(self, key: bytes, revision: int, created: int, version: int) -> None:
        """Add a revision read from disk; they come in ascending order."""
        generations = self._keys.get(key)
        if revision & TOMBSTONE:
            if generations is None:  # the life it ends was compacted away
                self._keys[key] = [Generation(0, revision, 0)]
            else:
                generations[-1].revisions.append(revision)
            self._deleted.add(key)
        elif generations is None:
            self._keys[key] = [Generation(created, revision, version)]
        elif generations[-1].ended:
            generations.append(Generation(created, revision, version))
            self._deleted.remove(key)
        else:
            generations[-1].revisions.append(revision)
            generations[-1].versions = version

    # ---- reads ----------------------------------------------------------------------------------------------------

    def at(self, key: bytes, main: int) -> int:
        """The packed revision of the key that was live at `main`, or 0."""
        generations = self._keys.get(key)
        return 0 if generations is None else _live(generations, ceiling(main))

    def newest(self, key: bytes) -> tuple[int, int, int]:
        """(mod revision packed, create revision, version) of the newest state, staged too; zeros if not live."""
        generations = self._keys.get(key)
        if generations is None:
            return 0, 0, 0
        last = generations[-1]
        revision = last.revisions[-1]
        return (0, 0, 0) if revision & TOMBSTONE else (revision, last.created, last.versions)

    def live(self, key: bytes, range_end: bytes) -> list[bytes]:
        """The keys of [key, range_end) that are live in the newest state, staged too, in key order."""
        keys = self._keys
        return [each for each in self._span(key, range_end) if not keys[each][-1].revisions[-1] & TOMBSTONE]

    def range(self, key: bytes, range_end: bytes, main: int) -> list[tuple[bytes, int]]:
        """The live (key, packed revision) pairs of [key, range_end) at `main`, in key order."""
        limit = ceiling(main)
        if not range_end:
            generations = self._keys.get(key)
            revision = 0 if generations is None else _live(generations, limit)
            return [(key, revision)] if revision else []
        found = []
        keys = self._keys
        for each in self._span(key, range_end):
            generations = keys[each]
            revision = generations[-1].revisions[-1]
            if revision >= limit:
                revision = _live(generations, limit)
            elif revision & TOMBSTONE:
                continue
            if revision:
                found.append((each, revision))
        return found

    def first(self, key: bytes, range_end: bytes, main: int, limit: int) -> list[tuple[bytes, int]]:
        """As `range`, but no more than `limit` pairs."""
        bound = ceiling(main)
        found: list[tuple[bytes, int]] = []
        keys = self._keys
        for each in self._span(key, range_end):
            revision = _live(keys[each], bound)
            if revision:
                found.append((each, revision))
                if len(found) == limit:
                    break
        return found

    def count_newest(self, key: bytes, range_end: bytes) -> int:
        """How many keys of the range are live in the newest state. O(log n)."""
        return _width(self._keys, key, range_end) - _width(self._deleted, key, range_end)

    def previous(self, key: bytes, revision: int) -> int:
        """The packed revision that `revision` of the key replaced, or 0 if it created the key or history is gone."""
        for generation in self._keys.get(key, ()):
            revisions = generation.revisions
            if revisions[0] <= revision <= revisions[-1]:
                at = bisect_left(revisions, revision)
                return revisions[at - 1] if at else 0
        return 0

    def holds(self, key: bytes, revision: int) -> bool:
        """Whether the index still refers to this revision (after a compaction, what is not held can go)."""
        for generation in self._keys.get(key, ()):
            revisions = generation.revisions
            if revisions[0] <= revision <= revisions[-1]:
                return bool(revisions[bisect_left(revisions, revision)] == revision)
        return False

    # ---- compaction -----------------------------------------------------------------------------------------------

    def keys(self) -> list[bytes]:
        """All keys, live or with history."""
        return list(self._keys)

    def compact(self, keys: Iterable[bytes], main: int) -> None:
        """Forget what a compaction at `main` removes for these keys.

        Per key the newest revision at or below `main` stays, unless it is a tombstone below it; a tombstone exactly at
        `main` stays, so that a watch from `main` still sees the deletion (as etcd since 3.5.16).
        """
        limit = ceiling(main)
        for key in keys:
            generations = self._keys.get(key)
            if generations is None or generations[0].revisions[0] >= limit:
                continue
            while generations:
                first = generations[0]
                cut = bisect_left(first.revisions, limit)
                if cut == len(first.revisions) and first.ended and main_of(first.revisions[-1]) < main:
                    generations.pop(0)
                    continue
                if cut == len(first.revisions) and len(generations) > 1 and generations[1].revisions[0] < limit:
                    generations.pop(0)
                    continue
                if cut > 1:
                    del first.revisions[: cut - 1]
                break
            if not generations:
                del self._keys[key]
                self._deleted.remove(key)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _span(self, key: bytes, range_end: bytes) -> Iterator[bytes]:
        if not range_end:
            return iter([key] if key in self._keys else [])
        if range_end == b"\x00":
            return self._keys.irange(key)  # type: ignore[no-any-return]
        if range_end <= key:
            return iter(())
        return self._keys.irange(key, range_end, inclusive=(True, False))  # type: ignore[no-any-return]

    def _check(self) -> None:
        """Verify every invariant; for tests."""
        self._keys._check()
        deleted = []
        for key, generations in self._keys.items():
            assert generations
            flat = [revision for generation in generations for revision in generation.revisions]
            assert flat == sorted(set(flat))
            for generation in generations:
                assert generation.revisions
                assert not any(revision & TOMBSTONE for revision in generation.revisions[:-1])
                assert generation.versions >= len(generation.revisions) - generation.ended
            assert all(generation.ended for generation in generations[:-1])
            if generations[-1].ended:
                deleted.append(key)
        assert deleted == list(self._deleted)


def _live(generations: list[Generation], limit: int) -> int:
    """The newest revision below `limit`, or 0 if there is none or it is a tombstone."""
    for generation in reversed(generations):
        revisions = generation.revisions
        if revisions[0] < limit:
            revision = revisions[-1]
            if revision >= limit:
                revision = revisions[bisect_left(revisions, limit) - 1]
            return 0 if revision & TOMBSTONE else revision
    return 0


def _width(ordered: SortedList | SortedDict, key: bytes, range_end: bytes) -> int:
    """How many members of an ordered collection without doubles lie in [key, range_end)."""
    low = ordered.bisect_left(key)
    if not range_end:
        return int(key in ordered)
    high = len(ordered) if range_end == b"\x00" else ordered.bisect_left(range_end)
    return int(max(0, high - low))
