"""One member: a store, its watch hub and its lessor, with their tasks, opened and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import structlog

from kvstore.api import DeleteRange, Header, Put, Range, Txn
from kvstore.backend import Backend
from kvstore.errors import Compacted, RequestTooLarge
from kvstore.event import StoredEvent
from kvstore.lease import Lessor
from kvstore.store import DeleteResult, PutResult, RangeResult, Store, StoreStatistics, TxnResult
from kvstore.txn import check_delete, check_put, check_range, check_txn, cost_of, has_put, is_write, size_of
from kvstore.watch import OUTBOX_BYTES, HubStatistics, WatchHub, WatchStream

log = structlog.get_logger("kvstore")


class NodeOptions(msgspec.Struct, frozen=True):
    """Settings of a member, with etcd's defaults.

    `inline_commits` commits on the event loop instead of the writer thread: slower, but the same order of steps every
    time, which simulations on a virtual clock need. `fsync=False` is for data that need not outlive the machine.
    """

    name: str = "default"
    max_txn_ops: int = 128
    max_request_bytes: int = 1_572_864
    quota_bytes: int = 2 << 30
    progress_interval: float = 600.0  # seconds
    outbox_bytes: int = OUTBOX_BYTES
    fsync: bool = True
    inline_commits: bool = False


class NodeStatistics(msgspec.Struct, frozen=True):
    """Everything countable about a member."""

    store: StoreStatistics
    watch: HubStatistics
    leases: int


class Node:
    """An open member. Use `async with Node.open(directory) as node`. All calls belong to that event loop.

    Requests are checked here, so every way in (gRPC, in-process) has the same limits and errors.
    """

    def __init__(self, backend: Backend, options: NodeOptions, rng: random.Random) -> None:
        self.options = options
        self.name = options.name
        self._backend = backend
        self._store = Store(backend, quota_bytes=options.quota_bytes, publish=self._publish)
        self._hub = WatchHub(
            self._store, progress_interval=options.progress_interval, outbox_bytes=options.outbox_bytes, rng=rng
        )
        self._lessor = Lessor(self._store, now=asyncio.get_running_loop().time, rng=rng)
        self._store.use_leases(self._lessor)
        self._lessor.restore(backend.leases())
        self._store.restore(self._lessor.attach)
        self.cluster_id = backend.meta("cluster_id")
        self.member_id = backend.meta("member_id")
        self.raft_term = backend.meta("raft_term", 1) + 1  # a restart is an election won
        self._compaction: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls, directory: Path, options: NodeOptions | None = None, *, rng: random.Random | None = None
    ) -> AsyncIterator[Self]:
        """Open a data directory, making it if need be. Leaving commits what is staged, ends watches, closes the files.

        Raises DataDirInUse, DataDirTooNew or another DataDirError.
        """
        options = options or NodeOptions()
        rng = rng or random.Random()
        backend = Backend(
            directory, quota_bytes=options.quota_bytes, fsync=options.fsync, inline=options.inline_commits, rng=rng
        )
        try:
            node = cls(backend, options, rng)
            await node._start()
            try:
                yield node
            finally:
                await node._stop()
        finally:
            backend.close()

    async def _start(self) -> None:
        self._commit_task = asyncio.create_task(self._store.run(), name="kvstore commit")
        self._tasks = [
            asyncio.create_task(self._hub.run(), name="kvstore watch sync"),
            asyncio.create_task(self._lessor.run(), name="kvstore lease expiry"),
        ]
        for task in (self._commit_task, *self._tasks):
            task.add_done_callback(self._task_ended)
        await self._store.write(lambda txn: txn.meta("raft_term", self.raft_term))
        if self._store.compaction_unfinished:
            self._compaction = self._supervised(self._store.remove_compacted())

    async def _stop(self) -> None:
        self._hub.close()
        for task in self._tasks:
            task.cancel()
        if self._compaction is not None:
            self._compaction.cancel()
        running = [task for task in (*self._tasks, self._compaction) if task is not None]
        await asyncio.gather(*running, return_exceptions=True)
        self._store.stop()
        with contextlib.suppress(Exception):  # already logged, with its traceback, by _task_ended
            await self._commit_task

    def _supervised(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        log.error("task_failed", task=task.get_name(), exc_info=task.exception())
        if task is not self._compaction:
            self._store.stop()
            self._hub.close()

    def _publish(self, events: Sequence[StoredEvent], revision: int) -> None:
        self._hub.publish(events, revision)

    # ---- reads ----------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The durable revision."""
        return self._store.revision

    @property
    def compacted(self) -> int:
        """The oldest revision that can be read; -1 if nothing was ever compacted."""
        return self._store.compacted

    def header(self, revision: int | None = None) -> Header:
        """A response header, with the durable revision unless another is given."""
        return Header(
            self.cluster_id, self.member_id, self._store.revision if revision is None else revision, self.raft_term
        )

    def range(self, request: Range) -> RangeResult:
        """Read keys. Raises InvalidArgument, Compacted or FutureRevision."""
        check_range(request)
        return self._store.range(request)

    def db_size(self) -> tuple[int, int]:
        """Bytes allocated, bytes in use."""
        return self._backend.size

    # ---- writes ---------------------------------------------------------------------------------------------------

    async def put(self, request: Put) -> PutResult:
        """Write a key. Raises InvalidArgument, LeaseNotFound, NoSpace or Unavailable."""
        check_put(request)
        if len(request.key) + len(request.value) > self.options.max_request_bytes:
            raise RequestTooLarge()
        return await self._store.write(lambda txn: txn.put(request), cost=cost_of(request))

    async def delete_range(self, request: DeleteRange) -> DeleteResult:
        """Delete keys. Raises InvalidArgument or Unavailable."""
        check_delete(request)
        return await self._store.write(lambda txn: txn.delete_range(request))

    async def txn(self, request: Txn) -> TxnResult:
        """Run a transaction, all of it or nothing. Raises what its operations raise, TooManyOps or DuplicateKey."""
        check_txn(request, self.options.max_txn_ops)
        if not is_write(request):
            return self._store.read(request)
        if size_of(request) > self.options.max_request_bytes:
            raise RequestTooLarge()
        return await self._store.write(lambda txn: txn.txn(request), cost=cost_of(request) if has_put(request) else 0)

    async def compact(self, revision: int, physical: bool = False) -> int:
        """Drop history below `revision`; gives the current revision. `physical` waits until the space is free.

        Raises Compacted or FutureRevision.
        """
        try:
            await self._store.compact(revision)
        except Compacted:
            if physical and self._compaction is not None:
                await asyncio.wait([self._compaction])
            raise
        self._hub.compacted()
        previous = self._compaction
        self._compaction = self._supervised(self._remove_compacted(previous))
        if physical:
            await asyncio.wait([self._compaction])
        return self._store.revision

    async def _remove_compacted(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        await self._store.remove_compacted()

    # ---- leases ---------------------------------------------------------------------------------------------------

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> tuple[int, int]:
        """(id, ttl) of a new lease. Raises LeaseExists, LeaseTTLTooLarge or NoSpace."""
        return await self._lessor.grant(ttl, lease_id)

    async def lease_revoke(self, lease_id: int) -> None:
        """End a lease, deleting its keys. Raises LeaseNotFound."""
        await self._lessor.revoke(lease_id)

    async def lease_keep_alive(self, lease_id: int) -> int:
        """Renew; the TTL, or 0 if it is gone."""
        return await self._lessor.keep_alive(lease_id)

    def lease_time_to_live(self, lease_id: int, keys: bool = False) -> tuple[int, int, list[bytes]]:
        """(seconds left or -1, granted seconds, keys)."""
        return self._lessor.time_to_live(lease_id, keys)

    def leases(self) -> list[int]:
        """Lease ids, the soonest to expire first."""
        return self._lessor.ids()

    # ---- watches --------------------------------------------------------------------------------------------------

    def watch_stream(self) -> WatchStream:
        """A stream for watches; close it when done."""
        return self._hub.stream()

    def statistics(self) -> NodeStatistics:
        """The numbers of store, hub and lessor now."""
        return NodeStatistics(self._store.statistics(), self._hub.statistics(), len(self._lessor.ids()))
