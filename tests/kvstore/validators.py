"""What etcd promises of a watch, as checks over what one watcher was given. (etcd's API guarantees page.)"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kvstore.api import KeyValue
from kvstore.txn import in_range


class Change(NamedTuple):
    """One change of the history: `value` is None for a deletion, `prev` what it replaced."""

    revision: int
    key: bytes
    value: bytes | None
    prev: KeyValue | None


class Given(NamedTuple):
    """One response that a watcher was given: its header revision and events; no events means progress."""

    revision: int
    events: list[Change]


class Watched(NamedTuple):
    """What was asked for, and what came."""

    key: bytes
    range_end: bytes
    start: int
    puts: bool
    deletes: bool
    prev_kv: bool
    responses: list[Given]

    def wants(self, change: Change) -> bool:
        """Whether the watcher asked for this change."""
        kind = self.deletes if change.value is None else self.puts
        return kind and change.revision >= self.start and in_range(change.key, self.key, self.range_end)


def validate(watched: Watched, history: Sequence[Change], caught_up_to: int, compactions: Collection[int] = ()) -> None:
    """Ordered, unique, atomic, reliable, bookmarkable, filtered, and with the right prev_kv.

    `caught_up_to` is a revision that the watcher must have been brought to. `compactions` are the revisions compacted
    at: what a change at just such a revision replaced may be gone when a watcher that is behind gets there, as in etcd.
    """
    seen: list[Change] = []
    told = 0  # the revision of the last progress
    for response in watched.responses:
        if not response.events:
            last = seen[-1].revision if seen else 0
            assert response.revision >= max(told, last), "bookmarkable: progress never goes back"
            told = response.revision
            continue
        first = response.events[0].revision
        assert first > told, "bookmarkable: nothing at or below a progress revision comes after it"
        assert not seen or first > seen[-1].revision, "atomic: a revision is never split between responses"
        assert response.revision >= response.events[-1].revision, "a header is never older than its events"
        seen += response.events
    revisions = [change.revision for change in seen]
    assert revisions == sorted(revisions), "ordered"
    assert len({(change.revision, change.key) for change in seen}) == len(seen), "unique"
    reached = max(caught_up_to, told, revisions[-1] if revisions else 0)
    expected = [change for change in history if change.revision <= reached and watched.wants(change)]
    got = [change._replace(prev=None) for change in seen]
    assert got == [change._replace(prev=None) for change in expected], "reliable: no gap, nothing made up"
    if watched.prev_kv:
        for change, full in zip(seen, expected, strict=True):
            gone = change.prev is None and change.revision in compactions
            assert gone or change.prev == full.prev, "prev_kv"
    else:
        assert all(change.prev is None for change in seen), "no prev_kv unless asked for"
