"""The store as it was: which revisions can be read, what was there at one of them, and every change in between."""

from __future__ import annotations

import asyncio
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
    """Which revisions can be read: a watch from the first one is told of the last compaction. Raises KvErrors."""
    present = (await client.range(Range(OBJECTS, count_only=True))).header.revision
    try:
        async for _ in changes(client, OBJECTS, b"", 1, present):
            continue
    except Compacted as error:
        return Bounds(max(error.compact_revision, 1), max(present, error.compact_revision))
    return Bounds(1, present)


async def changes(client: Client, key: bytes, range_end: bytes, first: int, last: int) -> AsyncGenerator[Event, None]:
    """Every change of the revisions `first` to `last` on the keys, in order, a response of the watch at a time.

    Raises Compacted if `first` is compacted away, also while it runs; TimedOut when the store falls silent.
    """
    if first > last:
        return
    loop = asyncio.get_running_loop()
    async with client.watch(key, range_end, start_revision=first) as watch:
        await watch.request_progress()
        heard = loop.time()
        while True:
            try:
                async with asyncio.timeout(ASK_AGAIN):
                    response = await anext(watch)
            except TimeoutError:
                if loop.time() - heard > SILENCE:
                    raise TimedOut from None
                await watch.request_progress()
                continue
            heard = loop.time()
            for event in response.events:
                if event.kv.mod_revision > last:
                    return
                yield event
            if not response.events and response.header.revision >= last:
                return


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
    which = f"revisions {bounds.oldest} to {bounds.present} can be read"
    for revision in revisions:
        if revision < bounds.oldest:
            return CliError(f"revision {revision} is compacted away: {which}")
        if revision > bounds.present:
            return CliError(f"revision {revision} is not there yet: {which}")
    return None
