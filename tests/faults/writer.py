"""Random writes under a prefix, as users of objects make them, and the truth about them."""

from __future__ import annotations

import asyncio
import random

import msgspec

from kvstore import api
from tests.faults.truth import Truth, uid_of

PREFIX = b"/registry/core/pods/"
NAMES = [f"{namespace}/{n}" for namespace in "ab" for n in range(5)]
LAST = "a/last"
LARGE = 50_000  # bytes: more than one HTTP/2 frame
ELSEWHERE = b"/elsewhere"


class Writer:
    """Creates, updates, deletes, makes anew under the same key, and does several of that in one transaction.

    It is the only one who writes under the prefix; `truth` is the history that it made.
    """

    def __init__(self, store: api.Client, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self.truth = Truth()
        self.revision = 0  # of the store, after the last write
        self._turn = asyncio.Lock()
        self._uids = 0
        self._there: dict[str, bytes] = {}

    async def write(self, count: int) -> int:
        """So many random changes, and one that says that they are over; the revision of that."""
        for _ in range(count):
            async with self._turn:
                await self._one()
        async with self._turn:
            await self._put(LAST)
            return self.revision

    async def clear(self) -> int:
        """Delete everything."""
        async with self._turn:
            await self._commit(dict.fromkeys(self._there))
            return self.revision

    async def delete_one(self) -> None:
        """Delete an object, if there is one."""
        async with self._turn:
            if self._there:
                await self._commit({self._rng.choice([*self._there]): None})

    async def elsewhere(self) -> int:
        """A write outside the prefix."""
        answer = await self._store.put(ELSEWHERE, b"")
        self.revision = max(self.revision, answer.header.revision)
        return answer.header.revision

    async def _one(self) -> None:
        rng = self._rng
        name = rng.choice(NAMES)
        what = rng.random()
        if what < 0.1:
            await self._commit({each: self._any(each) for each in rng.sample(NAMES, rng.randrange(2, 5))})
        elif what < 0.12:
            await self.elsewhere()
        elif name not in self._there or what < 0.65:
            await self._put(name)
        else:
            await self._commit({name: None})
            if what < 0.85:
                await self._put(name)

    def _any(self, name: str) -> bytes | None:
        return None if name in self._there and self._rng.random() < 0.5 else self._object(name)

    async def _put(self, name: str) -> None:
        await self._commit({name: self._object(name)})

    def _object(self, name: str) -> bytes:
        """The next state of the object; a new one if there is none."""
        rng = self._rng
        before = self._there.get(name)
        if before is not None and rng.random() < 0.05:
            return before  # the same bytes once more: a new revision all the same
        if before is None:
            self._uids += 1
        uid = uid_of(before) if before is not None else f"{name}-{self._uids}"
        namespace, _, short = name.partition("/")
        padding = "x" * rng.randrange(LARGE) if rng.random() < 0.02 else ""
        return msgspec.json.encode(
            {"metadata": {"name": short, "namespace": namespace, "uid": uid}, "n": rng.randrange(1000), "pad": padding}
        )

    async def _commit(self, changes: dict[str, bytes | None]) -> None:
        if not changes:
            return
        operations: list[api.Op] = []
        for name, data in changes.items():
            key = PREFIX + name.encode()
            operations.append(api.DeleteRange(key) if data is None else api.Put(key, data))
        answer = await self._store.txn(success=operations)
        self.revision = answer.header.revision
        self.truth.record(self.revision, changes.items())
        for name, data in changes.items():
            if data is None:
                del self._there[name]
            else:
                self._there[name] = data
