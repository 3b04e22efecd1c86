"""Watches of a remote client: many on one stream, none in the way of another."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from kvstore import errors
from kvstore.api import Event, Put, Watch, prefix_end
from kvstore.client import RemoteClient
from kvstore.client.stream import FIRST_ID
from kvstore.client.watch import RemoteWatch
from kvstore.node import Node, NodeOptions
from kvstore.permissions import Permission, PermissionType
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.faults.proxy import FaultProxy
from tests.kvstore.scripted import ScriptedServer, ScriptedStream

TINY = 4_000  # bytes of buffer


@pytest.fixture
async def client(endpoint: str) -> AsyncIterator[RemoteClient]:
    async with RemoteClient([endpoint], watch_buffer_bytes=TINY) as client:
        yield client


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


def remote(watch: Watch) -> RemoteWatch:
    assert isinstance(watch, RemoteWatch)
    return watch


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is so."""
    while not condition():
        await asyncio.sleep(0.001)


async def revisions(watch: Watch, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        found += [event.kv.mod_revision for event in (await anext(watch)).events]
    return found


async def open_scripted(
    server: ScriptedServer, watches: list[Watch], stack: AsyncExitStack
) -> tuple[ScriptedStream, list[int]]:
    """Enter watches one after the other; the stream, and the ids that the client chose."""
    ids: list[int] = []
    stream: ScriptedStream | None = None
    for watch in watches:
        entering = asyncio.create_task(watch.__aenter__())
        stream = stream or await server.streams.get()
        ids.append((await stream.asked_to_create()).watch_id)
        await stream.created(ids[-1])
        await entering
        stack.push_async_exit(watch)
    assert stream is not None
    return stream, ids


# ---- one stream -----------------------------------------------------------------------------------------------------


async def test_watches_share_a_stream_that_ends_with_the_last(node: Node, client: RemoteClient) -> None:
    watches = [client.watch(b"%d" % number) for number in range(10)]
    for watch in watches:
        await watch.__aenter__()
    assert node.statistics().watch.streams == 1
    for number, watch in enumerate(watches[:9]):
        await watch.__aexit__(None, None, None)
        await until(lambda left=9 - number: node.statistics().watch.synced == left)  # type: ignore[misc]
        put = await node.put(Put(b"9"))
        assert await revisions(watches[9], 1) == [put.revision]
    await watches[9].__aexit__(None, None, None)
    await until(lambda: node.statistics().watch.streams == 0)
    async with client.watch(b"9") as again:
        put = await node.put(Put(b"9"))
        assert await revisions(again, 1) == [put.revision]


async def test_ten_thousand_watches_at_once(node: Node, client: RemoteClient) -> None:
    watches = [client.watch(b"%d" % number) for number in range(10_000)]
    await asyncio.gather(*(watch.__aenter__() for watch in watches))
    assert (node.statistics().watch.streams, node.statistics().watch.synced) == (1, 10_000)
    for number in (0, 5_000, 9_999):
        put = await node.put(Put(b"%d" % number))
        assert await revisions(watches[number], 1) == [put.revision]
    await asyncio.gather(*(watch.__aexit__(None, None, None) for watch in watches))
    await until(lambda: node.statistics().watch.streams == 0)
    del watches
    gc.collect()


async def test_watches_come_and_go_while_others_stay(node: Node, client: RemoteClient) -> None:
    rng = random.Random(7)

    async def visitor(number: int) -> None:
        for _ in range(10):
            entering = asyncio.create_task(client.watch(b"k", start_revision=2).__aenter__())
            await asyncio.sleep(rng.random() * 0.003)
            entering.cancel()  # before, while or after it is created
            if watch := (await asyncio.gather(entering, return_exceptions=True))[0]:
                if isinstance(watch, RemoteWatch):
                    if rng.random() < 0.5:
                        await anext(watch)
                    await watch.__aexit__(None, None, None)
                else:
                    assert isinstance(watch, asyncio.CancelledError)

    await node.put(Put(b"k"))
    async with client.watch(b"k") as stays:
        visitors = asyncio.gather(*(visitor(number) for number in range(20)))
        written = [(await node.put(Put(b"k"))).revision for _ in range(200)]
        assert await revisions(stays, 200) == written
        await visitors
        await until(lambda: node.statistics().watch.synced == 1)
        assert node.statistics().watch.streams == 1
    await until(lambda: node.statistics().watch.streams == 0)


async def test_a_refusal_reaches_the_one_it_is_for(node: Node, client: RemoteClient) -> None:
    await node.put(Put(b"a"))
    await node.put(Put(b"a"))
    await node.compact(3)

    async def enter(number: int) -> object:
        bad = number % 3 == 0
        async with client.watch(b"b" if bad else b"a", b"a" if bad else b"") as watch:
            await node.put(Put(b"a"))
            return (await anext(watch)).events

    outcomes = await asyncio.gather(*(enter(number) for number in range(30)), return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome, errors.WatchCanceled if number % 3 == 0 else list)
    async with client.watch(b"a") as lives, client.watch(b"a", start_revision=1) as compacted:
        with pytest.raises(errors.Compacted) as caught:
            await anext(compacted)
        assert caught.value.compact_revision == 3
        put = await node.put(Put(b"a"))
        assert await revisions(lives, 1) == [put.revision]
        with pytest.raises(errors.Compacted):  # again
            await anext(compacted)


# ---- who is slow ----------------------------------------------------------------------------------------------------


async def test_a_watch_that_is_not_read_holds_up_nobody_and_loses_nothing(node: Node, client: RemoteClient) -> None:
    async with client.watch(b"k") as fast, client.watch(b"k", prev_kv=True) as slow:
        written: list[int] = []
        caught_up: list[int] = []
        for round_ in range(20):
            written += [(await node.put(Put(b"k", bytes(200)))).revision for _ in range(50)]
            assert await revisions(fast, 50) == written[-50:]
            assert remote(slow)._buffered < 3 * TINY
            if round_ % 5 == 4:  # catch up with a part of it, and fall behind again
                caught_up += await revisions(slow, 10)
        assert remote(slow)._is_victim
        caught_up += await revisions(slow, len(written) - len(caught_up))
        assert caught_up == written
        put = await node.put(Put(b"k"))
        assert await revisions(slow, 1) == await revisions(fast, 1) == [put.revision]
        assert node.statistics().watch.streams == 1


@pytest.mark.parametrize("seed", range(5))
async def test_consumers_of_every_speed_see_every_event_once(node: Node, client: RemoteClient, seed: int) -> None:
    rng = random.Random(seed)
    count = 400

    async def consume(watch: Watch, pauses: float) -> list[Event]:
        events: list[Event] = []
        while len(events) < count:
            if rng.random() < pauses:
                await asyncio.sleep(rng.random() * 0.02)
            try:
                async with asyncio.timeout(rng.choice([0.0, 0.001, 5])):
                    events += (await anext(watch)).events
            except TimeoutError:
                continue  # cancelling loses nothing, also while a victim comes back
        return events

    async with AsyncExitStack() as stack:
        pace = [0.0, 0.1, 0.5, 0.9]
        watches = [await stack.enter_async_context(client.watch(b"a", b"b")) for _ in pace]
        consumers = [asyncio.create_task(consume(*each)) for each in zip(watches, pace, strict=True)]
        written = []
        for number in range(count):
            size = rng.choice([10, 100, 3_000])
            written.append((await node.put(Put(b"a%d" % (number % 7), bytes(size)))).revision)
        for consumer in consumers:
            events = await consumer
            assert [event.kv.mod_revision for event in events] == written


async def test_what_a_victim_comes_back_for_may_be_gone(node: Node, client: RemoteClient) -> None:
    async with client.watch(b"k") as fast, client.watch(b"k") as slow:
        for _ in range(100):
            await node.put(Put(b"k", bytes(200)))
        await revisions(fast, 100)
        await until(lambda: remote(slow)._is_victim)
        await node.compact(100)
        with pytest.raises(errors.Compacted) as caught:
            await revisions(slow, 100)
        assert caught.value.compact_revision == 100
        put = await node.put(Put(b"k"))
        assert await revisions(fast, 1) == [put.revision]


async def test_a_watch_with_the_stream_to_itself_slows_the_server_down_instead(
    node: Node, client: RemoteClient
) -> None:
    async with client.watch(b"k") as slow:
        written = [(await node.put(Put(b"k", bytes(200_000)))).revision for _ in range(60)]
        await until(lambda: remote(slow).full)
        assert node.statistics().watch.streams == 1
        assert not remote(slow)._is_victim
        assert remote(slow)._buffered < TINY + 5_000_000
        assert await revisions(slow, 30) == written[:30]
        async with client.watch(b"other") as other:  # company: now it must not be in the way
            put = await node.put(Put(b"other"))
            assert await revisions(other, 1) == [put.revision]
        assert await revisions(slow, 30) == written[30:]


async def test_all_buffers_together_are_bounded(client: RemoteClient) -> None:
    async with RemoteClient(client.endpoints) as many:
        assert many._buffer_share == 4 << 20
        many._watches.update(RemoteWatch(many, pb.WatchCreateRequest()) for _ in range(1_000))
        assert many._buffer_share * 1_000 <= 64 << 20
        many._watches.clear()


# ---- progress -------------------------------------------------------------------------------------------------------


async def test_progress_reaches_only_who_asked(node: Node, client: RemoteClient) -> None:
    async with client.watch(b"a") as one, client.watch(b"b") as other:
        elsewhere = (await node.put(Put(b"c"))).revision
        await one.request_progress()
        answer = await anext(one)
        assert (answer.events, answer.header.revision) == ([], elsewhere)
        put = (await node.put(Put(b"b"))).revision
        assert await revisions(other, 1) == [put]
        assert not remote(other)._buffer


async def test_progress_of_a_victim_comes_after_all_that_it_missed(node: Node, client: RemoteClient) -> None:
    async with client.watch(b"k") as fast, client.watch(b"k") as slow:
        await slow.request_progress()
        for _ in range(100):
            await node.put(Put(b"k", bytes(200)))
        await slow.request_progress()
        await revisions(fast, 100)
        await until(lambda: remote(slow)._is_victim)
        await slow.request_progress()
        await fast.request_progress()
        assert (await anext(fast)).header.revision == 101
        seen = 1
        while True:
            response = await anext(slow)
            for event in response.events:
                assert event.kv.mod_revision == seen + 1
                seen += 1
            if not response.events:
                assert response.header.revision <= seen
                if response.header.revision == 101:
                    break


async def test_a_neighbour_that_waits_for_the_future_does_not_hold_up_progress(
    node: Node, client: RemoteClient
) -> None:
    async with client.watch(b"k", start_revision=50) as future, client.watch(b"k") as now:
        await now.request_progress()
        async with asyncio.timeout(10):
            assert (await anext(now)).header.revision == 1
        for _ in range(49):
            await node.put(Put(b"k"))
        assert await revisions(future, 1) == [50]
        assert await revisions(now, 49) == list(range(2, 51))
    await until(lambda: node.statistics().watch.streams == 0)


async def test_one_on_its_way_to_a_stream_of_its_own_can_be_asked_for_progress(client: RemoteClient) -> None:
    async with client.watch(b"k") as watch:
        inner, arrived = remote(watch), asyncio.Event()
        shared, inner._stream = inner._stream, None
        inner._registering = way = asyncio.create_task(_until(arrived))
        await watch.request_progress()
        assert inner._wants_progress
        reading = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        inner._stream, inner._wants_progress = shared, False
        arrived.set()
        await way
        await watch.request_progress()
        assert not (await reading).events


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def test_progress_that_is_not_answered_is_asked_for_again(scripted: ScriptedServer) -> None:
    """As etcd does while any watch of the stream is not up to date."""
    async with RemoteClient([scripted.endpoint]) as client, AsyncExitStack() as stack:
        watches: list[Watch] = [client.watch(b"a"), client.watch(b"b")]
        stream, _ = await open_scripted(scripted, watches, stack)
        await watches[0].request_progress()
        for _ in range(2):
            assert (await stream.asked()).WhichOneof("request_union") == "progress_request"
        await watches[1].request_progress()  # the answer to those is not one to this
        await stream.tell(-1, 20)
        assert (await anext(watches[0])).header.revision == 20
        await stream.tell(-1, 21)  # to the second of the two: nobody's
        assert (await stream.asked()).WhichOneof("request_union") == "progress_request"
        await stream.tell(-1, 22)
        assert (await anext(watches[1])).header.revision == 22
        await stream.tell(-1, 23)
        stream.end()
        with pytest.raises(errors.Unavailable):
            await anext(watches[1])


async def test_progress_is_not_for_one_that_is_still_being_created(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint]) as client, AsyncExitStack() as stack:
        first = client.watch(b"a")
        stream, _ = await open_scripted(scripted, [first], stack)
        await first.request_progress()
        await stream.asked()
        late = client.watch(b"b", start_revision=5)
        entering = asyncio.create_task(late.__aenter__())
        created = await stream.asked_to_create()
        await stream.tell(-1, 20)
        await stream.created(created.watch_id, 20)
        await stream.tell(created.watch_id, 20, 5)
        await entering
        stack.push_async_exit(late)
        assert (await anext(first)).header.revision == 20
        assert await revisions(late, 1) == [5]


# ---- what servers answer --------------------------------------------------------------------------------------------


async def test_fragments_are_joined(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint]) as client, AsyncExitStack() as stack:
        watches: list[Watch] = [client.watch(b"k"), client.watch(b"k")]
        stream, (one, other) = await open_scripted(scripted, watches, stack)
        await stream.tell(one, 20, 11, 12, fragment=True)
        await stream.tell(other, 20, 11)
        await stream.tell(one, 20, 12, 12, fragment=True)
        await stream.tell(one, 20, 12)
        assert [event.kv.mod_revision for event in (await anext(watches[0])).events] == [11, 12, 12, 12, 12]
        assert await revisions(watches[1], 1) == [11]


async def test_a_long_row_of_fragments_is_given_out_by_whole_revisions(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint], watch_buffer_bytes=TINY) as client, AsyncExitStack() as stack:
        watch = client.watch(b"k")
        stream, (watch_id,) = await open_scripted(scripted, [watch], stack)
        written = [revision for revision in range(11, 60) for _ in range(3)]
        for at in range(0, len(written), 4):
            await stream.tell(watch_id, 100, *written[at : at + 4], fragment=at + 4 < len(written))
        given: list[list[int]] = []
        while sum(map(len, given)) < len(written):
            given.append([event.kv.mod_revision for event in (await anext(watch)).events])
        assert [revision for each in given for revision in each] == written
        assert len(given) > 3
        assert all(left[-1] < right[0] for left, right in itertools.pairwise(given))


async def test_a_victim_forgets_half_a_response(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint], watch_buffer_bytes=TINY) as client, AsyncExitStack() as stack:
        watches: list[Watch] = [client.watch(b"k"), client.watch(b"k")]
        stream, (slow, _) = await open_scripted(scripted, watches, stack)
        await stream.tell(slow, 20, *range(11, 40), 40, fragment=True)
        assert await stream.asked_to_cancel() == slow
        await stream.tell(slow, 20, 40)
        assert await revisions(watches[0], 29) == list(range(11, 40))
        reading = asyncio.create_task(revisions(watches[0], 2))
        again = await stream.asked_to_create()
        assert (again.start_revision, again.watch_id) == (40, FIRST_ID + 2)
        await stream.tell(slow, 50, 40)  # of the watch that was cancelled
        await stream.created(again.watch_id, 50)
        await stream.tell(again.watch_id, 50, 40, 40)
        assert await reading == [40, 40]


async def test_a_server_that_chooses_ids_is_asked_for_one_watch_at_a_time(scripted: ScriptedServer) -> None:
    """As etcd's gRPC proxy, which answers in any order."""
    async with RemoteClient([scripted.endpoint]) as client:
        watches = [client.watch(b"%d" % number) for number in range(5)]
        entering = [asyncio.create_task(watch.__aenter__()) for watch in watches]
        stream = await scripted.streams.get()
        ids = {}
        for number in range(5):
            ids[(await stream.asked_to_create()).key] = number
            await stream.created(number)
        await asyncio.gather(*entering)
        await stream.tell(ids[b"3"], 20, 11)
        assert await revisions(watches[3], 1) == [11]
        for number, watch in enumerate(watches):
            await watch.__aexit__(None, None, None)
            if number < 4:
                assert await stream.asked_to_cancel() == ids[b"%d" % number]


async def test_one_that_leaves_before_it_is_created_is_cancelled_then(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint]) as client, AsyncExitStack() as stack:
        stays = client.watch(b"a")
        stream, (first,) = await open_scripted(scripted, [stays], stack)
        entering = asyncio.create_task(client.watch(b"b").__aenter__())
        left = (await stream.asked_to_create()).watch_id
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await stream.created(left)
        assert await stream.asked_to_cancel() == left
        await stream.tell(left, 20, 11)
        await stream.tell(left, 20, canceled=True)
        await stream.tell(999, 20, 11)
        await stream.tell(first, 20, 12)
        assert await revisions(stays, 1) == [12]


async def test_a_lost_stream_is_told_after_what_came_before(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint]) as client, AsyncExitStack() as stack:
        watches: list[Watch] = [client.watch(b"a"), client.watch(b"b")]
        stream, (one, _) = await open_scripted(scripted, watches, stack)
        assert stream.metadata["hasleader"] == "true"
        await stream.tell(one, 20, 11)
        stream.end(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        assert await revisions(watches[0], 1) == [11]
        for watch in watches:
            for _ in range(2):
                with pytest.raises(errors.Unavailable, match="no leader"):
                    await anext(watch)
        again = client.watch(b"a", start_revision=11)
        await open_scripted(scripted, [again], stack)  # on a new stream


async def test_garbage_ends_the_stream(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint]) as client, AsyncExitStack() as stack:
        watch = client.watch(b"a")
        stream, _ = await open_scripted(scripted, [watch], stack)
        await stream._context.write(b"\xff\xff\xff")
        with pytest.raises(errors.Unavailable, match="that is none"):
            await anext(watch)


# ---- tokens ---------------------------------------------------------------------------------------------------------


async def test_a_token_is_renewed_beside_watches_that_go_on(tmp_path: Path) -> None:
    options = NodeOptions(fsync=False, bcrypt_cost=4)
    async with Node.open(tmp_path, options) as node, Server(node, ["http://127.0.0.1:0"]) as server:
        auth = node.auth
        await auth.user_add("root", "pw")
        await auth.user_grant_role("root", "root")
        await auth.user_add("ann", "a")
        await auth.role_add("as")
        await auth.role_grant_permission("as", Permission(PermissionType.READWRITE, b"a", b"b"))
        await auth.user_grant_role("ann", "as")
        async with RemoteClient(server.client_urls, user="ann", password="a", watch_buffer_bytes=TINY) as client:
            async with client.watch(b"a") as before:  # as nobody: everybody may
                await auth.enable()
                async with client.watch(b"a") as old, client.watch(b"a") as slow:
                    auth._tokens.clear()
                    with pytest.raises(errors.PermissionDenied):
                        await client.watch(b"b").__aenter__()
                    async with client.watch(b"a") as new:
                        await until(lambda: node.statistics().watch.streams == 3)  # that of the refused one ends
                        reading = [asyncio.create_task(revisions(watch, 100)) for watch in (before, old, new)]
                        written = [(await client.put(b"a", bytes(100))).header.revision for _ in range(100)]
                        assert await asyncio.gather(*reading) == [written] * 3
                        auth._tokens.clear()  # and what comes back of a victim logs in again
                        assert remote(slow)._is_victim
                        assert await revisions(slow, 100) == written
            await until(lambda: node.statistics().watch.streams == 0)


# ---- several endpoints, and dead ones -------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["watch", "read", "keep alive", "write"])
async def test_a_member_without_a_leader_is_left(scripted: ScriptedServer, node: Node, endpoint: str, use: str) -> None:
    scripted.refuse_streams = True
    async with RemoteClient([scripted.endpoint, endpoint]) as client:
        client._current = 0
        lease, _ = await node.lease_grant(60)
        if use == "watch":
            with pytest.raises(errors.Unavailable, match="no leader"):
                await client.watch(b"a").__aenter__()
            async with client.watch(b"a") as watch:
                assert watch.created_revision == node.revision
        elif use == "read":
            assert await client.get(b"a") is None
        elif use == "keep alive":
            assert (await client.lease_keep_alive(lease)).ttl == 60
        else:
            with pytest.raises(errors.Unavailable, match="no leader"):
                await client.put(b"a", b"1")
            assert scripted.unary_calls == ["/etcdserverpb.KV/Put"]
            await client.put(b"a", b"2")
            assert node.revision == 2, "the first was sent once, and there"


async def test_an_endpoint_that_says_nothing_leaves_time_for_the_others(endpoint: str) -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy:
        proxy.swallowing = True
        async with RemoteClient([proxy.address, endpoint], dial_timeout=1.0) as client:
            client._current = 0
            assert await client.get(b"a") is None
            assert client._current == 1


async def test_a_silent_dead_peer_is_found_by_probes(node: Node, endpoint: str) -> None:
    host, port = endpoint.split(":")
    async with (
        FaultProxy(host, int(port)) as proxy,
        RemoteClient([proxy.address], keepalive_time=1.0, keepalive_timeout=1.0) as client,
        client.watch(b"a") as watch,
    ):
        proxy.stall()
        async with asyncio.timeout(20):
            with pytest.raises(errors.Unavailable):
                await anext(watch)


# ---- resuming -------------------------------------------------------------------------------------------------------


async def faults(proxy: FaultProxy, rng: random.Random, writing: Awaitable[object]) -> None:
    strike: list[Callable[[], None]] = [proxy.cut, proxy.reset, lambda: proxy.cut_after(rng.randrange(300))]
    while not (isinstance(writing, asyncio.Task) and writing.done()):
        await asyncio.sleep(rng.random() * 0.1)
        rng.choice(strike)()


@pytest.mark.parametrize("seed", range(3))
async def test_a_resuming_watch_sees_every_event_once_whatever_happens_to_connections(
    node: Node, endpoint: str, seed: int
) -> None:
    rng = random.Random(seed)
    host, port = endpoint.split(":")
    async with FaultProxy(host, int(port)) as proxy, FaultProxy(host, int(port)) as other:
        client = RemoteClient([proxy.address, other.address], watch_buffer_bytes=TINY, rng=rng)

        async def write() -> list[int]:
            written = []
            for _ in range(300):
                written.append((await node.put(Put(b"a", bytes(200)))).revision)
                await asyncio.sleep(0.002)
            return written

        async with client, AsyncExitStack() as stack:
            watches = [
                await stack.enter_async_context(client.watch(b"a", resume=True, progress_notify=True, start_revision=2))
                for _ in range(5)
            ]
            writing = asyncio.create_task(write())
            breaking = [asyncio.create_task(faults(each, rng, writing)) for each in (proxy, other)]
            seen = await asyncio.gather(*(revisions(watch, 300) for watch in watches))
            written = await writing
            await asyncio.gather(*breaking)
            assert all(each == written for each in seen)
            assert proxy.accepted + other.accepted > 2


async def test_resuming_on_another_server_from_now_and_from_progress(
    tmp_path: Path, node: Node, server: Server, endpoint: str
) -> None:
    (url,) = server.client_urls
    async with RemoteClient([endpoint]) as client, client.watch(b"a", resume=True, progress_notify=True) as watch:
        assert watch.created_revision == 1
        revision = (await node.put(Put(b"b"))).revision
        while (await anext(watch)).header.revision < revision:  # progress
            pass
        await server.stop()
        await node.compact(revision)
        missed = (await node.put(Put(b"a"))).revision
        reading = asyncio.create_task(anext(watch))
        async with Server(node, [url]):
            assert [event.kv.mod_revision for event in (await reading).events] == [missed]
            await watch.request_progress()
            assert (await anext(watch)).events == []


async def test_a_resuming_watch_says_when_history_is_gone(node: Node, server: Server, endpoint: str) -> None:
    (url,) = server.client_urls
    async with RemoteClient([endpoint]) as client, client.watch(b"a", resume=True) as watch:
        await server.stop()
        for _ in range(5):
            await node.put(Put(b"a"))
        await node.compact(5)
        async with Server(node, [url]):
            with pytest.raises(errors.Compacted) as caught:
                await anext(watch)
        assert caught.value.compact_revision == 5


async def test_a_resuming_watch_comes_back_after_any_loss_of_its_stream(scripted: ScriptedServer) -> None:
    async with RemoteClient([scripted.endpoint]) as client, AsyncExitStack() as stack:
        watch = client.watch(b"k", resume=True)
        stream, (watch_id,) = await open_scripted(scripted, [watch], stack)
        expected = 11
        losses = [
            (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"),
            (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
            (grpc.StatusCode.OK, ""),
            (grpc.StatusCode.CANCELLED, ""),
        ]
        for loss in losses:
            await stream.tell(watch_id, expected, expected)
            await stream.tell(-1, 1_000)  # nobody asked
            assert await revisions(watch, 1) == [expected]
            expected += 1
            with pytest.raises(TimeoutError):  # who does not wait long for each response does not keep it from resuming
                async with asyncio.timeout(0.01):
                    await anext(watch)
            stream.end(*loss)
            reading = asyncio.create_task(anext(watch))
            stream = await scripted.streams.get()
            asked = await stream.asked_to_create()
            assert asked.start_revision == expected
            watch_id = asked.watch_id
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await stream.created(watch_id, expected)


async def test_a_resuming_watch_ends_with_its_client(endpoint: str, server: Server) -> None:
    async with RemoteClient([endpoint]) as client, client.watch(b"a", resume=True) as watch:
        reading = asyncio.create_task(anext(watch))
        await server.stop()
        await asyncio.sleep(0.1)  # it is trying to come back
        await client.close()
        with pytest.raises(errors.Unavailable):
            await reading
    async with RemoteClient([endpoint], dial_timeout=0.5) as client:
        with pytest.raises(errors.Unavailable):
            await client.watch(b"a", resume=True).__aenter__()


async def test_a_watch_of_a_prefix_by_many_readers(node: Node, client: RemoteClient) -> None:
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(client.watch(b"p", prefix_end(b"p"))) for _ in range(30)]
        written = [(await node.put(Put(b"p%d" % number))).revision for number in range(20)]
        for watch in watches:
            assert await revisions(watch, 20) == written
