"""Writers that go on whatever happens to the cluster, and the history of what they did, read back from it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from kvstore import api
from kvstore.errors import KvError
from tests.faults.judge import IllegalError
from tests.faults.truth import Truth

PREFIX = b"/load/things/"  # not what the controllers watch
LAST = PREFIX + b"z/last"
T = TypeVar("T")

KEYS_EACH = 8
PAUSE = 0.004  # seconds between writes: a load, not a benchmark of a shared machine
ANSWER_WITHIN = 1.0


class Writer:
    """Creates, updates and deletes objects under its own names, one at a time or several in a transaction.

    Every write is on condition that the object is as it was read, so one of which nobody knows whether it happened
    cannot be mistaken for another.
    """

    def __init__(self, client: api.Client, name: str, rng: random.Random) -> None:
        self._client = client
        self._rng = rng
        self._name = name
        self._keys = [PREFIX + f"{name}/{n}".encode() for n in range(KEYS_EACH)]
        self._known: dict[bytes, api.KeyValue] = {}
        self._uids = 0
        self.acknowledged: list[tuple[int, dict[bytes, bytes | None]]] = []
        self.undecided = 0

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    await self._write()
            except (KvError, TimeoutError):
                self.undecided += 1
                await self._look_again()
            await asyncio.sleep(PAUSE)

    async def _write(self) -> None:
        count = self._rng.randrange(2, 5) if self._rng.random() < 0.2 else 1
        changes = {key: self._next(key) for key in self._rng.sample(self._keys, count)}
        compare = [
            api.Compare(key, api.CompareTarget.MOD, api.CompareResult.EQUAL, self._revision(key)) for key in changes
        ]
        operations: list[api.Op] = [
            api.DeleteRange(key) if data is None else api.Put(key, data) for key, data in changes.items()
        ]
        answer = await self._client.txn(compare, operations)
        if not answer.succeeded:  # an earlier one, of which nobody knew
            await self._look_again()
            return
        revision = answer.header.revision
        self.acknowledged.append((revision, changes))
        for key, data in changes.items():
            if data is None:
                del self._known[key]
            else:
                self._known[key] = api.KeyValue(key, data, revision, revision, 1)

    def _next(self, key: bytes) -> bytes | None:
        known = self._known.get(key)
        if known is not None and self._rng.random() < 0.3:
            return None
        if known is not None:
            uid = msgspec.json.decode(known.value)["metadata"]["uid"]
        else:
            self._uids += 1
            uid = f"{self._name}-{self._uids}"
        return msgspec.json.encode({"metadata": {"uid": uid}, "n": self._rng.randrange(1000)})

    def _revision(self, key: bytes) -> int:
        known = self._known.get(key)
        return known.mod_revision if known is not None else 0

    async def _look_again(self) -> None:
        prefix = PREFIX + self._name.encode() + b"/"
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                found = await self._client.range(api.Range(prefix, api.prefix_end(prefix)))
        except (KvError, TimeoutError):
            return  # the next write will tell
        self._known = {kv.key: kv for kv in found.kvs}


class History:
    """What happened under the prefix, read back from the store before it is compacted."""

    def __init__(self, client: api.Client) -> None:
        self._client = client
        self.truth = Truth()
        self._compacted = 0
        self._marks = 0
        self._turn = asyncio.Lock()

    async def read(self) -> int:
        """Read what is new, up to a write of its own; the revision of that."""
        async with self._turn:
            revision = await again(self._mark)
            events = await again(lambda: self._since(self.truth.last + 1, revision))
            for number, changes in events:
                self.truth.record(number, changes)
            return revision

    async def compact(self, keep: int) -> None:
        """Forget all but the last `keep` revisions, of which the history was read first."""
        revision = await self.read() - keep
        if revision <= self._compacted:
            return
        async with asyncio.timeout(ANSWER_WITHIN):
            try:
                await self._client.compact(revision)
            except KvError:
                return  # in a fault; the next one will be
            self._compacted = revision

    def check_kept(self, writers: Sequence[Writer]) -> Counter[str]:
        """Every write that was acknowledged is in the history; counts those since the last time."""
        counts: Counter[str] = Counter()
        for writer in writers:
            for revision, changes in writer.acknowledged:
                for key, data in changes.items():
                    if self.truth.data(key[len(PREFIX) :].decode(), revision) != data:
                        raise IllegalError(f"a write of {key!r}, acknowledged at {revision}, is lost")
            counts.update(writes=len(writer.acknowledged), undecided=writer.undecided)
            writer.acknowledged.clear()
            writer.undecided = 0
        return counts

    async def _mark(self) -> int:
        self._marks += 1
        answer = await self._client.put(LAST, msgspec.json.encode({"metadata": {"uid": "last"}, "n": self._marks}))
        return answer.header.revision

    async def _since(self, first: int, last: int) -> list[tuple[int, list[tuple[str, bytes | None]]]]:
        found: list[tuple[int, list[tuple[str, bytes | None]]]] = []
        async with self._client.watch(PREFIX, api.prefix_end(PREFIX), start_revision=first) as watch:
            async for response in watch:
                for event in response.events:
                    kv = event.kv
                    data = None if event.type is api.EventType.DELETE else kv.value
                    if kv.mod_revision > last:
                        return found
                    if not found or found[-1][0] != kv.mod_revision:
                        found.append((kv.mod_revision, []))
                    found[-1][1].append((kv.key[len(PREFIX) :].decode(), data))
                if response.events and response.events[-1].kv.mod_revision >= last:
                    return found
        raise AssertionError("the watch does not end by itself")


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call, as often as the cluster needs."""
    while True:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await call()
        except (KvError, TimeoutError):
            await asyncio.sleep(0.05)
