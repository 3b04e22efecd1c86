"""What an operator asks of a member: alarms, defragmentation, hashes, snapshots."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import IO

import structlog

from kvstore import schema
from kvstore.alarms import TABLE, Alarms
from kvstore.backend import Backend
from kvstore.errors import Code, Compacted, FutureRevision, TooManyRequests
from kvstore.hash import Hash, Hasher
from kvstore.revision import main_of
from kvstore.store import Store

# NOSPACE may end by itself when less than this of the quota is used, so that it is not raised again at once.
ROOM = 0.9
# Each has a copy of the data on the disk for as long as its reader takes.
MAX_SNAPSHOTS = 4
HASHED_SLICE_BYTES = 128 << 10  # read and hashed in one go on the event loop: a few milliseconds
MEMBERS, PEER_URLS = "members", b"peer_urls"

log = structlog.get_logger("kvstore")


class Maintenance:
    """The upkeep of one member. `stop()` it before its backend is closed.

    `auto_disarm` lets NOSPACE end by itself once there is room again.
    """

    def __init__(
        self,
        store: Store,
        backend: Backend,
        *,
        member_id: int,
        name: str,
        quota_bytes: int,
        auto_disarm: bool = False,
    ) -> None:
        self._store = store
        self._backend = backend
        self._quota = quota_bytes
        self._member_id = member_id
        self._name = name
        self._snapshots = 0
        self._defragmenting: asyncio.Task[None] | None = None
        self.alarms = Alarms(store, member_id, self._has_room if auto_disarm else None)
        self.alarms.restore(backend.rows(TABLE))
        saved = backend.rows(MEMBERS).get(PEER_URLS)
        self.peer_urls: list[str] = json.loads(saved) if saved else []

    def _has_room(self) -> bool:
        return self._backend.size[1] < ROOM * self._quota and not self._backend.disk_is_full()

    async def set_peer_urls(self, urls: Sequence[str]) -> None:
        """Remember what the member list shows as peer URLs; nothing listens there."""
        saved = json.dumps(list(urls)).encode()
        await self._store.write(lambda txn: txn.row(MEMBERS, PEER_URLS, saved))
        self.peer_urls = list(urls)

    async def defragment(self) -> None:
        """Give the room that is free inside the database back to the disk; reads and writes go on meanwhile.

        Whoever asks while it runs waits for the one that runs. Cancelling leaves it running to its end. Needs as much
        room on the disk as the database uses. Raises NoSpace, Unavailable or Stopped; then nothing has changed.
        """
        if self._defragmenting is None or self._defragmenting.done():
            self._defragmenting = asyncio.create_task(self._backend.defragment(), name="kvstore defragment")
            self._defragmenting.add_done_callback(self._defragmented)
        await asyncio.shield(self._defragmenting)

    def _defragmented(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("defragmentation_failed", error=str(error))
        else:
            log.info("defragmented", size=self._backend.size[0])

    async def hash_kv(self, revision: int = 0) -> Hash:
        """The hash at a revision (0 = now, less = of nothing, as in etcd), computed in steps with turns for others.

        At a compacted revision it is the one that the compaction left, if that was one of the last and in this life of
        the member, as in etcd since 3.5.5. A compaction meanwhile starts it again. Raises Compacted or FutureRevision.
        """
        store = self._store
        if (left := store.compaction_hashes.get(revision)) is not None:
            return left
        at = revision or store.revision
        while True:
            compacted = store.compacted
            if 0 < at < compacted:
                raise Compacted(compacted)
            if at > store.revision:
                raise FutureRevision()
            hasher = Hasher(store.index, at, compacted)
            main, ended = 0, False
            while not ended and main <= at and store.compacted == compacted:
                found, ended = self._backend.scan(main, HASHED_SLICE_BYTES)
                hasher.add(found)
                if found:
                    main = main_of(found[-1][0]) + 1
                await asyncio.sleep(0)
            if store.compacted == compacted:
                return hasher.result()

    async def hash(self) -> int:
        """The hash of everything in the database. Raises Unavailable."""
        return await self._backend.hash()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[IO[bytes]]:
        """The store at one revision as the database that etcd would have, in a file that is there until this is left.

        At most MAX_SNAPSHOTS at a time. Raises TooManyRequests, NoSpace or Unavailable.
        """
        if self._snapshots >= MAX_SNAPSHOTS:
            raise TooManyRequests(code=Code.RESOURCE_EXHAUSTED)
        self._snapshots += 1
        try:
            member = schema.Member(self._member_id, self._name, self.peer_urls)
            with await self._backend.copy(lambda file, table: schema.write(file, table, member)) as file:
                yield file
        finally:
            self._snapshots -= 1

    async def stop(self) -> None:
        """Start nothing long any more, and wait for the defragmentation that runs."""
        self._backend.stop()
        if self._defragmenting is not None:
            await asyncio.wait([self._defragmenting])
