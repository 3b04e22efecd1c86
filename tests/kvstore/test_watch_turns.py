"""A crowd of watchers takes turns, so that the event loop stays quick for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.api import Put
from kvstore.errors import Stopped
from kvstore.node import Node, NodeOptions
from kvstore.turns import Rush, Turns
from kvstore.watch import RESPONSES_A_TURN, WatchStream

CROWD = 200
WATCHES = 20  # on a stream, so that the crowd is busy for long enough


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path / "node", NodeOptions(fsync=False, inline_commits=True)) as node:
        yield node


class Readers:
    """Streams that are read as fast as they can be: who was given a response of events, and when."""

    def __init__(self, streams: list[WatchStream]) -> None:
        self.given: list[tuple[int, int, list[int]]] = []  # turn of the loop, stream, revisions
        self.turn = 0
        self._tasks = [asyncio.create_task(self._read(number, stream)) for number, stream in enumerate(streams)]
        self._clock = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    async def _read(self, number: int, stream: WatchStream) -> None:
        while True:
            response = await stream.next()
            if response.events:
                self.given.append((self.turn, number, [event.mod_revision for event in response.events]))

    async def until(self, given: int) -> None:
        async with asyncio.timeout(20):
            while len(self.given) < given:
                await asyncio.sleep(0)

    async def stop(self) -> None:
        for task in (self._clock, *self._tasks):
            task.cancel()
        await asyncio.gather(self._clock, *self._tasks, return_exceptions=True)


async def test_a_crowd_is_served_a_few_a_turn_and_who_shares_with_nobody_first(node: Node) -> None:
    streams = [node.watch_stream() for _ in range(CROWD + 1)]
    for stream in streams[:-1]:
        stream.create(key=b"\0", range_end=b"\0")
    streams[-1].create(key=b"k")
    for stream in streams:
        assert (await stream.next()).created
    readers = Readers(streams)
    try:
        revision = (await node.put(Put(b"k"))).revision
        await readers.until(CROWD + 1)
        assert {number for _, number, _ in readers.given} == set(range(CROWD + 1)), "everybody, once"
        assert all(revisions == [revision] for *_, revisions in readers.given)
        turns = [turn for turn, *_ in readers.given]
        assert max(map(turns.count, turns)) <= 2 * RESPONSES_A_TURN
        assert CROWD in [number for _, number, _ in readers.given[: 2 * RESPONSES_A_TURN]]
    finally:
        await readers.stop()
        for stream in streams:
            stream.close()


async def test_readers_that_are_busy_keep_their_order_and_do_not_keep_out_one_that_was_idle(node: Node) -> None:
    for number in range(50):
        await node.put(Put(b"k%d" % number))
    streams = [node.watch_stream() for _ in range(CROWD + 1)]
    for stream in streams[:-1]:
        for _ in range(WATCHES):
            stream.create(key=b"k", range_end=b"l", start_revision=2)
    streams[-1].create(key=b"other")
    await streams[-1].next()
    readers = Readers(streams)
    try:
        await readers.until(CROWD // 2)
        revision = (await node.put(Put(b"other"))).revision
        acknowledged = readers.turn
        await readers.until(WATCHES * CROWD + 1)
        turn, _, revisions = next(each for each in readers.given if each[1] == CROWD)
        assert revisions == [revision]
        assert turn - acknowledged <= 2
        assert readers.given[-1][0] > turn, "the crowd was not done by then"
    finally:
        await readers.stop()
        for stream in streams:
            stream.close()


async def test_a_stream_that_ends_while_its_reader_waits_for_its_turn(node: Node) -> None:
    streams = [node.watch_stream() for _ in range(CROWD)]
    for stream in streams:
        stream.create(key=b"k")
    reading = [asyncio.create_task(stream.next()) for stream in streams]
    await asyncio.sleep(0)
    waiting = [n for n, task in enumerate(reading) if not task.done()]
    ended, given_up, last = waiting[-3], waiting[-2], waiting[-1]
    streams[ended].close()
    reading[given_up].cancel()
    with pytest.raises(Stopped):
        await reading[ended]
    with pytest.raises(asyncio.CancelledError):
        await reading[given_up]
    assert (await streams[given_up].next()).created, "what was given up is not lost"
    assert (await reading[last]).created
    await asyncio.gather(*(task for n, task in enumerate(reading) if n not in (ended, given_up)))
    for stream in streams:
        stream.close()


async def test_turns_are_given_in_order_and_not_to_those_who_left() -> None:
    turns = Turns(2)
    loop = asyncio.get_running_loop()
    places = [loop.create_future() for _ in range(6)]
    for place in places:
        turns.wait(place)
    places[0].cancel()
    done: list[int] = []
    while turns.crowded:
        await asyncio.sleep(0)
        done.append(sum(place.done() and not place.cancelled() for place in places))
    assert done == [2, 4, 5]
    assert [turns.take(), turns.take(), turns.take()] == [True, True, False]
    await asyncio.sleep(0)
    assert turns.take()


async def test_a_rush_waits_and_few_do_not() -> None:
    rush = Rush(3, window=0.01, longest=10)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        few = [asyncio.create_task(rush.over()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all(task.done() for task in few)
        began = loop.time()
        crowd = [asyncio.create_task(rush.over()) for _ in range(50)]
        await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
        assert loop.time() - began >= 0.005
        await asyncio.gather(*crowd)


async def test_a_rush_without_end_keeps_nobody_for_longer_than_it_may() -> None:
    rush = Rush(1, window=0.005, longest=0.05)
    loop = asyncio.get_running_loop()
    arriving: list[asyncio.Task[None]] = []
    async with asyncio.timeout(10):
        first = asyncio.create_task(rush.over())
        second = asyncio.create_task(rush.over())
        began = loop.time()
        while not second.done():
            arriving.append(asyncio.create_task(rush.over()))
            await asyncio.sleep(0)
        assert loop.time() - began + 0.001 >= 0.05
        await asyncio.gather(first, second, *arriving)
