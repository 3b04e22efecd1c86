"""One member: a store, its watch hub and its lessor, with their tasks, opened and closed together."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar

import msgspec
import structlog

from kvstore.api import DeleteRange, Header, Put, Range, Txn
from kvstore.auth import BCRYPT_COST, TOKEN_TTL, Auth, AuthStatistics, Guard
from kvstore.backend import Backend
from kvstore.errors import Compacted, NoSpace, RequestTooLarge, Stopped, Unavailable
from kvstore.event import StoredEvent
from kvstore.lease import Lessor
from kvstore.maintenance import Maintenance
from kvstore.store import DeleteResult, PutResult, RangeResult, Store, StoreStatistics, TxnResult, WriteTxn
from kvstore.txn import check_delete, check_put, check_range, check_txn, cost_of, has_put, is_write, size_of
from kvstore.watch import OUTBOX_BYTES, HubStatistics, WatchHub, WatchStream

T = TypeVar("T")
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
    cache_bytes: int = 64 << 20  # of recently used records, kept in memory
    progress_interval: float = 600.0  # seconds
    outbox_bytes: int = OUTBOX_BYTES
    fsync: bool = True
    inline_commits: bool = False
    bcrypt_cost: int = BCRYPT_COST
    auth_token_ttl: float = TOKEN_TTL  # seconds after its last use
    auto_disarm: bool = False  # whether the NOSPACE alarm ends by itself when there is room again


class NodeStatistics(msgspec.Struct, frozen=True):
    """Everything countable about a member."""

    store: StoreStatistics
    watch: HubStatistics
    leases: int
    auth: AuthStatistics


class Node:
    """An open member. Use `async with Node.open(directory) as node`. All calls belong to that event loop.

    Requests are checked here, so every way in (gRPC, in-process) has the same limits and errors.
    """

    def __init__(self, backend: Backend, options: NodeOptions, rng: random.Random, token_rng: random.Random) -> None:
        self.options = options
        self.name = options.name
        self._backend = backend
        self._store = Store(
            backend,
            quota_bytes=options.quota_bytes,
            cache_bytes=options.cache_bytes,
            publish=self._publish,
            on_compacted=self._compacted,
        )
        self._hub = WatchHub(
            self._store, progress_interval=options.progress_interval, outbox_bytes=options.outbox_bytes, rng=rng
        )
        self._lessor = Lessor(self._store, now=asyncio.get_running_loop().time, rng=rng)
        self._store.use_leases(self._lessor)
        self._lessor.restore(backend.leases())
        self._store.restore(self._lessor.attach)
        self.auth = Auth(
            self._store,
            lease_keys=self._lessor.keys_of,
            now=asyncio.get_running_loop().time,
            rng=token_rng,
            bcrypt_cost=options.bcrypt_cost,
            token_ttl=options.auth_token_ttl,
            inline=options.inline_commits,
        )
        self.auth.restore(backend.rows("auth"))
        self.cluster_id = backend.meta("cluster_id")
        self.member_id = backend.meta("member_id")
        self.raft_term = backend.meta("raft_term", 1) + 1  # a restart is an election won
        self.maintenance = Maintenance(
            self._store,
            backend,
            member_id=self.member_id,
            name=options.name,
            quota_bytes=options.quota_bytes,
            auto_disarm=options.auto_disarm,
        )
        self._compaction: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directory: Path,
        options: NodeOptions | None = None,
        *,
        rng: random.Random | None = None,
        token_rng: random.Random | None = None,
    ) -> AsyncIterator[Self]:
        """Open a data directory, making it if need be. Leaving commits what is staged, ends watches, closes the files.

        `token_rng` makes the tokens by which callers are known: the system's secure source unless a simulation must be
        repeatable.
        Leaving takes as long as the disk needs for what is staged; cancelling does not cut it short.
        Raises DataDirInUse, DataDirTooNew or another DataDirError.
        """
        options = options or NodeOptions()
        rng = rng or random.Random()
        backend = Backend(
            directory, quota_bytes=options.quota_bytes, fsync=options.fsync, inline=options.inline_commits, rng=rng
        )
        try:
            node = cls(backend, options, rng, token_rng or secrets.SystemRandom())
            node._start_tasks()
            try:
                await node._begin_term()
                yield node
            finally:
                await node._stop()
        finally:
            backend.close()

    def _start_tasks(self) -> None:
        self._commit_task = asyncio.create_task(self._store.run(), name="kvstore commit")
        self._tasks = [
            asyncio.create_task(self._hub.run(), name="kvstore watch sync"),
            asyncio.create_task(self._lessor.run(), name="kvstore lease expiry"),
        ]
        for task in (self._commit_task, *self._tasks):
            task.add_done_callback(self._task_ended)

    async def _begin_term(self) -> None:
        try:
            await self._store.write(lambda txn: txn.meta("raft_term", self.raft_term))
        except NoSpace:  # a full disk must not keep anyone from reading, deleting and compacting
            log.warning("no_space_at_start", detail="the data can be read; the new term is not on disk")
        if self._store.compaction_unfinished:
            self._free_compacted()

    async def _stop(self) -> None:
        stopping = asyncio.create_task(self._stop_tasks(), name="kvstore stop")
        cancelled: asyncio.CancelledError | None = None
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError as error:  # the files are closed next, so no task may be left
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _stop_tasks(self) -> None:
        self.closed = True
        self._hub.close()
        await self.maintenance.stop()
        ending = [*self._tasks, *([] if self._compaction is None else [self._compaction])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._store.stop()
        await asyncio.wait([self._commit_task])  # had it failed, _task_ended logged why
        self.auth.close()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        log.error("task_failed", task=task.get_name(), exc_info=task.exception())
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

    def range(self, request: Range, guard: Guard | None = None) -> RangeResult:
        """Read keys. Raises InvalidArgument, Compacted or FutureRevision, and what `guard` raises."""
        check_range(request)
        if guard is not None:
            guard()
        return self._store.range(request)

    def page(self, request: Range) -> tuple[list[bytes], bool]:
        """The first `limit` records of a range in key order, and whether there are more; see `Store.page`."""
        check_range(request)
        return self._store.page(request)

    def db_size(self) -> tuple[int, int]:
        """Bytes allocated, bytes in use."""
        return self._backend.size

    # ---- writes ---------------------------------------------------------------------------------------------------

    async def put(self, request: Put, guard: Guard | None = None) -> PutResult:
        """Write a key. Raises InvalidArgument, LeaseNotFound, NoSpace or Unavailable, and what `guard` raises."""
        check_put(request)
        if len(request.key) + len(request.value) > self.options.max_request_bytes:
            raise RequestTooLarge()
        return await self._write(_guarded(guard, lambda txn: txn.put(request)), cost=cost_of(request))

    async def delete_range(self, request: DeleteRange, guard: Guard | None = None) -> DeleteResult:
        """Delete keys. Raises InvalidArgument or Unavailable, and what `guard` raises."""
        check_delete(request)
        return await self._write(_guarded(guard, lambda txn: txn.delete_range(request)))

    async def txn(self, request: Txn, guard: Guard | None = None) -> TxnResult:
        """Run a transaction, all of it or nothing.

        Raises what its operations raise, TooManyOps or DuplicateKey, and what `guard` raises.
        """
        check_txn(request, self.options.max_txn_ops)
        if not is_write(request):
            if guard is not None:
                guard()
            return self._store.read(request)
        if size_of(request) > self.options.max_request_bytes:
            raise RequestTooLarge()
        cost = cost_of(request) if has_put(request) else 0
        return await self._write(_guarded(guard, lambda txn: txn.txn(request)), cost=cost)

    async def _write(self, stage: Callable[[WriteTxn], T], cost: int = 0) -> T:
        """Write unless an alarm forbids it; what adds something to the database has a cost."""
        alarms = self.maintenance.alarms
        if cost:
            await alarms.check_growth()
        else:
            alarms.check_write()
        try:
            return await self._store.write(stage, cost)
        except NoSpace:
            await alarms.out_of_space()
            raise

    async def compact(self, revision: int, physical: bool = False) -> int:
        """Drop history below `revision`; gives the current revision. `physical` waits until the space is free.

        Raises Compacted or FutureRevision; Unavailable if a `physical` one is in force but its space not free.
        """
        self.maintenance.alarms.check_write()
        try:
            await self._store.compact(revision)
        except Compacted:
            if self._store.compaction_unfinished:
                self._free_compacted()  # asking again tries again what may have failed
                if physical and self._compaction is not None:
                    await asyncio.wait([self._compaction])
            raise
        if physical and (freeing := self._compaction) is not None:
            await asyncio.wait([freeing])
            if freeing.cancelled():
                raise Stopped()
            if (error := freeing.exception()) is not None:
                raise Unavailable(f"etcdserver: compacted, but the space could not be freed: {error}") from error
        return self._store.revision

    def _compacted(self) -> None:
        self._hub.compacted()
        self._free_compacted()

    def _free_compacted(self) -> None:
        if self.closed or (self._compaction is not None and not self._compaction.done()):
            return  # the one that runs goes on to the newest compaction; a closed node's goes on after a restart
        self._compaction = asyncio.create_task(self._remove_compacted(), name="kvstore compaction")
        self._compaction.add_done_callback(_compaction_ended)

    async def _remove_compacted(self) -> None:
        while self._store.compaction_unfinished:
            await self._store.remove_compacted()
        await self.maintenance.alarms.end_if_room()

    # ---- leases ---------------------------------------------------------------------------------------------------

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> tuple[int, int]:
        """(id, ttl) of a new lease. Raises LeaseExists, LeaseTTLTooLarge or NoSpace."""
        alarms = self.maintenance.alarms
        await alarms.check_growth()
        try:
            return await self._lessor.grant(ttl, lease_id)
        except NoSpace:
            await alarms.out_of_space()
            raise

    async def lease_revoke(self, lease_id: int, guard: Guard | None = None) -> None:
        """End a lease, deleting its keys. Raises LeaseNotFound, and what `guard` raises."""
        self.maintenance.alarms.check_write()
        await self._lessor.revoke(lease_id, guard)

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
        return NodeStatistics(
            self._store.statistics(), self._hub.statistics(), len(self._lessor), self.auth.statistics()
        )


def _guarded(guard: Guard | None, stage: Callable[[WriteTxn], T]) -> Callable[[WriteTxn], T]:
    """The stage of a write, once `guard` lets it pass."""
    if guard is None:
        return stage

    def guarded(txn: WriteTxn) -> T:
        guard()
        return stage(txn)

    return guarded


def _compaction_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("compaction_failed", detail="tried again at the next compaction or start", exc_info=error)
