"""A caller that cancels a call is told that, also when the connection went away at the same moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from kvstore.client import RemoteClient
from kvstore.client.endpoint import Endpoint
from kvstore.errors import Unavailable
from kvstore.node import Node, NodeOptions
from kvstore.server import Server

GONE = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone", "")


async def test_a_call_that_fails_as_it_is_cancelled_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc.aio raises the status that the call got, if that came before the cancellation reached it."""
    started = asyncio.Event()

    async def unary(*_: object) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise GONE from None
        raise AssertionError("nobody sets the event")

    async with (
        Node.open(tmp_path, NodeOptions(fsync=False)) as node,
        Server(node, ["http://127.0.0.1:0"]) as server,
        RemoteClient([server.client_urls[0]]) as client,
    ):
        await client.get(b"k")
        monkeypatch.setattr(Endpoint, "unary", unary)

        async def clean_up_after_a_cancellation() -> None:
            try:
                await client.put(b"k", b"v")
            finally:
                monkeypatch.setattr(Endpoint, "unary", fails)
                with pytest.raises(Unavailable):  # the cancellation before it does not hide it
                    await client.put(b"k", b"v")

        async def fails(*_: object) -> bytes:
            raise GONE

        calling = asyncio.create_task(clean_up_after_a_cancellation())
        await started.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
