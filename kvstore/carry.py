"""Carrying what is in one store to another, over the API: either may be an etcd that runs."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from kvstore.api import Client, KeyValue, Op, Put, Range
from kvstore.errors import LeaseExists
from kvstore.snapshot import SnapshotError

PAGE_KEYS = 1000
# Well inside the limits that every etcd has by default: 128 operations, 1.5 MiB.
TXN_OPS, TXN_BYTES = 100, 512 << 10


class Carried(NamedTuple):
    """What was carried, and the two stores' revisions: of what was read, and after the last write."""

    keys: int
    leases: int
    source_revision: int
    target_revision: int


async def carry(source: Client, target: Client, *, merge: bool = False) -> Carried:
    """Write every key of one store, as it is now, and every lease into another; either may be an etcd.

    History is not carried, and the keys get revisions of the target's. Leases keep their ids and start with their full
    TTL. The target must be empty unless `merge`, which overwrites what both have. What was written stays if it fails
    half-way. Raises SnapshotError, or what the clients raise: Compacted if the source is compacted meanwhile.
    """
    if not merge and (await target.range(Range(b"\0", b"\0", count_only=True))).count:
        raise SnapshotError("the store to write to is not empty")
    page = await source.range(Range(b"\0", b"\0", limit=PAGE_KEYS))
    revision = page.header.revision
    # Only now: every lease that a key of this revision has is among them, unless it has ended.
    leases = await _carry_leases(source, target)
    writer = _Writer(target)
    keys = 0
    while True:
        for kv in page.kvs:
            if kv.lease and kv.lease not in leases:
                continue  # its lease has just ended: the key is about to go
            await writer.put(kv)
            keys += 1
        if not page.more:
            break
        start = page.kvs[-1].key + b"\0"
        page = await source.range(Range(start, b"\0", limit=PAGE_KEYS, revision=revision))
    return Carried(keys, len(leases), revision, await writer.finish())


async def _carry_leases(source: Client, target: Client) -> set[int]:
    carried = set()
    for lease in (await source.leases()).leases:
        granted = (await source.lease_time_to_live(lease)).granted_ttl
        if granted:  # else it has ended meanwhile
            with contextlib.suppress(LeaseExists):
                await target.lease_grant(granted, lease)
            carried.add(lease)
    return carried


class _Writer:
    """Gathers puts into transactions."""

    def __init__(self, target: Client) -> None:
        self._target = target
        self._puts: list[Op] = []
        self._size = 0

    async def put(self, kv: KeyValue) -> None:
        size = len(kv.key) + len(kv.value)
        if self._puts and (len(self._puts) >= TXN_OPS or self._size + size > TXN_BYTES):
            await self.finish()
        self._puts.append(Put(kv.key, kv.value, lease=kv.lease))
        self._size += size

    async def finish(self) -> int:
        """Write what is left; the target's revision."""
        puts, self._puts, self._size = self._puts, [], 0
        return (await self._target.txn(success=puts)).header.revision
