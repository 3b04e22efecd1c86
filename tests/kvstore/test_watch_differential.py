"""A short differential run over watches; `python -m tests.kvstore.watch_differential` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.api import DeleteRange, EventType, Put, Txn
from kvstore.node import Node
from tests.kvstore.watch_differential import run


@pytest.mark.parametrize("seed", [1, 2])
async def test_watches_with_every_option_are_given_what_etcd_gives(tmp_path: Path, seed: int) -> None:
    assert await run(tmp_path, streams=30, seed=seed) > 10


@pytest.mark.parametrize("from_history", [False, True])
async def test_prev_kv_is_the_key_before_the_revision(node: Node, from_history: bool) -> None:
    for key in (b"a", b"b"):
        await node.put(Put(key, b"old"))
    stream = node.watch_stream()
    if not from_history:
        stream.create(key=b"a", range_end=b"z", prev_kv=True)
    writing, deleting = Txn(success=(Put(b"a", b"new"), Put(b"c", b"new"))), Txn(success=(DeleteRange(b"a", b"z"),))
    nested = Txn(success=(writing, deleting))
    done = await node.txn(nested)
    if from_history:
        stream.create(key=b"a", range_end=b"z", prev_kv=True, start_revision=done.revision)
    await stream.next()
    events = [event.value(prev_kv=True) for event in (await stream.next()).events]
    assert [(event.type, event.kv.key, event.prev_kv and event.prev_kv.value) for event in events] == [
        (EventType.PUT, b"a", b"old"),
        (EventType.PUT, b"c", None),  # it created the key
        (EventType.DELETE, b"a", b"old"),  # not the value that the same revision had given it
        (EventType.DELETE, b"b", b"old"),
        (EventType.DELETE, b"c", None),
    ]
    stream.close()


async def test_progress_is_answered_after_a_watch_whose_history_is_gone_was_ended(node: Node) -> None:
    for _ in range(5):
        await node.put(Put(b"a"))
    await node.compact(4)
    stream = node.watch_stream()
    stream.create(key=b"a", range_end=b"z")
    stream.create(key=b"a", range_end=b"z", start_revision=2)
    stream.request_progress()
    responses = [await stream.next() for _ in range(4)]
    assert [(each.watch_id, each.compact_revision) for each in responses] == [(0, 0), (1, 0), (1, 4), (-1, 0)]
    stream.close()
