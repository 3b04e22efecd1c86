"""HashKV: the checksum by which etcd's members compare what they hold, byte for byte as etcd computes it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import google_crc32c

from kvstore.backend import Backend
from kvstore.errors import Compacted, FutureRevision
from kvstore.record import etcd_tombstone, key_of
from kvstore.revision import is_tombstone, main_of, to_key
from kvstore.store import Store

SLICE_BYTES = 128 << 10  # read and hashed in one go on the event loop: a few milliseconds
BUCKET = b"key"  # etcd hashes the name of its bucket first


class Hash(NamedTuple):
    """CRC-32C of the history up to `hash_revision`, seen by a store that was compacted at `compact_revision`."""

    hash: int
    hash_revision: int
    compact_revision: int


async def hash_kv(store: Store, backend: Backend, revision: int) -> Hash:
    """The hash at a revision (0 = now, less = of nothing, as in etcd), in steps between which others get their turn.

    Of what lies at or below the compacted revision only that counts which a compaction at `revision` would keep, and a
    deletion exactly there does not: so the hash is the same whether or not the space is freed already. A compaction
    meanwhile starts it again. Raises Compacted or FutureRevision.
    """
    at = revision or store.revision
    while True:
        compacted = store.compacted
        if 0 < at < compacted:
            raise Compacted(compacted)
        if at > store.revision:
            raise FutureRevision()
        crc = await _hash(store, backend, at, compacted)
        if crc is not None:
            return Hash(crc, at, compacted)


async def _hash(store: Store, backend: Backend, at: int, compacted: int) -> int | None:
    crc = int(google_crc32c.value(BUCKET))
    main = 0
    while True:
        found, ended = backend.scan(main, SLICE_BYTES)
        parts: list[bytes] = []
        for revision, record in found:
            main = main_of(revision)
            if main > at:
                ended = True
                break
            if main <= compacted and store.index.at(key_of(record), at) != revision:
                continue
            parts.append(to_key(revision))
            parts.append(etcd_tombstone(record) if is_tombstone(revision) else record)
        crc = int(google_crc32c.extend(crc, b"".join(parts)))
        if ended:
            return crc
        main += 1
        await asyncio.sleep(0)
        if store.compacted != compacted:
            return None
