"""The bounds of a watch stream, and the fairness of catching up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.api import Put, Txn
from kvstore.node import Node, NodeOptions
from kvstore.watch import HISTORY_SLICE_BYTES, MAX_RESPONSE_BYTES, State, StreamResponse, WatchStream

LARGE = 300_000


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path / "node", NodeOptions(fsync=False)) as node:
        yield node


async def read_events(stream: WatchStream, count: int) -> list[StreamResponse]:
    responses: list[StreamResponse] = []
    while sum(len(response.events) for response in responses) < count:
        responses.append(await stream.next())
    return [response for response in responses if response.events]


def wire_size(response: StreamResponse) -> int:
    return sum(len(event.wire(response.prev_kv)) for event in response.events)


@pytest.mark.parametrize("prev_kv", [False, True])
@pytest.mark.parametrize("from_history", [False, True])
async def test_what_one_commit_brings_travels_in_responses_that_clients_accept(
    node: Node, prev_kv: bool, from_history: bool
) -> None:
    for number in range(12):
        await node.put(Put(b"k%d" % number, bytes(LARGE)))
    start = node.revision + 1
    stream = node.watch_stream()
    if not from_history:
        stream.create(key=b"k", range_end=b"l", prev_kv=prev_kv)
        stream.create(key=b"k", range_end=b"l", prev_kv=not prev_kv)  # shares the events, not the size
        stream.cancel(1)
    await asyncio.gather(*(node.put(Put(b"k%d" % number, bytes(LARGE))) for number in range(12)))
    if from_history:
        stream.create(key=b"k", range_end=b"l", prev_kv=prev_kv, start_revision=start)
    responses = await read_events(stream, 12)
    assert [event.mod_revision for response in responses for event in response.events] == list(range(start, start + 12))
    for response in responses:
        assert wire_size(response) <= response.size, "the outbox counts what is sent, replaced values too"
        assert response.size <= MAX_RESPONSE_BYTES + 100
    stream.close()


async def test_a_revision_is_never_split_however_large(node: Node) -> None:
    stream = node.watch_stream()
    stream.create(key=b"k", range_end=b"l")
    big = Txn(success=tuple(Put(b"k%d" % number, bytes(LARGE)) for number in range(5)))
    await asyncio.gather(node.txn(big), node.put(Put(b"k", b"")), node.txn(big))
    assert [len(response.events) for response in await read_events(stream, 11)] in ([5, 1, 5], [5, 6])
    stream.close()


async def test_a_reader_that_stopped_is_queued_no_more_than_the_bound(tmp_path: Path) -> None:
    bound = 4 * MAX_RESPONSE_BYTES
    async with Node.open(tmp_path, NodeOptions(fsync=False, outbox_bytes=bound)) as node:
        stream = node.watch_stream()
        for _ in range(100):
            stream.create(key=b"k", range_end=b"l", prev_kv=True)
        for _ in range(2):
            await asyncio.gather(*(node.put(Put(b"k%d" % number, bytes(LARGE))) for number in range(40)))
        stream.create(key=b"k", range_end=b"l", start_revision=2)  # history as well
        assert stream.outbox_bytes <= bound + 2 * MAX_RESPONSE_BYTES
        seen: dict[int, int] = dict.fromkeys(range(101), 0)
        while any(count < 80 for count in seen.values()):
            response = await stream.next()
            seen[response.watch_id] += len(response.events)
            assert stream.outbox_bytes <= bound + 2 * MAX_RESPONSE_BYTES
        assert set(seen.values()) == {80}
        stream.close()


async def test_progress_does_not_pile_up_for_a_reader_that_stopped(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False, progress_interval=0.001, outbox_bytes=1000)) as node:
        stream, reference = node.watch_stream(), node.watch_stream()
        for _ in range(5):
            stream.create(key=b"k", progress_notify=True)
        reference.create(key=b"k", progress_notify=True)
        for _ in range(50):
            await reference.next()
            stream.request_progress()
        assert stream.outbox_bytes < 1100
        while stream._outbox:
            response = await stream.next()
        assert response.watch_id == -1, "what was asked for is answered once there is room"
        stream.close()
        reference.close()


async def test_progress_asked_for_is_forgotten_with_the_last_watch(node: Node) -> None:
    await node.put(Put(b"k"))
    stream = node.watch_stream()
    stream.create(key=b"k", start_revision=100)
    stream.request_progress()
    stream.cancel(0)
    stream.create(key=b"k")
    assert [(await stream.next()).watch_id for _ in range(3)] == [0, 0, 1]
    assert not stream._outbox, "nobody of now asked"
    stream.close()


async def test_newcomers_far_behind_do_not_keep_others_from_catching_up(node: Node) -> None:
    """Each pass meets a new watch that starts at the beginning; one that is nearly there must still get there."""
    while node.revision < 3 * HISTORY_SLICE_BYTES // LARGE + 3:
        await node.put(Put(b"k", bytes(LARGE)))
    nearly = node.watch_stream()
    nearly.create(key=b"k", start_revision=node.revision)
    newcomers = []
    for _ in range(4):
        newcomers.append(node.watch_stream())
        newcomers[-1].create(key=b"k", start_revision=1)
        node._hub.sync_pass()
    assert nearly.watchers[0].state is State.SYNCED
    for stream in (nearly, *newcomers):
        stream.close()
