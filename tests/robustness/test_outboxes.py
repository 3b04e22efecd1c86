"""What many streams that nobody reads may hold together."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore import watch
from kvstore.api import Put
from kvstore.node import Node, NodeOptions

STREAMS = 40
VALUE = bytes(4_000)
PUTS = 200


@pytest.mark.parametrize("from_history", [False, True])
async def test_streams_share_a_bound_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_history: bool
) -> None:
    monkeypatch.setattr(watch, "OUTBOXES_BYTES", 1 << 20)
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:

        async def write() -> None:
            for number in range(PUTS):
                await node.put(Put(b"k%d" % (number % 7), VALUE))

        if from_history:
            await write()
        streams = [node.watch_stream() for _ in range(STREAMS)]
        for stream in streams:
            stream.create(key=b"k", range_end=b"l", start_revision=2)
        if not from_history:
            await write()
        share = node._hub.share
        assert share == (1 << 20) // STREAMS
        while any(stream.watchers[0].state is watch.State.SYNCED for stream in streams):
            node._hub.sync_pass()
        for stream in streams:
            assert stream.outbox_bytes <= 2 * share, "a response that was let in while there was room fits a share"
            revisions: list[int] = []
            while len(revisions) < PUTS:
                revisions += [event.mod_revision for event in (await stream.next()).events]
            assert revisions == list(range(2, PUTS + 2))
        for stream in streams:
            stream.close()
        assert node._hub.share == 1 << 20
