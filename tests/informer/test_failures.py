"""How watch layers fail, and that this one does not: each test is named after a failure that others have shown.

Failures that have their test elsewhere are in the table of docs/informer.md.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from informer.cache import Cache, Stored
from informer.errors import ApiError, Expired, Unreachable
from informer.listwatch import Batch, Bookmark, Item, ListPage, Removed, StoreListWatch
from informer.reflector import Backoff, Reason, Reflector, State
from informer.shared import Handler, SharedInformer
from kvstore import api
from kvstore.client.embedded import EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.node import Node, NodeOptions
from kvstore.server.edge import Server
from tests.etcd_process import free_port
from tests.informer.recorder import Recorder, Transitions
from tests.informer.rig import PREFIX, Setup
from tests.virtual_time import VirtualTimeLoop

LOST = Unreachable("connection reset")


@pytest.fixture
def setup(client: EmbeddedClient) -> Setup:
    return Setup(client)


async def relist(setup: Setup) -> None:
    """Cut the watch, and compact what it would resume from."""
    before = setup.transitions.states.count(State.RESUMING)
    setup.source.cut(LOST, stay_away=True)
    await setup.transitions.until(State.RESUMING, times=before + 1)
    await setup.client.put(b"/elsewhere", b"1")
    response = await setup.client.put(b"/elsewhere", b"2")
    await setup.client.compact(response.header.revision)
    setup.source.connected.set()


async def test_objects_that_look_like_something_else(setup: Setup) -> None:
    """A custom object was taken for a list because it had a member called items."""
    odd = {"a/items": b'{"items": {"metadata": 1}}', "a/kind": b'{"kind": "Status", "code": 410}', "a/none": b"null"}
    for name, data in odd.items():
        revision = await setup.put(name, data)
    async with setup.informer:
        await setup.caught_up(revision)
        for name in odd:
            revision = await setup.put(name, odd[name] + b" ")
        await setup.caught_up(revision)
        assert {stored.key for stored in setup.informer.cache.list()} == set(odd)
        assert setup.transitions.states == [State.WATCHING]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[1", b'{"metadata": []}', b'{"metadata": {"uid": 5}}'])
async def test_an_object_that_cannot_be_decoded_ends_the_stream(setup: Setup, data: bytes) -> None:
    async with setup.informer:
        await setup.caught_up(await setup.put("a/broken", data))
        await setup.caught_up(await setup.put("a/after"))
        assert setup.transitions.states == [State.WATCHING]
        assert setup.informer.cache.statistics().undecodable == 1


async def test_a_relist_tells_of_every_object(setup: Setup) -> None:
    """... as changed, whether it is or not."""
    for n in range(20):
        await setup.put(f"a/{n}")
    async with setup.informer:
        await setup.caught_up(await setup.put("a/changed", b"1"))
        del setup.recorder.seen[:]
        await relist(setup)
        await setup.transitions.until(State.RELISTING)
        await setup.caught_up(await setup.put("a/changed", b"2"))
        assert [(what, key) for what, key, _ in setup.recorder.seen] == [("update", "a/changed")]


async def test_a_delete_is_told_before_the_cache_has_changed(setup: Setup) -> None:
    found: list[Stored | None] = []

    class Looks(Handler):
        def on_delete(self, old: Stored, final_state_known: bool) -> None:
            found.append(setup.informer.cache.get(old.key))

    setup.informer.add_handler(Looks())
    for name in ("a/1", "a/2", "a/3"):
        await setup.put(name)
    async with setup.informer:
        await setup.caught_up(await setup.put("a/last"))
        await setup.delete("a/1")
        await setup.caught_up(await setup.put("a/last", b"2"))
        setup.source.cut(LOST, stay_away=True)
        await setup.transitions.until(State.RESUMING)
        await setup.delete("a/2")
        await setup.client.compact(await setup.delete("a/3"))
        await setup.client.compact(await setup.put("a/last", b"3"))
        setup.source.connected.set()
        await setup.transitions.until(State.RELISTING)
        await setup.caught_up(await setup.put("a/last", b"4"))
    assert found == [None, None, None]


async def test_resuming_from_the_newest_item_replays_history(setup: Setup) -> None:
    """The revision to watch from is the list's. An item's may be a month old."""
    await setup.put("a/old")
    for n in range(50):
        await setup.put("a/gone", b"%d" % n)
    head = await setup.delete("a/gone")
    async with setup.informer:
        await setup.registration.wait_synced()
        await setup.transitions.until(State.WATCHING)
        await setup.caught_up(await setup.put("a/new"))
        assert setup.source.watches == [str(head)]
        assert setup.informer.statistics().reflector.events == 1


async def test_an_error_of_the_store_reaches_the_handlers(setup: Setup) -> None:
    async with setup.informer:
        await setup.caught_up(await setup.put("a/1"))
        for error in (LOST, ApiError("permission denied"), Expired("gone"), None):
            setup.source.cut(error)
            await setup.caught_up(await setup.put("a/1", repr(error).encode()))
            await setup.transitions.until(State.WATCHING, times=setup.transitions.states.count(State.WATCHING))
        assert [what for what, _, _ in setup.recorder.seen] == ["add", "update", "update", "update", "update"]


async def test_stopping_waits_for_a_store_that_hangs(setup: Setup) -> None:
    setup.source.connected.clear()
    await setup.put("a/1")
    async with setup.informer:
        await setup.registration.wait_synced()
        async with asyncio.timeout(1):
            await setup.informer.stop()
    assert setup.informer.state is State.STOPPED


async def test_a_slow_handler_stalls_the_stream(setup: Setup) -> None:
    forever = asyncio.Event()

    class Stuck(Handler):
        async def on_add(self, new: Stored, initial: bool) -> None:
            await forever.wait()

    setup.informer.add_handler(Stuck())
    async with setup.informer:
        for n in range(50):
            revision = await setup.put(f"a/{n}")
        await setup.caught_up(revision)


async def test_a_handler_that_watches_deadlocks(setup: Setup) -> None:
    inner: list[int] = []

    class Watches(Handler):
        async def on_add(self, new: Stored, initial: bool) -> None:
            other = SharedInformer(StoreListWatch(setup.client, PREFIX), name="inner", rng=random.Random(1))
            async with other:
                await other.wait_synced()
                inner.append(len(other.cache.list()))

    setup.informer.add_handler(Watches())
    async with asyncio.timeout(10), setup.informer:
        await setup.caught_up(await setup.put("a/1"))
        while not inner:
            await asyncio.sleep(0.001)
    assert inner == [1]


async def test_a_refused_watch_is_dropped_in_silence(setup: Setup) -> None:
    """A watch that the server cancels (the token ran out, permission was taken) looked like a quiet one."""
    async with setup.informer:
        await setup.caught_up(await setup.put("a/1"))
        setup.source.cut(ApiError("permission denied"))
        await setup.transitions.until(State.RELISTING)
        assert setup.transitions.all[-1].reason is Reason.REFUSED
        assert setup.transitions.all[-1].error == "ApiError: permission denied"
        await setup.caught_up(await setup.put("a/2"))
        assert setup.informer.statistics().reflector.relist_reasons == {Reason.REFUSED: 1}


async def test_events_of_one_revision_are_lost_when_it_is_cut(setup: Setup) -> None:
    """Who resumes after a revision of which only some events came loses the rest; who resumes at it gets some twice."""
    async with setup.informer:
        await setup.transitions.until(State.WATCHING)
        for n in range(20):
            puts = [api.Put(PREFIX + b"a/%d-%d" % (n, each), b"{}") for each in range(7)]
            writing = asyncio.ensure_future(setup.client.txn(success=puts))
            for _ in range(n % 5):
                await asyncio.sleep(0)
            before = len(setup.source.watches)
            setup.source.cut(LOST)
            revision = (await writing).header.revision
            while len(setup.source.watches) == before:
                await asyncio.sleep(0.001)
            await setup.caught_up(revision)
            await setup.transitions.until(State.WATCHING, times=n + 2)
        assert sorted(key for what, key, _ in setup.recorder.seen if what == "add") == sorted(
            f"a/{n}-{each}" for n in range(20) for each in range(7)
        )
        statistics = setup.informer.statistics().reflector
        assert (statistics.lists, statistics.duplicates, statistics.resumes) == (1, 0, 20)


async def test_reconnecting_leaks_connections(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "data", NodeOptions(fsync=False)) as node:
        setup = Setup(EmbeddedClient(node))
        async with setup.informer:
            tasks = 0
            for n in range(30):
                await setup.transitions.until(State.WATCHING, times=n + 1)
                await setup.caught_up(await setup.put("a/1", b"%d" % n))
                assert node.statistics().watch.streams == 1
                tasks = tasks or len(asyncio.all_tasks())
                assert len(asyncio.all_tasks()) <= tasks
                setup.source.cut(LOST)
        assert node.statistics().watch.streams == 0
        await setup.client.close()


async def test_a_server_that_restarts_is_never_heard_of_again(tmp_path: Path) -> None:
    port = free_port()
    transitions, recorder = Transitions(), Recorder()

    @asynccontextmanager
    async def served() -> AsyncIterator[EmbeddedClient]:
        async with (
            Node.open(tmp_path / "data", NodeOptions(fsync=False)) as node,
            Server(node, [f"http://127.0.0.1:{port}"]),
        ):
            yield EmbeddedClient(node)

    async def put(client: EmbeddedClient, name: bytes) -> str:
        return str((await client.put(PREFIX + name, b"{}")).header.revision)

    async with asyncio.timeout(30), RemoteClient([f"127.0.0.1:{port}"]) as remote:
        informer = SharedInformer(
            StoreListWatch(remote, PREFIX),
            backoff=Backoff(random.Random(1), initial=0.01, maximum=0.1),
            on_transition=transitions,
        )
        informer.add_handler(recorder)
        async with served() as client:
            await put(client, b"a/1")
            informer.start()
            await informer.cache.wait_for(await put(client, b"a/2"))
        await transitions.until(State.RESUMING)
        async with served() as client:
            await informer.cache.wait_for(await put(client, b"a/3"))
            await recorder.until(lambda: "a/3" in recorder.known)
            statistics = informer.statistics().reflector
            assert (statistics.lists, statistics.streamed, statistics.duplicates) == (1, 1, 0)
            assert [key for _, key, _ in recorder.seen] == ["a/1", "a/2", "a/3"]
            await informer.stop()


class AlwaysExpired:
    """Lists, and says of every watch that its revision is compacted."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.revision = 1

    def _note(self, what: str) -> None:
        self.asked.append((what, asyncio.get_running_loop().time()))

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        self._note("list")
        self.revision += 1
        return ListPage([], str(self.revision))

    def watch(self, revision: str) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        self._note(revision)
        raise Expired("compacted")


def test_an_expired_revision_is_asked_for_again_and_again() -> None:
    store = AlwaysExpired()

    async def an_hour() -> None:
        reflector = Reflector(store, Cache(), rng=random.Random(7))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await reflector.run()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(an_hour())
    watches = [(what, at) for what, at in store.asked if what != "list"]
    assert len({revision for revision, _ in watches}) == len(watches)
    assert all(later - earlier >= 0.8 for (_, earlier), (_, later) in itertools.pairwise(watches))
    assert 60 <= len(watches) <= 130


class Data(bytes):
    """Bytes whose end can be seen."""

    source: InMemory

    def __del__(self) -> None:
        self.source.alive -= 1


class InMemory:
    """A list of many objects, then a watch that replaces each of them, with a hand on when."""

    def __init__(self, count: int, *, page: int = 100) -> None:
        self.count = count
        self.page = page
        self.go_on = asyncio.Event()
        self.done = asyncio.Event()
        self.alive = self.most = 0

    def _object(self, n: int) -> Item:
        data = Data(b"%d" % n)
        data.source = self
        self.alive += 1
        self.most = max(self.most, self.alive)
        return Item(f"a/{n}", data, "1")

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        start = int(continue_ or 0)
        end = min(start + self.page, self.count)
        return ListPage([*map(self._object, range(start, end))], "1", str(end) if end < self.count else "")

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        yield self._batches()

    async def _batches(self) -> AsyncIterator[Batch]:
        await self.go_on.wait()
        yield [Removed(f"a/{n}", "2") for n in range(self.count)]
        self.done.set()
        await asyncio.Event().wait()


class InMemoryStream(InMemory):
    @asynccontextmanager
    async def watch_list(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        yield self._stream()

    async def _stream(self) -> AsyncIterator[Batch]:
        continue_ = "0"
        while continue_:
            page = await self.list(limit=0, continue_=continue_)
            yield [*page.items]
            continue_ = page.continue_
        del page
        yield [Bookmark("1", initial_end=True)]
        async for batch in self._batches():
            yield batch


@pytest.mark.parametrize("kind", [InMemory, InMemoryStream])
async def test_the_first_list_is_held_as_long_as_the_watch_lives(kind: type[InMemory]) -> None:
    source, cache = kind(1000), Cache()
    reflector = Reflector(source, cache, rng=random.Random(1))
    running = asyncio.create_task(reflector.run())
    async with asyncio.timeout(10):
        await cache.wait_for("1")
    assert source.alive == source.most == 1000
    source.go_on.set()
    async with asyncio.timeout(10):
        await source.done.wait()
    gc.collect()
    assert (len(cache), source.alive) == (0, 0)
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("kind", [InMemory, InMemoryStream])
async def test_a_relist_holds_everything_twice(kind: type[InMemory]) -> None:
    class Unsteady(kind):  # type: ignore[misc, valid-type]
        async def _batches(self) -> AsyncIterator[Batch]:
            await self.go_on.wait()
            if not self.done.is_set():
                self.done.set()
                raise Expired("compacted")
            await asyncio.Event().wait()
            yield []

    source, cache = Unsteady(1000), Cache()
    again = asyncio.Event()
    reflector = Reflector(
        source,
        cache,
        rng=random.Random(1),
        backoff=Backoff(random.Random(1), initial=0.001),
        on_transition=lambda each: again.set() if each.old is State.RELISTING else None,
    )
    running = asyncio.create_task(reflector.run())
    async with asyncio.timeout(10):
        await cache.wait_for("1")
        source.go_on.set()
        await again.wait()
    assert reflector.statistics().relists == 1
    assert source.most <= 1000 + 2 * source.page
    running.cancel()
    await asyncio.wait([running])
