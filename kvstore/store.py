"""The MVCC store: the commit pipeline, reads at the durable revision, compaction.

A write goes through three steps, and nothing is acknowledged, readable or watchable before the second is done:

1. *stage*: checked and applied to the index in arrival order; its records go into the gathering `Batch`;
2. *commit*: the batch goes to LMDB in one durable transaction on the writer thread, while the next one gathers;
3. *publish*: the durable revision moves, callers are answered, the watch hub is told.

When a commit fails, its batch and the one that gathered meanwhile (which may rest on it) are taken back, and their
callers get the error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import structlog

from kvstore.api import Compare, CompareTarget, DeleteRange, KeyValue, Op, Put, Range, SortOrder, SortTarget, Txn
from kvstore.backend import NO_COMPACTION, Backend, Commit
from kvstore.errors import Compacted, FutureRevision, KeyNotFound, KvError, LeaseNotFound, NoSpace, Stopped
from kvstore.event import StoredEvent
from kvstore.hash import CompactionHashes, Hasher
from kvstore.histogram import Durations, Histogram
from kvstore.index import Index
from kvstore.recent import RecentRecords
from kvstore.record import decode, encode, encode_tombstones, key_of, without_value
from kvstore.revision import TOMBSTONE, is_tombstone, main_of, pack, tombstones
from kvstore.txn import Path, decide, in_range

# etcd removes 1,000 revisions a step and rests 10 ms; ours rests for as long as a step took, so writers get half.
COMPACTION_STEP_BYTES = 256 << 10  # looked through on the event loop: some milliseconds
COMPACTION_STEP_KEYS = 2_000
# A batch that grew this big waits for the disk before it takes more: bounds memory and the time of one commit.
MAX_BATCH_BYTES = 16 << 20
# How long a commit waits for the writers that the last one answered. A loop busy with requests needs about this long
# for as many as share one fsync well; measured over gRPC with 64 in flight it is worth a third of the throughput.
GATHER_SECONDS = 0.002
# Names in the database's `meta`.
SCHEDULED_COMPACTION, FINISHED_COMPACTION = "scheduled_compact_revision", "finished_compact_revision"

T = TypeVar("T")
log = structlog.get_logger("kvstore")


class RangeResult(msgspec.Struct, frozen=True):
    """`rows` are records in the order asked for; `revision` is what the response header carries."""

    revision: int
    rows: list[bytes]
    more: bool
    count: int


class PutResult(msgspec.Struct, frozen=True):
    """`prev` is the record that was replaced, if asked for."""

    revision: int
    prev: bytes | None


class DeleteResult(msgspec.Struct, frozen=True):
    """`prevs` are the records that were deleted, if asked for."""

    revision: int
    deleted: int
    prevs: list[bytes]


class TxnResult(msgspec.Struct, frozen=True):
    """`results` matches the branch taken. A nested transaction's `revision` is 0, as in etcd."""

    revision: int
    succeeded: bool
    results: list[OpResult]


OpResult: TypeAlias = RangeResult | PutResult | DeleteResult | TxnResult


class LeaseBook(Protocol):
    """What the store asks of the lessor: which leases exist and which keys they hold."""

    def exists(self, lease_id: int) -> bool:
        """Whether keys can be attached to the lease."""

    def attach(self, key: bytes, lease_id: int) -> int:
        """Move the key to the lease (0 = none); gives the lease it had, so that it can be moved back."""

    def detach(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Take the keys from their leases; gives the leases of those that had one, for `attach_again`."""

    def attach_again(self, leases: Mapping[bytes, int]) -> None:
        """Undo `detach`."""


class StoreStatistics(msgspec.Struct, frozen=True):
    """Numbers of the commit pipeline since the start; sizes in bytes.

    `puts`, `deletes` and `ranges` count those inside transactions too, as etcd's metrics do.
    """

    revision: int
    staged_revision: int
    compact_revision: int
    keys: int
    commits: int
    committed_changes: int
    failed_commits: int
    gathering_bytes: int
    pending_writes: int
    puts: int
    deletes: int
    ranges: int
    txns: int
    commit_seconds: Durations
    db_size: int
    db_size_in_use: int


class Batch:
    """What one commit makes durable, and whom to answer then."""

    __slots__ = ("commit", "events", "last_revision", "size", "undo", "waiters")

    def __init__(self) -> None:
        self.commit = Commit()
        self.events: list[StoredEvent] = []
        self.undo: list[Callable[[], object]] = []  # takes back what is not in the index: leases
        self.waiters: list[asyncio.Future[None]] = []
        self.last_revision = 0
        self.size = 0


class Store:
    """The store of one member. Its methods belong to the event loop that runs `run()`."""

    def __init__(
        self,
        backend: Backend,
        *,
        quota_bytes: int,
        cache_bytes: int,
        publish: Callable[[Sequence[StoredEvent], int], None],
        on_compacted: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._quota = quota_bytes
        self._recent = RecentRecords(cache_bytes)
        self._publish_to = publish
        self._on_compacted = on_compacted
        self._leases: LeaseBook | None = None
        self.index = Index()
        self.revision = 1  # durable: what reads see
        self._staged_revision = 1
        self.compacted = NO_COMPACTION
        self._scheduled = NO_COMPACTION  # the staged counterpart of `compacted`
        self.compaction_hashes = CompactionHashes()
        self._hashable = NO_COMPACTION  # the compaction that finds everything since the one before
        self._gathering = Batch()
        self._committing: Batch | None = None
        # Records that LMDB does not have yet, but for tombstones: nothing reads those by their revision.
        self._staged: dict[int, bytes] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._expected = 0  # how many writers wait once those that the last commit answered are back
        self._all_back = asyncio.Event()
        self._stopping = False
        self._commits = self._changes = self._failed = 0
        self._puts = self._deletes = self._ranges = self._txns = 0
        self._commit_seconds = Histogram()

    # ---- start-up -------------------------------------------------------------------------------------------------

    def restore(self, attach: Callable[[bytes, int], object]) -> None:
        """Rebuild the index from LMDB; `attach(key, lease)` is called for each live key that has one."""
        newest = 1
        for revision, record in self._backend.all_records():
            if is_tombstone(revision):
                self.index.restore(key_of(record), revision, 0, 0)
                attach(key_of(record), 0)
            else:
                kv = decode(record)
                self.index.restore(kv.key, revision, kv.create_revision, kv.version)
                attach(kv.key, kv.lease)
            newest = main_of(revision)
        scheduled = self._backend.meta(SCHEDULED_COMPACTION, NO_COMPACTION)
        # The newest revision may itself have been compacted away: it never goes back.
        self.revision = self._staged_revision = max(newest, scheduled)
        self.compacted = self._scheduled = scheduled
        if scheduled > 0:
            self.index.compact(self.index.keys(), scheduled)

    def use_leases(self, leases: LeaseBook) -> None:
        """Set the lessor; once, before any write."""
        self._leases = leases

    @property
    def compaction_unfinished(self) -> bool:
        """Whether a compaction was scheduled and not all of it is removed from disk."""
        return self._backend.meta(FINISHED_COMPACTION, NO_COMPACTION) < self.compacted

    # ---- the pipeline ---------------------------------------------------------------------------------------------

    async def write(self, stage: Callable[[WriteTxn], T], cost: int = 0) -> T:
        """Stage a write and wait until it is durable. `cost` is what it may add to the database, in bytes.

        What `stage` raises is raised here, with nothing changed. Cancelling leaves the write undecided.
        Raises NoSpace, Unavailable or Stopped when it could not be made durable.
        """
        while not self._room.is_set():
            await self._room.wait()
        if self._stopping:
            raise Stopped()
        if cost and self._backend.size[1] + cost >= self._quota:
            raise NoSpace()
        txn = WriteTxn(self, self._gathering)
        try:
            result = stage(txn)
        except BaseException:
            txn.roll_back()
            raise
        txn.end()
        batch = self._gathering
        if not (txn.changed or batch.size or batch.waiters):
            # It changed nothing, but what it saw may still be on its way to the disk.
            if self._committing is None:
                return result
            batch = self._committing
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch.waiters.append(waiter)
        self._wake.set()
        if len(batch.waiters) >= self._expected:
            self._all_back.set()
        if batch.size >= MAX_BATCH_BYTES:
            self._room.clear()
            self._all_back.set()
        await waiter
        return result

    async def run(self) -> None:
        """Commit batches until `stop()`; what was staged before is still committed.

        If it ends in any other way, whoever waits for a commit gets Stopped: the write is undecided.
        """
        try:
            await self._commit_batches()
        finally:
            self.stop()
            if self._committing is not None or self._gathering.waiters:
                self._fail(self._committing or Batch(), Stopped())

    async def _commit_batches(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(0)  # callers answered by the last publish stage their next write now
            batch = self._gathering
            if batch.waiters:
                if len(batch.waiters) < self._expected:
                    await self._gather()
                self._gathering = Batch()
                self._committing = batch
                self._room.set()
                try:
                    await self._backend.write(lambda batch=batch: self._timed_commit(batch))  # type: ignore[misc]
                except KvError as error:
                    self._fail(batch, error)
                else:
                    self._publish(batch)
                if self._gathering.waiters or self._stopping:
                    self._wake.set()
            elif self._stopping:
                return

    def _timed_commit(self, batch: Batch) -> None:
        began = perf_counter()
        self._backend.commit(batch.commit)
        self._commit_seconds.observe(perf_counter() - began)

    async def _gather(self) -> None:
        """Wait, a moment, for the writers that the last commit answered: they come back soon, if at all."""
        self._all_back.clear()
        if self._stopping:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._all_back.wait()

    def stop(self) -> None:
        """Refuse new writes and let `run()` end once what is staged is durable."""
        self._stopping = True
        self._room.set()
        self._all_back.set()
        self._wake.set()

    def _publish(self, batch: Batch) -> None:
        self._committing = None
        self._expected = len(batch.waiters) + len(self._gathering.waiters)
        self._commits += 1
        if batch.events:
            self._changes += len(batch.events)
            self.revision = batch.last_revision
            staged, recent = self._staged, self._recent
            for event in batch.events:
                if not event.revision & TOMBSTONE:
                    del staged[event.revision]
                    recent.add(event.revision, event.record)
        for waiter in batch.waiters:
            if not waiter.done():
                waiter.set_result(None)
        if batch.events:
            self._publish_to(batch.events, self.revision)
        if SCHEDULED_COMPACTION in batch.commit.meta:
            self.compacted = batch.commit.meta[SCHEDULED_COMPACTION]
            self._on_compacted()

    def _fail(self, batch: Batch, error: KvError) -> None:
        later, self._gathering, self._committing = self._gathering, Batch(), None
        self._room.set()
        self._failed += 1
        for failed in (later, batch):
            self._take_back(failed, 0, 0)
            for waiter in failed.waiters:
                if not waiter.done():
                    waiter.set_exception(type(error)(*error.args))  # one each: a raised error gathers tracebacks
        self._staged_revision = self.revision

    def _take_back(self, batch: Batch, events: int, undo: int) -> None:
        """Undo the batch down to its first `events` changes and `undo` lease steps, newest first."""
        while len(batch.events) > events:
            event = batch.events.pop()
            self.index.undo(event.key, event.revision)
            self._staged.pop(event.revision, None)
            batch.commit.revisions.pop()
            batch.commit.records.pop()
            batch.size -= len(event.record)
        while len(batch.undo) > undo:
            batch.undo.pop()()

    # ---- reads ----------------------------------------------------------------------------------------------------

    def range(self, request: Range) -> RangeResult:
        """Read at the durable revision, or at an older one. Raises Compacted or FutureRevision."""
        return self._range(request, self.revision)

    def read(self, request: Txn) -> TxnResult:
        """Run a transaction that only reads, at the durable revision."""
        self._txns += 1
        return self._read(request, decide(request, lambda compare: self.compared(compare, self.revision)))

    def _read(self, request: Txn, path: Path) -> TxnResult:
        operations = path.branch(request)
        self._check_revisions(operations, self.revision)
        results: list[OpResult] = [self._range(op, self.revision) for op in operations if isinstance(op, Range)]
        return TxnResult(self.revision, path.succeeded, results)

    def _check_revisions(self, operations: Sequence[object], current: int) -> None:
        # Unlike a Range of its own, one in a transaction may not have a negative revision once there was a compaction.
        for op in operations:
            if isinstance(op, Range) and op.revision:
                if op.revision > current:
                    raise FutureRevision()
                if op.revision < self.compacted:
                    raise Compacted(self.compacted)

    def _revision_for(self, asked: int, current: int) -> int:
        if asked <= 0:
            return current
        if asked > current:
            raise FutureRevision()
        if asked < self.compacted:
            raise Compacted(self.compacted)
        return asked

    def _range(self, request: Range, current: int) -> RangeResult:
        """Read with `current` as the newest revision; etcd's order of work: fetch, filter, sort, limit."""
        self._ranges += 1
        at = self._revision_for(request.revision, current)
        key, end, limit = request.key, request.range_end, request.limit
        if request.count_only:
            return RangeResult(current, [], False, self._count(key, end, at, current))
        filtered = bool(
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        )
        order, target = request.sort_order, request.sort_target
        everything = filtered or order != SortOrder.NONE
        if limit <= 0 or everything:
            pairs = self.index.range(key, end, at)
            count = len(pairs)
        else:
            pairs = self.index.first(key, end, at, limit + 1)
            count = len(pairs) if len(pairs) <= limit else self._count(key, end, at, current)
        more = False
        if not everything and target == SortTarget.KEY:
            if 0 < limit < len(pairs):
                more = True
                del pairs[limit:]
            rows = self._records([revision for _, revision in pairs])
        else:
            kvs = [(decode(row), row) for row in self._records([revision for _, revision in pairs])]
            if filtered:
                kvs = [pair for pair in kvs if _within(request, pair[0])]
            if not (target == SortTarget.KEY and order != SortOrder.DESCEND):
                kvs.sort(key=_SORT_KEYS[target], reverse=order == SortOrder.DESCEND)
            if 0 < limit < len(kvs):
                more = True
                del kvs[limit:]
            rows = [row for _, row in kvs]
        if request.keys_only:
            rows = [without_value(row) for row in rows]
        return RangeResult(current, rows, more, count)

    def page(self, request: Range) -> tuple[list[bytes], bool]:
        """The first `limit` records of a range in key order at its revision, and whether there are more.

        Neither sorts, filters nor counts. Raises Compacted or FutureRevision.
        """
        at = self._revision_for(request.revision, self.revision)
        pairs = self.index.first(request.key, request.range_end, at, request.limit + 1)
        more = len(pairs) > request.limit
        del pairs[request.limit :]
        rows = self._records([revision for _, revision in pairs])
        return [without_value(row) for row in rows] if request.keys_only else rows, more

    def _count(self, key: bytes, end: bytes, at: int, current: int) -> int:
        # Inside a write that has changed something, `current` is its revision and the staged one is the one before.
        if at == max(current, self._staged_revision):
            return self.index.count_newest(key, end)
        if at < self.revision:
            return len(self.index.range(key, end, at))
        # Nearly the newest state: under load a page must not cost a walk through the whole range.
        since = {
            event.key
            for batch in (self._committing, self._gathering)
            if batch is not None
            for event in batch.events
            if event.mod_revision > at and in_range(event.key, key, end)
        }
        index = self.index
        return index.count_newest(key, end) + sum(
            bool(index.at(each, at)) - bool(index.newest(each)[0]) for each in since
        )

    def compared(self, compare: Compare, at: int) -> Sequence[KeyValue]:
        """The keys that a compare is about, at a revision; read from disk only if value or lease matters."""
        pairs = self.index.range(compare.key, compare.range_end, at)
        if compare.target == CompareTarget.MOD:
            return [KeyValue(key, b"", 0, main_of(revision), 0) for key, revision in pairs]
        return [decode(record) for record in self._records([revision for _, revision in pairs])]

    def _records(self, revisions: Sequence[int]) -> list[bytes]:
        staged = self._staged
        if staged and any(revision in staged for revision in revisions):
            return [staged[revision] if revision in staged else self.record(revision) for revision in revisions]
        return self._recent.get_many(revisions, self._backend.get_many)

    def record(self, revision: int) -> bytes:
        """The record of a packed revision, staged ones too."""
        found = self._staged.get(revision)
        return self._recent.get_many((revision,), self._backend.get_many)[0] if found is None else found

    # ---- history, for watchers that are behind --------------------------------------------------------------------

    def history(self, main: int, limit: int) -> tuple[list[StoredEvent], int]:
        """About `limit` bytes of changes from main revision `main` on, whole revisions, and the revision reached."""
        found, ended = self._backend.scan(main, limit)
        events = [StoredEvent(revision, key_of(record), record, -1) for revision, record in found]
        while events and events[-1].mod_revision > self.revision:  # committed, but not yet published
            events.pop()
            ended = True
        return events, self.revision if ended or not events else events[-1].mod_revision

    def fill_prevs(self, events: Sequence[StoredEvent]) -> None:
        """Read the records that events replaced, where there is one and it is still known.

        As in etcd it is the key as it was before the event's revision, whatever else that revision did to it; nothing
        for a put that created the key.
        """
        unknown: list[StoredEvent] = []
        for event in events:
            if event.prev is not None:
                continue
            if event.prev_revision < 0:
                event.prev_revision = self.index.previous(event.key, event.revision)
            if event.prev_revision and main_of(event.prev_revision) == event.mod_revision:
                event.prev_revision = self.index.at(event.key, event.mod_revision - 1)
            if event.prev_revision:
                unknown.append(event)
        for event, prev in zip(unknown, self._backend.find([event.prev_revision for event in unknown]), strict=True):
            event.prev = prev

    # ---- compaction -----------------------------------------------------------------------------------------------

    async def compact(self, revision: int) -> None:
        """Make history below `revision` unreadable, durably. What it frees is removed by `remove_compacted()`.

        Once durable it is in force, whether or not the caller still waits. Raises Compacted or FutureRevision.
        """

        def stage(txn: WriteTxn) -> None:
            before = self._scheduled
            if revision <= before:
                raise Compacted(before)
            if revision > self.revision:
                raise FutureRevision()
            self._scheduled = revision
            # As in etcd one that comes before the last has freed its space leaves no hash.
            self._hashable = revision if self._backend.meta(FINISHED_COMPACTION, NO_COMPACTION) == before else 0
            txn.undo(lambda: setattr(self, "_scheduled", before))
            txn.meta(SCHEDULED_COMPACTION, revision)

        await self.write(stage)

    async def remove_compacted(self) -> None:
        """Free what the last compaction made unreadable, in small steps between which writers get their turn."""
        target, hashable = self.compacted, self._hashable
        keys = self.index.keys()
        for start in range(0, len(keys), COMPACTION_STEP_KEYS):
            self.index.compact(keys[start : start + COMPACTION_STEP_KEYS], target)
            await asyncio.sleep(0)
        hasher = None
        if target == hashable:
            hasher = Hasher(self.index, target, self._backend.meta(FINISHED_COMPACTION, NO_COMPACTION))
        main = 0
        while main <= target:
            found, ended = self._backend.scan(main, COMPACTION_STEP_BYTES)
            if hasher is not None:
                hasher.add(found)
                await asyncio.sleep(0)
            gone = [
                revision
                for revision, record in found
                if main_of(revision) <= target and not self.index.holds(key_of(record), revision)
            ]
            if gone:
                await self._backend.write(lambda gone=gone: self._backend.delete(gone))  # type: ignore[misc]
            if ended or not found:
                break
            main = main_of(found[-1][0]) + 1
            await asyncio.sleep(0)
        await self.write(lambda txn: txn.meta(FINISHED_COMPACTION, target))
        if hasher is not None:
            self.compaction_hashes.add(hasher.result())

    def statistics(self) -> StoreStatistics:
        """The pipeline's numbers now."""
        size, in_use = self._backend.size
        return StoreStatistics(
            revision=self.revision,
            staged_revision=self._staged_revision,
            compact_revision=self.compacted,
            keys=len(self.index),
            commits=self._commits,
            committed_changes=self._changes,
            failed_commits=self._failed,
            gathering_bytes=self._gathering.size,
            pending_writes=sum(len(batch.waiters) for batch in (self._gathering, self._committing) if batch),
            puts=self._puts,
            deletes=self._deletes,
            ranges=self._ranges,
            txns=self._txns,
            commit_seconds=self._commit_seconds.read(),
            db_size=size,
            db_size_in_use=in_use,
        )


class WriteTxn:
    """One write being staged: its changes share the next main revision, and its reads see them."""

    __slots__ = ("_batch", "_events", "_main", "_store", "_undo", "changed", "sub")

    def __init__(self, store: Store, batch: Batch) -> None:
        self._store = store
        self._batch = batch
        self._main = store._staged_revision + 1
        self._events = len(batch.events)
        self._undo = len(batch.undo)
        self.sub = 0
        self.changed = False

    @property
    def revision(self) -> int:
        """What a read inside this write sees as the newest revision."""
        return self._main if self.sub else self._main - 1

    def put(self, request: Put) -> PutResult:
        """Write a key. Raises KeyNotFound or LeaseNotFound before anything is changed."""
        store = self._store
        store._puts += 1
        leases = store._leases
        assert leases is not None
        key, value, lease = request.key, request.value, request.lease
        if lease and not leases.exists(lease):
            raise LeaseNotFound()
        prev: bytes | None = None
        if request.prev_kv or request.ignore_value or request.ignore_lease:
            newest, _, _ = store.index.newest(key)
            if newest:
                prev = store.record(newest)
                if request.ignore_value or request.ignore_lease:
                    old = decode(prev)
                    value = old.value if request.ignore_value else value
                    lease = old.lease if request.ignore_lease else lease
            elif request.ignore_value or request.ignore_lease:
                raise KeyNotFound()
        revision = pack(self._main, self.sub)
        create, version, replaced = store.index.put(key, revision)
        record = encode(key, value, create, self._main, version, lease)
        self._stage(StoredEvent(revision, key, record, replaced))
        before = leases.attach(key, lease)
        if before != lease:
            self.undo(lambda: leases.attach(key, before))
        return PutResult(self._main, prev if request.prev_kv else None)

    def delete_range(self, request: DeleteRange) -> DeleteResult:
        """Delete the keys of a range; the revision moves only if there were any."""
        store = self._store
        store._deletes += 1
        replaced = self._delete(store.index.live(request.key, request.range_end))
        return DeleteResult(self.revision, len(replaced), store._records(replaced) if request.prev_kv else [])

    def delete_keys(self, keys: Sequence[bytes]) -> None:
        """Delete keys that are live, each once, in this order."""
        self._store._deletes += len(keys)
        self._delete(keys)

    def _delete(self, keys: Sequence[bytes]) -> list[int]:
        # Gives the packed revisions of what the keys held. There may be hundreds of thousands of them, and until this
        # is done nobody else gets a turn: what is done for each is little, and makes nothing for the collector.
        if not keys:
            return []
        store, batch, commit = self._store, self._batch, self._batch.commit
        leases = store._leases
        assert leases is not None
        revisions = tombstones(self._main, self.sub, len(keys))
        records = encode_tombstones(keys, self._main)
        replaced = store.index.delete(keys, revisions)
        batch.events += map(StoredEvent, revisions, keys, records, replaced)
        commit.revisions += revisions
        commit.records += records
        batch.size += sum(map(len, records))
        self.sub += len(keys)
        self.changed = True
        if before := leases.detach(keys):
            self.undo(lambda: leases.attach_again(before))
        return replaced

    def txn(self, request: Txn) -> TxnResult:
        """Decide a transaction, check the whole path it takes, then run it."""
        store = self._store
        store._txns += 1
        path = decide(request, lambda compare: store.compared(compare, self.revision))
        self._check(request, path)
        results = self._run(request, path)
        return TxnResult(self.revision, path.succeeded, results)

    def _check(self, request: Txn, path: Path) -> None:
        # In etcd's order: every put of the path, then every range.
        operations = list(_flat(request, path))
        for op in operations:
            if isinstance(op, Put):
                self._check_put(op)
        self._store._check_revisions(operations, self.revision)

    def _check_put(self, op: Put) -> None:
        store = self._store
        leases = store._leases
        assert leases is not None
        if (op.ignore_value or op.ignore_lease) and not store.index.newest(op.key)[0]:
            raise KeyNotFound()
        if op.lease and not leases.exists(op.lease):
            raise LeaseNotFound()

    def _run(self, request: Txn, path: Path) -> list[OpResult]:
        results: list[OpResult] = []
        nested = iter(path.nested)
        for op in path.branch(request):
            if isinstance(op, Put):
                results.append(self.put(op))
            elif isinstance(op, Range):
                results.append(self._store._range(op, self.revision))
            elif isinstance(op, DeleteRange):
                results.append(self.delete_range(op))
            else:
                taken = next(nested)
                results.append(TxnResult(0, taken.succeeded, self._run(op, taken)))
        return results

    def meta(self, name: str, number: int) -> None:
        """Store a named number along with the batch."""
        self._batch.commit.meta[name] = number
        self.changed = True

    def lease(self, lease_id: int, ttl: int | None, undo: Callable[[], object]) -> None:
        """Store a lease's granted TTL, or None to remove it; `undo` takes back what the lessor did in memory."""
        leases = self._batch.commit.leases
        had, before = lease_id in leases, leases.get(lease_id)
        leases[lease_id] = ttl
        self.undo(undo)
        self.undo(lambda: leases.__setitem__(lease_id, before) if had else leases.pop(lease_id))
        self.changed = True

    def auth(self, records: Mapping[bytes, bytes | None], undo: Callable[[], object]) -> None:
        """Store records of users and roles, None to remove one; `undo` takes back what changed in memory."""
        commit = self._batch.commit
        before = commit.rows
        commit.rows = before | {("auth", key): record for key, record in records.items()}
        self.undo(undo)
        self.undo(lambda: setattr(commit, "rows", before))
        self.changed = True

    def row(self, table: str, key: bytes, value: bytes | None) -> None:
        """Store a row of a small table along with the batch; None removes it."""
        self._batch.commit.rows[table, key] = value
        self.changed = True

    def undo(self, step: Callable[[], object]) -> None:
        """Remember how to take back something that is not in the index."""
        self._batch.undo.append(step)

    def _stage(self, event: StoredEvent) -> None:
        batch = self._batch
        batch.events.append(event)
        batch.commit.revisions.append(event.revision)
        batch.commit.records.append(event.record)
        batch.size += len(event.record)
        self._store._staged[event.revision] = event.record
        self.sub += 1
        self.changed = True

    def end(self) -> None:
        """Take the revision, if anything was changed."""
        if self.sub:
            self._store._staged_revision = self._batch.last_revision = self._main

    def roll_back(self) -> None:
        """Take back every change of this write."""
        self._store._take_back(self._batch, self._events, self._undo)


def _flat(request: Txn, path: Path) -> Iterator[Op]:
    """The operations that the path runs, those of nested transactions in their place."""
    nested = iter(path.nested)
    for op in path.branch(request):
        if isinstance(op, Txn):
            yield from _flat(op, next(nested))
        else:
            yield op


def _within(request: Range, kv: KeyValue) -> bool:
    return (
        (not request.min_mod_revision or kv.mod_revision >= request.min_mod_revision)
        and (not request.max_mod_revision or kv.mod_revision <= request.max_mod_revision)
        and (not request.min_create_revision or kv.create_revision >= request.min_create_revision)
        and (not request.max_create_revision or kv.create_revision <= request.max_create_revision)
    )


_SORT_KEYS: dict[int, Callable[[tuple[KeyValue, bytes]], Any]] = {
    SortTarget.KEY: lambda pair: pair[0].key,
    SortTarget.VERSION: lambda pair: pair[0].version,
    SortTarget.CREATE: lambda pair: pair[0].create_revision,
    SortTarget.MOD: lambda pair: pair[0].mod_revision,
    SortTarget.VALUE: lambda pair: pair[0].value,
}
