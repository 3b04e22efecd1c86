"""The store as it was: which revisions can be read, what was there at one of them, and every change in between."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from controllers.cli.errors import CliError
from controllers.cli.kinds import Kinds
from controllers.cli.session import Session
from informer.client import DEFAULT_NAMESPACE
from informer.crd import CustomResourceDefinition
from informer.errors import ApiError, Expired, UnknownKind, from_store
from informer.resources import Resource
from kvstore.api import Client, Event, EventType, KeyValue, Range, prefix_end
from kvstore.errors import Compacted, FutureRevision, KvError, TimedOut

R = TypeVar("R", bound=Resource)

OBJECTS = b"/registry/"  # what the keys of all objects begin with
PAGE = 500  # client-go's pager
KEYS_PAGE = 10_000  # of keys alone; a server counts the whole range for every page
ASK_AGAIN = 0.2  # seconds; etcd does not answer a request for progress as long as a watch is behind
SILENCE = 10.0  # seconds without any answer
TRIES = 3  # a compaction may come between learning of the last one and reading


@dataclass(frozen=True, slots=True)
class Bounds:
    """The revisions that can be read, both included."""

    oldest: int
    present: int

    @property
    def compacted(self) -> bool:
        """Whether something before them is gone."""
        return self.oldest > 1


async def readable(client: Client) -> Bounds:
    """Which revisions can be read. Raises KvErrors."""
    present = (await client.range(Range(OBJECTS, count_only=True))).header.revision
    try:
        await client.range(Range(OBJECTS, count_only=True, revision=1))
    except Compacted as error:
        oldest = error.compact_revision or await _compacted(client)
        return Bounds(oldest, max(present, oldest))
    return Bounds(1, present)


async def _compacted(client: Client) -> int:
    """The revision of the last compaction: a read that comes too late is not told of it, a watch is."""
    try:
        async with asyncio.timeout(SILENCE), client.watch(OBJECTS, start_revision=1) as watch:
            async for _ in watch:
                continue
    except TimeoutError:
        raise TimedOut from None
    except Compacted as error:
        return error.compact_revision
    raise AssertionError("a watch ends by an error only")


async def changes(
    client: Client, key: bytes, range_end: bytes, first: int, last: int, *, prev_kv: bool = False
) -> AsyncGenerator[Event, None]:
    """Every change of the revisions `first` to `last` on the keys, in order; a response of the watch is in memory.

    prev_kv: each with what was there before.
    Raises Compacted if `first` is compacted away, also while it runs; TimedOut when the store falls silent.
    """
    there = None if range_end else await client.get(key, revision=last)
    if there is not None:
        last = there.mod_revision  # nothing comes after it: the end is known
    if first > last:
        return
    asks = there is None and await _answers_progress(client)
    # Every revision changes some key: who watches all of them sees the end too, and needs nothing but the events.
    watched, end = (key, range_end) if there is not None or asks else (b"\0", b"\0")
    loop = asyncio.get_running_loop()
    async with client.watch(watched, end, start_revision=first, prev_kv=prev_kv) as watch:
        heard = loop.time()
        while True:
            if asks:
                await watch.request_progress()
            try:
                async with asyncio.timeout(ASK_AGAIN):
                    response = await anext(watch)
            except TimeoutError:
                if loop.time() - heard > SILENCE:
                    raise TimedOut from None
                continue
            heard = loop.time()
            for event in response.events:
                if event.kv.mod_revision <= last and _within(event.kv.key, key, range_end):
                    yield event
            reached = response.events[-1].kv.mod_revision if response.events else response.header.revision
            if reached >= last and (response.events or asks):
                return


def _within(each: bytes, key: bytes, range_end: bytes) -> bool:
    if not range_end:
        return each == key
    return each >= key and (range_end == b"\0" or each < range_end)


async def _answers_progress(client: Client) -> bool:
    """Whether the answer to a request for progress means that the events before it were sent.

    Before 3.4.25 and 3.5.8 an etcd answered at once, however far behind the watch was.
    """
    version = (await client.status()).version
    numbers = [int(part) for part in re.findall(r"[0-9]+", version)[:3]]
    return numbers >= [3, 5, 8] or [3, 4, 25] <= numbers < [3, 5]


async def rows(
    client: Client, key: bytes, range_end: bytes, revision: int, *, keys_only: bool = False
) -> AsyncGenerator[KeyValue, None]:
    """What was in a range at a revision, in key order: pages, all of that one revision."""
    limit = KEYS_PAGE if keys_only else PAGE
    while True:
        page = await client.range(Range(key, range_end, limit=limit, revision=revision, keys_only=keys_only))
        for each in page.kvs:
            yield each
        if not page.more or not page.kvs:
            return
        key = page.kvs[-1].key + b"\0"


async def objects_at(client: Client, cls: type[R], namespace: str | None, revision: int) -> AsyncGenerator[R, None]:
    """The objects of a kind as they were at a revision, in key order. Raises `Expired`."""
    prefix = cls.TYPE.prefix(namespace)
    try:
        async for each in rows(client, prefix, prefix_end(prefix), revision):
            yield cls.decode(each.value, str(each.mod_revision))
    except KvError as error:
        raise from_store(error) from error


async def definitions_at(client: Client, revision: int) -> list[CustomResourceDefinition]:
    """What defined the kinds of a revision. Raises `Expired`."""
    return [each async for each in objects_at(client, CustomResourceDefinition, None, revision)]


async def find_kind(session: Session, name: str) -> type[Resource]:
    """A kind by the names that kubectl takes, also one whose definition is gone by now. Raises `UnknownKind`."""
    try:
        return session.kinds.lookup(name)
    except UnknownKind as unknown:
        prefix = CustomResourceDefinition.TYPE.prefix()
        bounds = await readable(session.client)
        kinds = Kinds.of(await definitions_at(session.client, bounds.oldest))
        later = changes(session.client, prefix, prefix_end(prefix), bounds.oldest + 1, bounds.present)
        async for event in later:
            if event.type == EventType.PUT:
                kinds.try_define(CustomResourceDefinition.decode(event.kv.value, str(event.kv.mod_revision)))
        try:
            return kinds.lookup(name)
        except UnknownKind:
            raise unknown from None


def object_key(cls: type[Resource], namespace: str | None, name: str) -> bytes:
    """The store key of an object; one that is given no namespace is meant to be in `default`."""
    return cls.TYPE.key(namespace or DEFAULT_NAMESPACE, name)


@asynccontextmanager
async def telling(client: Client, *revisions: int) -> AsyncIterator[None]:
    """Where a revision cannot be read, the error says which ones can be. Raises `CliError` for that."""
    try:
        yield
    except (Expired, Compacted, FutureRevision) as error:
        raise await _unreadable(client, revisions) or error from None
    except ApiError as error:
        if isinstance(error.__cause__, FutureRevision) and (told := await _unreadable(client, revisions)):
            raise told from None
        raise


async def _unreadable(client: Client, revisions: tuple[int, ...]) -> CliError | None:
    bounds = await readable(client)
    problems = filter(None, (unreadable(revision, bounds) for revision in revisions))
    return next(map(CliError, problems), None)


def unreadable(revision: int, bounds: Bounds) -> str | None:
    """Why a revision cannot be read, and which ones can be; None if it can."""
    which = f"revisions {bounds.oldest} to {bounds.present} can be read"
    if revision < bounds.oldest:
        return f"revision {revision} is compacted away: {which}"
    if revision > bounds.present:
        return f"revision {revision} is not there yet: {which}"
    return None
