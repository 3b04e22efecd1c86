"""Reads from caches that are never older than what the client wrote or came upon."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from informer.cached_client import CachedClient
from informer.client import ObjectClient
from informer.errors import Conflict, NotFound, Unreachable
from informer.informers import Informers
from informer.listwatch import StoreListWatch
from informer.shared import Handler
from kvstore.client.embedded import EmbeddedClient
from kvstore.client.remote import RemoteClient
from tests.etcd_process import running_etcd
from tests.informer.faulty import FaultyListWatch
from tests.informer.test_informers import Book, Shelf

virtual_time = pytest.mark.virtual_time


class Sources:
    """Makes list-watches that a test can hold back, and remembers them."""

    def __init__(self) -> None:
        self.made: list[FaultyListWatch] = []

    def __call__(self, *args: Any) -> FaultyListWatch:
        self.made.append(FaultyListWatch(StoreListWatch(*args)))
        return self.made[-1]

    async def cut(self, source: int = 0) -> None:
        """Hold events back until `connected` is set."""
        while self.made[source]._cut is None:
            await asyncio.sleep(0.01)
        self.made[source].cut(Unreachable("cut"), stay_away=True)
        await asyncio.sleep(0.01)


@pytest.fixture
def sources() -> Sources:
    return Sources()


@pytest.fixture
async def informers(client: EmbeddedClient, sources: Sources) -> AsyncIterator[Informers]:
    async with Informers(client, list_watch=sources, rng=random.Random(1)) as informers:
        yield informers


@pytest.fixture
def cached(client: EmbeddedClient, informers: Informers) -> CachedClient:
    return CachedClient(client, informers, rng=random.Random(1), wait=5)


@pytest.fixture
def live(client: EmbeddedClient) -> ObjectClient:
    return ObjectClient(client, rng=random.Random(2))


@virtual_time
async def test_reads_wait_for_the_clients_own_writes(
    cached: CachedClient, live: ObjectClient, informers: Informers, sources: Sources
) -> None:
    async with informers.use(Book):
        await sources.cut()
        source = sources.made[0]

        async def soon() -> None:
            await asyncio.sleep(1)
            source.connected.set()

        await live.create(Book(name="other", namespace="b"))
        with pytest.raises(NotFound):
            await cached.get(Book, "other", "b")  # the cache knows nothing of it yet
        made = await cached.create(Book(name="x", namespace="a"))
        opening = asyncio.create_task(soon())
        assert (await cached.get(Book, "x", "a")).raw == made.raw
        await opening
        assert [book.name for book in await cached.list(Book)] == ["x", "other"]

        await sources.cut()
        made.spec.title = "new"
        await cached.update(made)
        opening = asyncio.create_task(soon())
        assert [book.spec.title for book in await cached.list(Book, "a")] == ["new"]
        await opening

        await sources.cut()
        await cached.delete(Book, "x", "a")
        with pytest.raises(NotFound):  # not of this namespace: there is nothing to wait for
            await cached.get(Book, "y", "b")
        opening = asyncio.create_task(soon())
        with pytest.raises(NotFound):
            await cached.get(Book, "x", "a")
        await opening


@virtual_time
async def test_a_conflict_is_not_answered_with_what_caused_it(
    cached: CachedClient, live: ObjectClient, informers: Informers, sources: Sources
) -> None:
    made = await live.create(Book(name="x", namespace="a"))
    async with informers.use(Book):
        await sources.cut()
        made.spec.title = "theirs"
        await live.update(made)
        stale = await cached.get(Book, "x", "a")
        with pytest.raises(Conflict):
            await cached.update(stale)
        reading = asyncio.create_task(cached.get(Book, "x", "a"))
        await asyncio.sleep(1)
        assert not reading.done()
        sources.made[0].connected.set()
        fresh = await reading
        assert fresh.spec.title == "theirs"
        await cached.update(fresh)


@virtual_time
async def test_a_read_gives_up_in_the_end(cached: CachedClient, informers: Informers, sources: Sources) -> None:
    async with informers.use(Book):
        await sources.cut()
        await cached.create(Book(name="x", namespace="a"))
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable, match=r"books.example.com is at revision 1 after 5 s, 2 is needed"):
            await cached.list(Book)
        assert asyncio.get_running_loop().time() - began == pytest.approx(5)
        assert (await cached.get(Book, "x", "a", revision="2")).name == "x"


@virtual_time
async def test_what_no_informer_has_is_read_from_the_store(
    cached: CachedClient, live: ObjectClient, informers: Informers
) -> None:
    await live.create(Book(name="x", namespace="a", labels={"new": "yes"}))
    await live.create(Shelf(name="s"))
    assert [book.name for book in await cached.list(Book, selector="new=yes")] == ["x"]
    assert informers.statistics() == {}
    async with informers.use(Book, selector="new=no"), informers.use(Book, "b"), informers.use(Shelf):
        assert (await cached.get(Book, "x", "a")).name == "x"
        assert len(await cached.list(Book)) == 1
        assert len(await cached.list(Book, "b")) == 0
        written = await cached.create(Book(name="y", namespace="b"))
        assert (await cached.get(Book, "y", "b")).raw == written.raw
        assert (await cached.get(Shelf, "s")).name == "s"
        assert [shelf.name for shelf in await cached.list(Shelf)] == ["s"]


@virtual_time
async def test_lists_are_in_key_order_and_each_reader_has_its_own(
    cached: CachedClient, live: ObjectClient, informers: Informers
) -> None:
    async with informers.use(Book):
        for name, namespace in (("z", "b"), ("a", "b"), ("m", "a"), ("n", "b-c")):
            await cached.create(Book(name=name, namespace=namespace, labels={"app": name}))
        found, stored = await cached.list(Book), await live.list(Book)
        assert [each.raw for each in found] == [each.raw for each in stored]
        assert found.revision == stored.revision
        found.items[0].spec.title = "mine"
        assert (await cached.list(Book)).items[0].spec.title == ""
        assert [each.name for each in await cached.list(Book, "b", "app in (a, m)")] == ["a"]


async def test_every_write_shows_at_once_on_a_real_etcd(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as endpoint:
        async with RemoteClient([endpoint]) as client, Informers(client) as informers, informers.use(Book) as informer:
            registration = informer.add_handler(Handler())

            async def write(namespace: str) -> None:
                objects = CachedClient(client, informers)
                for n in range(20):
                    book = await objects.create(Book(name="x", namespace=namespace))
                    for title in ("one", "two"):
                        book.spec.title = f"{title} {n}"
                        book = await objects.update(book)
                        assert (await objects.get(Book, "x", namespace)).raw == book.raw
                    assert [each.raw for each in await objects.list(Book, namespace)] == [book.raw]
                    await objects.delete(Book, "x", namespace)
                    with pytest.raises(NotFound):
                        await objects.get(Book, "x", namespace)

            async with asyncio.TaskGroup() as writers:
                for namespace in "abcd":
                    writers.create_task(write(namespace))
            assert registration.statistics().coalesced == 0
            assert informer.cache.statistics().objects == 0
