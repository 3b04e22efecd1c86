"""What locks and elections share, as etcd's client does it: whoever's key under a prefix is the oldest has the turn.

A key is `NAME/LEASE` with the lease in hexadecimal: it goes when the lease ends, and with it the turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

import structlog

from kvstore.api import (
    Compare,
    CompareResult,
    CompareTarget,
    EventType,
    Op,
    Range,
    SortOrder,
    SortTarget,
    Txn,
    prefix_end,
)
from kvstore.errors import KvError, Unavailable
from kvstore.event import StoredEvent
from kvstore.node import Node
from kvstore.record import key_of
from kvstore.store import TxnResult

SESSION_TTL = 60  # seconds; etcd: of the lease made for a caller that names none

log = structlog.get_logger("kvstore")


@contextmanager
def as_unknown() -> Iterator[None]:
    """Give errors the status that etcd's have, whose services reach the store through a client: all are Unknown."""
    try:
        yield
    except Unavailable:
        raise
    except KvError as error:
        raise KvError(error.message) from error


def prefix_of(name: bytes) -> bytes:
    """Where the keys of a lock or an election are."""
    return name + b"/"


def key_for(name: bytes, lease: int) -> bytes:
    """The key that a lease has in a lock or an election."""
    return prefix_of(name) + f"{lease:x}".encode()


def oldest(name: bytes) -> Range:
    """Reads the key that has the turn."""
    prefix = prefix_of(name)
    return Range(prefix, prefix_end(prefix), limit=1, sort_order=SortOrder.ASCEND, sort_target=SortTarget.CREATE)


async def session(node: Node, lease: int) -> int:
    """The lease to use: the one given, or else a new one, which nobody renews. Raises NoSpace."""
    return lease or (await node.lease_grant(SESSION_TTL))[0]


async def if_created_at(
    node: Node, key: bytes, revision: int, then: tuple[Op, ...], other: tuple[Op, ...] = ()
) -> TxnResult:
    """Do `then` if the key was created at the revision (0 = it is not there), else `other`."""
    condition = Compare(key, CompareTarget.CREATE, CompareResult.EQUAL, revision)
    return await node.txn(Txn((condition,), then, other))


async def wait_for_turn(node: Node, name: bytes, created: int) -> None:
    """Return when no key of the prefix is older than the one created at that revision."""
    prefix = prefix_of(name)
    newest_before = Range(
        prefix,
        prefix_end(prefix),
        limit=1,
        sort_order=SortOrder.DESCEND,
        sort_target=SortTarget.CREATE,
        max_create_revision=created - 1,
    )
    while (before := node.range(newest_before)).rows:
        key = key_of(before.rows[0])
        async with aclosing(changes(node, key, b"", before.revision)) as events:
            async for event in events:
                if event.type == EventType.DELETE:
                    break


async def changes(node: Node, key: bytes, range_end: bytes, revision: int) -> AsyncGenerator[StoredEvent, None]:
    """What happens to [key, range_end) from a revision on. Raises KvError if the watch is refused or ends."""
    stream = node.watch_stream()
    try:
        stream.create(key=key, range_end=range_end, start_revision=revision)
        while True:
            response = await stream.next()
            if response.canceled:
                raise KvError(response.cancel_reason)
            for event in response.events:
                yield event
    finally:
        stream.close()


class Withdrawals:
    """Deletions that go on when the call they belong to is cancelled: a waiter that has gone must not get the turn."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[TxnResult]] = set()

    async def withdraw(self, key: bytes, created: int, delete: Op) -> None:
        """Delete the key if it is still the one created at that revision."""
        task = asyncio.create_task(if_created_at(self._node, key, created, (delete,)), name="kvstore withdraw")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        await asyncio.shield(task)

    def _done(self, task: asyncio.Task[TxnResult]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("key_left_to_its_lease", error=str(error))
