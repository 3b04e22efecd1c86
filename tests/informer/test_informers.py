"""Who shares an informer with whom, and what is left when the last user has gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import structlog

from informer.cache import InformerStopped, Stored
from informer.client import ObjectClient
from informer.errors import Invalid
from informer.informers import Informers
from informer.listwatch import Batch, ListPage, StoreListWatch
from informer.reflector import State
from informer.resources import Resource, Scheme
from informer.transforms import drop_fields, drop_managed_fields
from kvstore.client.embedded import EmbeddedClient
from tests.informer.recorder import Recorder

HERE = Scheme()


class Book(Resource, group="example.com", version="v1", scheme=HERE):
    class Spec:
        title: str = ""


class Shelf(Resource, group="example.com", version="v1", namespaced=False, scheme=HERE): ...


class CountedListWatch:
    """The real thing, counting the watches that are open."""

    open = 0

    def __init__(self, *args: Any) -> None:
        self._inner = StoreListWatch(*args)

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        return await self._inner.list(limit=limit, continue_=continue_)

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self._inner.watch(revision) as batches:
            CountedListWatch.open += 1
            try:
                yield batches
            finally:
                CountedListWatch.open -= 1


def other_tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


@pytest.fixture
async def objects(client: EmbeddedClient) -> ObjectClient:
    objects = ObjectClient(client, rng=random.Random(1))
    for n in range(4):
        labels = {"shelf": str(n % 2)}
        await objects.create(Book(name=f"b{n}", namespace="ab"[n // 2], labels=labels, spec={"title": f"Volume {n}"}))
    return objects


@pytest.fixture
async def informers(client: EmbeddedClient) -> AsyncIterator[Informers]:
    CountedListWatch.open = 0
    before = other_tasks()
    async with Informers(client, list_watch=CountedListWatch, rng=random.Random(1)) as informers:
        yield informers
    assert other_tasks() == before
    assert CountedListWatch.open == 0


async def test_users_of_the_same_objects_share_an_informer(objects: ObjectClient, informers: Informers) -> None:
    everything = informers.acquire(Book)
    assert informers.acquire(Book, "", selector="") is everything
    in_a = informers.acquire(Book, "a")
    assert informers.acquire(Book, "a") is in_a
    selected = informers.acquire(Book, selector="shelf=1")
    assert informers.acquire(Book, selector={"matchLabels": {"shelf": "1"}}) is selected
    both = informers.acquire(Book, "a", selector="shelf in (1)")
    lean = informers.acquire(Book, transform=drop_managed_fields)
    assert informers.acquire(Book, transform=drop_managed_fields) is lean
    other = informers.acquire(Book, transform=drop_fields("metadata.managedFields"))
    assert list(informers.statistics()) == [
        "books.example.com",
        "books.example.com -n a",
        "books.example.com -l shelf=1",
        "books.example.com -n a -l shelf=1",
        "books.example.com | drop_fields(metadata.managedFields)",
        "books.example.com | drop_fields(metadata.managedFields) #2",
    ]
    found = {}
    for informer in (everything, in_a, selected, both, lean, other):
        await informer.wait_synced()
        found[informer.name] = [stored.name for stored in informer.cache.list()]
    assert list(found.values()) == [
        ["b0", "b1", "b2", "b3"],
        ["b0", "b1"],
        ["b1", "b3"],
        ["b1"],
        ["b0", "b1", "b2", "b3"],
        ["b0", "b1", "b2", "b3"],
    ]
    assert informers.users(everything) == informers.users(in_a) == 2
    with pytest.raises(Invalid):
        informers.acquire(Book, selector="shelf in 1")
    with pytest.raises(ValueError, match="no namespace"):
        informers.acquire(Shelf, "a")


async def test_an_informer_is_gone_with_its_last_user(objects: ObjectClient, informers: Informers) -> None:
    before = asyncio.all_tasks()
    first = informers.acquire(Book)
    registration = first.add_handler(Recorder(), resync=1000)
    await registration.wait_synced()
    async with informers.use(Book) as second:
        assert second is first
        assert second.cache.get("a/b0") is not None
    assert first.statistics().reflector.state is State.WATCHING
    while not CountedListWatch.open:
        await asyncio.sleep(0)
    await informers.release(first)
    assert asyncio.all_tasks() == before
    assert CountedListWatch.open == 0
    assert informers.statistics() == {}
    assert first.state is State.STOPPED
    assert informers.find(Book.TYPE) is None
    with pytest.raises(ValueError, match="no user"):
        await informers.release(first)
    with pytest.raises(InformerStopped):
        first.add_handler(Recorder())
    async with informers.use(Book) as again:
        assert again is not first
        assert len(again.cache) == 4


async def test_the_store_is_rid_of_the_watch_as_well(client: EmbeddedClient, objects: ObjectClient) -> None:
    def watchers() -> int:
        watch = client._node.statistics().watch
        return watch.synced + watch.unsynced + watch.victims

    async with Informers(client) as informers:
        first, second = informers.acquire(Book), informers.acquire(Book, "a", selector="shelf=1")
        await first.wait_synced()
        await second.wait_synced()
        assert watchers() == 2
        await informers.release(first)
        assert watchers() == 1
    assert watchers() == 0


async def test_one_may_come_while_the_last_one_leaves(objects: ObjectClient, informers: Informers) -> None:
    first = informers.acquire(Book)
    await first.wait_synced()
    leaving = asyncio.create_task(informers.release(first))
    await asyncio.sleep(0)
    second = informers.acquire(Book)
    assert second is not first
    await leaving
    await second.wait_synced()
    await informers.release(second)


async def test_closing_releases_everyone_who_waits(client: EmbeddedClient) -> None:
    informers = Informers(client)
    informer = informers.acquire(Book)
    waiting = asyncio.create_task(informer.cache.wait_for("1000"))
    await informer.wait_synced()
    await informers.close()
    with pytest.raises(InformerStopped):
        await waiting
    with pytest.raises(InformerStopped):
        informers.acquire(Book)
    await informers.release(informer)
    await informers.close()


class BrokenListWatch:
    def __init__(self, *args: Any) -> None: ...

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        raise LookupError("a bug")

    def watch(self, revision: str) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        raise NotImplementedError


async def test_an_informer_that_fails_is_reported_and_can_be_had_again(client: EmbeddedClient) -> None:
    told: list[str] = []
    async with Informers(
        client, list_watch=BrokenListWatch, on_failure=lambda informer, error: told.append(informer.name)
    ) as informers:
        first = informers.acquire(Book)
        with pytest.raises(InformerStopped):
            await first.wait_synced()
        assert informers.acquire(Book) is not first
        while not told:
            await asyncio.sleep(0)
        assert set(told) == {"books.example.com"}
        await informers.release(first)
    silent = Informers(client, list_watch=BrokenListWatch)
    informer = silent.acquire(Book)
    with pytest.raises(InformerStopped):
        await informer.wait_synced()
    with pytest.raises(ExceptionGroup) as caught:
        await silent.close()
    assert caught.group_contains(LookupError)


@pytest.mark.virtual_time
async def test_what_they_do_is_logged_at_intervals(objects: ObjectClient, informers: Informers) -> None:
    class Slow(Recorder):
        async def on_add(self, new: Stored, initial: bool) -> None:  # type: ignore[override]
            await asyncio.sleep(100)

    informers.acquire(Book, "a").add_handler(Slow())
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(informers.log_statistics(60))
        await asyncio.sleep(90)
        task.cancel()
        await asyncio.wait([task])
    entries = [entry for entry in logs if entry["event"] == "informer"]
    assert len(entries) == 2
    expected = {"informer": "books.example.com -n a", "state": "watching", "objects": 2, "revision": "5", "lag": 0.0}
    assert entries[1].items() >= {**expected, "pending": 1, "oldest": 60.0, "relists": 0, "resumes": 0}.items()
