"""Clients that read and write at random and note down what they asked, when, and what they were told."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import tempfile
from collections.abc import Awaitable, Iterator
from contextlib import aclosing
from typing import TypeVar

from kvstore.api import (
    Client,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRangeResponse,
    LeaseRevokeResponse,
    Op,
    Put,
    PutResponse,
    Range,
    RangeResponse,
    Txn,
    TxnResponse,
)
from kvstore.bolt import Reader
from kvstore.client import RemoteClient
from kvstore.errors import Compacted, LeaseNotFound, TooManyRequests, Unavailable
from kvstore.record import decode
from kvstore.revision import from_key, is_tombstone
from kvstore.schema import HISTORY, revision_of
from kvstore.snapshot import SUM_BYTES
from tests.robustness.history import FOREVER, Call, Granted, History
from tests.robustness.model import LeaseRevoke, State, Write, answered

KEYS = [b"a", b"b", b"b/1", b"b/2", b"c", b"c/1", b"d", b"e"]
EVERYTHING = Range(b"\0", b"\0")
CALL_TIMEOUT = 1.0  # seconds; after it nobody knows whether the call was carried out
SHORT_TTL, LONG_TTL = 2, 600  # seconds
SIZES = (0, 0, 10, 200, 3000)

T = TypeVar("T")


class Traffic:
    """One client's share. `numbers` makes each value that is ever written unlike all others."""

    def __init__(
        self, client: RemoteClient, history: History, rng: random.Random, life: int, numbers: Iterator[int]
    ) -> None:
        self._client = client
        self._history = history
        self._rng = rng
        self._life = life
        self._numbers = numbers
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """One call after another until cancelled."""
        steps = [
            (30, self._write),
            (18, self._read),
            (3, self._grant),
            (2, self._revoke),
            (2, self._keep_alive),
            (4, self._compact),
            (1, self._snapshot),
        ]
        for _ in itertools.count():
            step = self._rng.choices([each for _, each in steps], [weight for weight, _ in steps])[0]
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    await step()
            except (TimeoutError, Unavailable, TooManyRequests):
                await asyncio.sleep(0.002)  # a server that is gone refuses at once; leave the loop to the others

    async def write_once(self) -> None:
        """One write."""
        await self._write()

    # ---- the calls ------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        operation = self._operation()
        call = self._sent(operation)
        client = self._client
        response: PutResponse | DeleteRangeResponse | TxnResponse
        try:
            match operation:
                case Put():
                    response = await client.put(
                        operation.key, operation.value, lease=operation.lease, prev_kv=operation.prev_kv
                    )
                case DeleteRange():
                    response = await client.delete(operation.key, operation.range_end, prev_kv=operation.prev_kv)
                case Txn():
                    response = await client.txn(operation.compare, operation.success, operation.failure)
                case _:
                    raise AssertionError(operation)
        except LeaseNotFound:
            call.refused = True
            return
        self._returned(call, response.header.revision, answered(response))

    async def _read(self) -> None:
        history, rng = self._history, self._rng
        revision = 0
        if rng.random() < 0.3 and history.revision > 1:
            revision = rng.randint(max(1, history.compacted), history.revision)
        key, end = self._span()
        call = self._sent(Range(key, end, revision=revision))
        compacted_before = history.compacted
        try:
            response: RangeResponse = await self._client.range(Range(key, end, revision=revision))
        except Compacted:
            call.refused = True
            assert revision < max(history.compactions, default=-1), f"nobody compacted as far as {revision}"
            return
        assert not 0 < revision < compacted_before, f"revision {revision} was compacted at {compacted_before}, and read"
        self._returned(call, response.header.revision, answered(response))

    async def _grant(self) -> None:
        lease_id = next(self._numbers)
        lease = Granted(lease_id, self._rng.choice((SHORT_TTL, LONG_TTL)), self._clock())
        self._history.leases[lease_id] = lease
        granted = await self._client.lease_grant(lease.ttl, lease_id)
        assert (granted.id, granted.ttl) == (lease_id, lease.ttl)
        lease.returned = self._clock()

    async def _revoke(self) -> None:
        lease_id = self._lease()
        if not lease_id:
            return
        call = self._sent(LeaseRevoke(lease_id))
        try:
            response: LeaseRevokeResponse = await self._client.lease_revoke(lease_id)
        except LeaseNotFound:
            call.refused = True
            return
        self._returned(call, response.header.revision, None)

    async def _keep_alive(self) -> None:
        if lease_id := self._lease():
            answer = await self._client.lease_keep_alive(lease_id)
            assert answer.ttl in (0, self._history.leases[lease_id].ttl)

    async def _compact(self) -> None:
        history = self._history
        target = history.revision - self._rng.choice((0, 1, 5, 50, 100))
        if target <= max(1, history.compacted):
            return
        history.compactions.setdefault(target, self._clock())
        try:
            await self._client.compact(target, physical=self._rng.random() < 0.2)
        except Compacted:
            assert target <= max(revision for revision in history.compactions)
            return
        history.compacted = max(history.compacted, target)

    async def _snapshot(self) -> None:
        """A snapshot is a read of everything at the revision that it has."""
        call = self._sent(EVERYTHING)
        async with aclosing(self._client.snapshot()) as pieces:
            data = b"".join([piece async for piece in pieces])
        database, digest = data[:-SUM_BYTES], data[-SUM_BYTES:]
        assert hashlib.sha256(database).digest() == digest
        state: State = {}
        last = b""
        with tempfile.TemporaryFile() as file:
            file.write(database)
            file.flush()
            reader = Reader(file, len(database))
            for last, record in reader.bucket(HISTORY):
                kv = decode(record)
                if is_tombstone(from_key(last)):
                    state.pop(kv.key, None)
                else:
                    state[kv.key] = kv
            revision = revision_of(reader, last)
        self._returned(call, revision, (len(state), [state[key] for key in sorted(state)]))

    def _sent(self, operation: Write) -> Call:
        call = Call(operation, self._life, self._clock())
        self._history.calls.append(call)
        return call

    def _returned(self, call: Call, revision: int, answer: object) -> None:
        call.returned, call.revision, call.answer = self._clock(), revision, answer

    # ---- what they ask --------------------------------------------------------------------------------------------

    def _operation(self) -> Put | DeleteRange | Txn:
        kind = self._rng.choices(("put", "delete", "cas", "txn"), (5, 1.5, 2, 2))[0]
        key = self._rng.choice(KEYS)
        if kind == "put":
            return self._put(key)
        if kind == "delete":
            return DeleteRange(*self._span(), prev_kv=self._rng.random() < 0.5)
        if kind == "cas":
            return Txn((self._compare(key),), (self._put(key),), (Range(key),))
        return self._txn()

    def _put(self, key: bytes) -> Put:
        value = b"%d." % next(self._numbers) + bytes(self._rng.choice(SIZES))
        lease = self._lease() if self._rng.random() < 0.2 else 0
        return Put(key, value, lease, prev_kv=self._rng.random() < 0.5)

    def _txn(self) -> Txn:
        """Several keys in one revision; a nested one now and then."""
        some = self._rng.sample(KEYS, 4)
        success: list[Op] = [self._put(some[0]), EVERYTHING, DeleteRange(some[1], prev_kv=True), self._put(some[2])]
        if self._rng.random() < 0.3:
            success.append(Txn((self._compare(some[3]),), (self._put(some[3]),), (EVERYTHING,)))
        return Txn((self._compare(some[3]),), tuple(success), (self._put(some[0]), Range(some[1])))

    def _compare(self, key: bytes) -> Compare:
        """One that holds about as often as not."""
        kv = None
        for seen in reversed(self._history.seen[-5:]):
            kv = kv or seen.puts.get(key)
        if kv is None:
            return Compare(key, CompareTarget.VERSION, CompareResult.GREATER, 0)
        kinds: list[tuple[int, int | bytes]] = [
            (CompareTarget.MOD, kv.mod_revision),
            (CompareTarget.CREATE, kv.create_revision),
            (CompareTarget.VERSION, kv.version),
            (CompareTarget.VALUE, kv.value),
        ]
        target, value = self._rng.choice(kinds)
        return Compare(key, target, self._rng.choice(list(CompareResult)), value)

    def _span(self) -> tuple[bytes, bytes]:
        return self._rng.choice([(self._rng.choice(KEYS), b""), (b"b/", b"b0"), (b"c", b"\0"), (b"\0", b"\0")])

    def _lease(self) -> int:
        known = [lease.id for lease in self._history.leases.values() if lease.returned < FOREVER][-5:]
        return self._rng.choice(known) if known else 0


async def check_kept(client: Client, history: History) -> None:
    """What was acknowledged before a server was killed is there after it."""
    clock = asyncio.get_running_loop().time
    leases = set((await client.leases()).leases)
    missing = set(history.leases_that_must_live(clock())) - leases
    assert not missing, f"acknowledged leases were lost: {missing}"
    if history.compacted > 1:
        try:
            await client.range(Range(b"a", revision=history.compacted - 1))
        except Compacted:
            return
        raise AssertionError(f"the compaction at {history.compacted} was acknowledged, and is not in force")


async def bounded(awaitable: Awaitable[T], seconds: float = 20.0) -> T:
    """The result, if it comes in time."""
    async with asyncio.timeout(seconds):
        return await awaitable
