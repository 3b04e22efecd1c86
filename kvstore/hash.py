"""HashKV: the checksum by which etcd's members compare what they hold, byte for byte as etcd computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c

from kvstore.index import Index
from kvstore.record import etcd_tombstone, key_of
from kvstore.revision import is_tombstone, main_of, to_key

BUCKET = b"key"  # etcd hashes the name of its bucket first
MOST_REMEMBERED = 10  # hashes of compactions, as in etcd


class Hash(NamedTuple):
    """CRC-32C of the history up to `hash_revision`, seen by a store that was compacted at `compact_revision`."""

    hash: int
    hash_revision: int
    compact_revision: int


class Hasher:
    """The hash at a revision, computed from the history as it is read.

    Of what lies at or below the compacted revision only that counts which a compaction at `at` would keep, and a
    deletion exactly there does not: so the hash is the same whether or not the space is freed already. But if such a
    compaction would keep nothing at all, everything counts, as in etcd.
    """

    def __init__(self, index: Index, at: int, compacted: int) -> None:
        self._index = index
        self._at = at
        self._compacted = compacted
        self._kept = self._all = int(google_crc32c.value(BUCKET))
        self._keeps_some = False

    def add(self, found: Sequence[tuple[int, bytes]]) -> None:
        """The next revisions with their records, in order."""
        at, compacted, current = self._at, self._compacted, self._index.at
        everything: list[bytes] = []
        kept: list[bytes] = []
        for revision, record in found:
            main = main_of(revision)
            if main > at:
                break
            tombstone = is_tombstone(revision)
            pair = to_key(revision) + (etcd_tombstone(record) if tombstone else record)
            everything.append(pair)
            if not self._keeps_some or main <= compacted:
                keep = not tombstone and current(key_of(record), at) == revision
                self._keeps_some |= keep
                if main <= compacted and not keep:
                    continue
            kept.append(pair)
        same = self._kept == self._all and len(kept) == len(everything)
        self._all = int(google_crc32c.extend(self._all, b"".join(everything)))
        self._kept = self._all if same else int(google_crc32c.extend(self._kept, b"".join(kept)))

    def result(self) -> Hash:
        """The hash of all that was added."""
        return Hash(self._kept if self._keeps_some else self._all, self._at, self._compacted)


class CompactionHashes:
    """The hashes that compactions have left: of the history since the one before, which nobody can compute any more."""

    def __init__(self) -> None:
        self._hashes: dict[int, Hash] = {}

    def add(self, hashed: Hash) -> None:
        """Remember it; the oldest makes room."""
        self._hashes[hashed.hash_revision] = hashed
        if len(self._hashes) > MOST_REMEMBERED:
            del self._hashes[min(self._hashes)]

    def get(self, revision: int) -> Hash | None:
        """The hash of the compaction at that revision, if it is remembered."""
        return self._hashes.get(revision)
