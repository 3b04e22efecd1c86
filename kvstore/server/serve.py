"""A server process, from start to stop."""

from __future__ import annotations

import asyncio
import ctypes
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

from kvstore.collector import collect_less
from kvstore.node import Node
from kvstore.server.config import ServeConfig
from kvstore.server.edge import Server

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_MEMORY = 64 << 20
LARGEST_KEPT = 32 << 20  # glibc takes no more


async def serve(config: ServeConfig, on_ready: Callable[[Server], None] | None = None) -> None:
    """Open the data directory, answer clients until SIGINT or SIGTERM, then stop and close it.

    `on_ready` is called once clients are answered. The first signal stops cleanly, within `config.stop_grace` and a
    moment; a second one has its usual effect. Raises `DataDirError` or `ListenError` when it cannot start. Cancelling
    stops cleanly as well. Call it from the main thread: signals go there.
    """
    _keep_freed_memory()
    async with Node.open(config.data_dir, config.node) as node:
        collect_less()
        async with AsyncExitStack() as stack:
            server = await _start(node, config, stack)
            with _Signals() as signalled:
                if on_ready is not None:
                    on_ready(server)
                await signalled


async def _start(node: Node, config: ServeConfig, stack: AsyncExitStack) -> Server:
    server = Server(
        node,
        config.listen_client_urls,
        advertise_client_urls=config.advertise_client_urls,
        max_concurrent_streams=config.max_concurrent_streams,
        tls=config.tls,
        shared_urls=config.shared_urls,
    )
    await server.start()
    stack.push_async_callback(server.stop, config.stop_grace)
    if config.listen_client_http_urls or config.listen_metrics_urls:
        from kvstore.server.http import HttpServer  # aiohttp takes a tenth of a second to import

        http = HttpServer(
            node,
            server,
            client_urls=config.listen_client_http_urls,
            metrics_urls=config.listen_metrics_urls,
            tls=config.tls,
            stop_grace=config.stop_grace,
        )
        await http.start()
        stack.push_async_callback(http.stop)
        server.http_urls[:] = [*http.client_urls, *http.metrics_urls]
    if config.auto_compaction is not None:
        task = asyncio.create_task(config.auto_compaction.run(node), name="auto compaction")
        stack.push_async_callback(_cancelled, task)
    return server


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _keep_freed_memory() -> None:
    # By default glibc gives the memory of a large answer back to the system, and each page of the next one is a fault:
    # a third of the time of a Range of 20,000 keys.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)


class _Signals:
    """A future that the first of the stop signals completes; after it they work as before."""

    def __enter__(self) -> asyncio.Future[None]:
        self._loop = asyncio.get_running_loop()
        self._signalled: asyncio.Future[None] = self._loop.create_future()
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal)
        return self._signalled

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _on_signal(self) -> None:
        self._remove()
        if not self._signalled.done():
            self._signalled.set_result(None)

    def _remove(self) -> None:
        for number in STOP_SIGNALS:
            self._loop.remove_signal_handler(number)
