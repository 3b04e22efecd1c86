"""What a second without a connection costs an informer of 100,000 objects: when the history is there it resumes its
watch, when that was compacted meanwhile it has to list again. Bytes, and seconds from the new connection on (what is
waited for that is up to the backoffs), over gRPC through a proxy that counts.

The relist is the baseline: it is what a watcher without a revision to resume from does each time.

    python -m benchmarks.relist_or_resume
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

from benchmarks.informer_events import PREFIX, pod
from benchmarks.informer_list import OBJECTS, fill
from benchmarks.informer_stream import remote
from benchmarks.servers import ours
from benchmarks.table import Row, quiet, show
from informer import SharedInformer, StoreListWatch
from informer.reflector import Backoff
from kvstore.api import Client, Put

AWAY = 1.0  # seconds
CHANGES = 1_000  # in that time
A_TXN = 50
ROUNDS = 3


class CountingProxy:
    """Passes bytes on to `target`, counts those to the client, and can be cut off."""

    def __init__(self, target: str) -> None:
        self._target = target.rsplit(":", 1)
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.up = True
        self.bytes = 0
        self.connected_at = 0.0

    async def __aenter__(self) -> CountingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)

    def cut(self) -> None:
        """Refuse and close connections until `up` is set again."""
        self.up = False
        for writer in self._open.values():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connected_at = asyncio.get_running_loop().time()
        from_server, to_server = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(
                self._pump(reader, to_server, count=False), self._pump(from_server, writer, count=True)
            )
        except OSError:
            return  # it was cut
        finally:
            to_server.transport.abort()
            writer.transport.abort()
            del self._open[task]

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, count: bool) -> None:
        while data := await source.read(1 << 16):
            if count:
                self.bytes += len(data)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError


async def away(client: Client, proxy: CountingProxy, informer: SharedInformer, *, compact: bool) -> tuple[float, int]:
    """Cut the informer off for a while; seconds and bytes from its new connection until the cache is right again."""
    clock = asyncio.get_running_loop().time
    proxy.cut()
    ends = clock() + AWAY
    revision = 0
    for first in range(0, CHANGES, A_TXN):
        response = await client.txn(success=[Put(*pod(n)) for n in range(first, first + A_TXN)])
        revision = response.header.revision
    if compact:
        await client.compact(revision)
    await asyncio.sleep(ends - clock())
    proxy.bytes = 0
    proxy.up = True
    await informer.cache.wait_for(str(revision))
    return clock() - proxy.connected_at, proxy.bytes


async def measure(address: str) -> dict[str, tuple[float, int]]:
    async with remote(address) as client, CountingProxy(address) as proxy, remote(proxy.address) as far:
        await fill(client)
        rng = random.Random(1)
        backoff = Backoff(rng, initial=0.02, maximum=0.02)
        informer = SharedInformer(StoreListWatch(far, PREFIX), rng=rng, backoff=backoff)
        async with informer:
            await informer.wait_synced()
            assert len(informer.cache) == OBJECTS
            resumes, relists = [], []
            for done in range(ROUNDS):
                resumes.append(await away(client, proxy, informer, compact=False))
                relists.append(await away(client, proxy, informer, compact=True))
                assert informer.statistics().reflector.relists == done + 1
            return {"resume": min(resumes), "relist": min(relists)}


def main() -> None:
    quiet()
    with tempfile.TemporaryDirectory() as directory, ours(Path(directory)) as (_, address):
        measured = asyncio.run(measure(address))
    seconds = {name: took for name, (took, _) in measured.items()}
    megabytes = {name: count / 1e6 for name, (_, count) in measured.items()}
    show(
        f"{OBJECTS} objects of {len(pod(0)[1])} bytes, {AWAY:.0f} s away, {CHANGES} changes meanwhile; "
        f"until the cache is right again, best of {ROUNDS}",
        [
            Row("relist", seconds["relist"], "s"),
            Row("resume", seconds["resume"], "s", "the relist", seconds["resume"] / seconds["relist"]),
            Row("relist", megabytes["relist"], "MB"),
            Row("resume", megabytes["resume"], "MB", "the relist", megabytes["resume"] / megabytes["relist"]),
        ],
    )


if __name__ == "__main__":
    main()
