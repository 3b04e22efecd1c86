"""Server processes to measure: ours, one that does nothing, and a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc

from kvstore.server import ServeConfig, serve

READY = "ready "
ANSWER = b"\x0a\x02\x18\x02"  # a PutResponse
CREATED = b"\x18\x01"  # a WatchResponse
CHANGED = b"\x5a\x66\x12\x64\x2a\x62" + bytes(98)  # one of its events, as large as one of ours with 64 bytes of value


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m benchmarks.servers ARGUMENTS...`, and its `HOST:PORT`; stopped at the end."""
    command = [sys.executable, "-m", "benchmarks.servers", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server, server.stdout.readline().removeprefix(READY).strip()
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


@contextlib.contextmanager
def ours(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Our server, with fsync, as `listwatch serve` runs it."""
    with process("ours", str(directory / "ours")) as started:
        yield started


@contextlib.contextmanager
def no_op() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A grpcio server that answers every unary call with the same bytes."""
    with process("no-op") as started:
        yield started


@contextlib.contextmanager
def fan_out() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A grpcio server that answers each put by writing as many ready-made responses as watches were asked for."""
    with process("fan-out") as started:
        yield started


@contextlib.asynccontextmanager
async def channels(endpoint: str, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Connections of their own to one server."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    async with contextlib.AsyncExitStack() as stack:
        opened = [grpc.aio.insecure_channel(endpoint, options=options) for _ in range(count)]
        for channel in opened:
            await stack.enter_async_context(channel)
            await channel.channel_ready()
        yield opened


class _NoOp(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic only in the stubs
    def __init__(self) -> None:
        async def answer(_: bytes, __: object) -> bytes:
            return ANSWER

        self._handler = grpc.unary_unary_rpc_method_handler(answer)

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handler


class _FanOut(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic only in the stubs
    """Events that come while a stream is being written to travel in one response for each watch, as they do in ours."""

    def __init__(self) -> None:
        self._puts = 0
        self._put = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        if details.method.endswith("/Watch"):
            return grpc.stream_stream_rpc_method_handler(self._watch)
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, _: bytes, __: object) -> bytes:
        self._puts += 1
        self._put.set()
        self._put = asyncio.Event()
        return ANSWER

    async def _watch(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        watches = 0
        seen = self._puts

        async def create() -> None:
            nonlocal watches
            async for _ in requests:
                watches += 1
                await context.write(CREATED)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(create())
            while True:
                if seen == self._puts:
                    await self._put.wait()
                    continue
                events, seen = self._puts - seen, self._puts
                response = CHANGED * events
                for _ in range(watches):
                    await context.write(response)


async def _serve_bare(handler: grpc.GenericRpcHandler) -> None:  # type: ignore[type-arg]
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"{READY}127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    await stop.wait()
    await server.stop(None)


def _run() -> None:
    if sys.argv[1] == "no-op":
        asyncio.run(_serve_bare(_NoOp()))
    elif sys.argv[1] == "fan-out":
        asyncio.run(_serve_bare(_FanOut()))
    else:
        config = ServeConfig(Path(sys.argv[2]), ("http://127.0.0.1:0",))
        asyncio.run(serve(config, lambda s: print(READY + s.client_urls[0].removeprefix("http://"), flush=True)))


if __name__ == "__main__":
    _run()
