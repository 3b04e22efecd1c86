"""Faults of an etcd, a real one, and of the network before it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kvstore.api import Put
from kvstore.client.remote import RemoteClient
from tests.comparison.judge import Verdict
from tests.comparison.trial import PATIENCE, CountingProxy, Patience, Watch, trial
from tests.etcd_process import running_etcd

PREFIX = b"/registry/pods/"
OTHER = b"/registry/leases/one"
KEYS = 20
BURST = 500
FAULT_SECONDS = 5.0
PROGRESS_SECONDS = 1  # etcd's default is ten minutes


class EtcdBench:
    """An etcd and a proxy before it; what is written goes around the proxy."""

    def __init__(self, store: RemoteClient, proxy: CountingProxy) -> None:
        self.store = store
        self.proxy = proxy
        self._truth: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://{self.proxy.address}"

    @property
    def truth(self) -> Mapping[str, str]:
        return self._truth

    @property
    def requests(self) -> Sequence[float]:
        """Connections, here."""
        return sorted([*self.proxy.made, *self.proxy.refused])

    @property
    def lists(self) -> int:
        return 0

    async def touch(self) -> None:
        await self.put("pod-000")

    async def put(self, *names: str) -> None:
        for name in names:
            response = await self.store.put(PREFIX + name.encode(), b"{}")
            self._truth[name] = str(response.header.revision)

    async def delete(self, *names: str) -> None:
        for name in names:
            await self.store.delete(PREFIX + name.encode())
            del self._truth[name]

    async def put_at_once(self, *names: str) -> None:
        """All in one revision."""
        response = await self.store.txn(success=[Put(PREFIX + name.encode(), b"{}") for name in names])
        self._truth |= dict.fromkeys(names, str(response.header.revision))

    async def move(self) -> None:
        """Something of everything, while nobody can look."""
        await self.put("new", "pod-001")
        await self.delete("pod-002", "pod-003", "pod-004")
        await self.put("pod-004")

    async def compact(self) -> None:
        revision = (await self.store.status()).header.revision
        await self.store.compact(revision, physical=True)


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[EtcdBench]:
    progress = f"--experimental-watch-progress-notify-interval={PROGRESS_SECONDS}s"
    with running_etcd(directory, progress) as address:
        host, _, port = address.partition(":")
        store = RemoteClient([address])
        try:
            async with CountingProxy(host, int(port)) as proxy:
                at = EtcdBench(store, proxy)
                await at.put(*(f"pod-{n:03}" for n in range(KEYS)))
                yield at
        finally:
            await store.close()


# ---- the faults


async def cut(at: EtcdBench) -> None:
    at.proxy.refusing = True
    at.proxy.cut()
    await at.move()
    at.proxy.refusing = False


async def reset(at: EtcdBench) -> None:
    at.proxy.refusing = True
    at.proxy.reset()
    await at.move()
    at.proxy.refusing = False


async def torn(at: EtcdBench) -> None:
    at.proxy.tear(5)
    await at.move()


async def compacted(at: EtcdBench) -> None:
    at.proxy.refusing = True
    at.proxy.cut()
    await at.move()
    await at.compact()
    await at.touch()
    at.proxy.refusing = False


async def down(at: EtcdBench) -> None:
    at.proxy.refusing = True
    at.proxy.cut()
    await at.move()
    await asyncio.sleep(FAULT_SECONDS)
    at.proxy.refusing = False


async def silence(at: EtcdBench) -> None:
    at.proxy.stall()
    await at.move()


async def burst(at: EtcdBench) -> None:
    names = [f"burst-{n:03}" for n in range(BURST)]
    for first in range(0, BURST, 100):
        await at.put_at_once(*names[first : first + 100])
    await at.delete(*names[:50])


async def pieces(at: EtcdBench) -> None:
    at.proxy.crumble(37)
    await at.move()


@dataclasses.dataclass(frozen=True)
class Scenario:
    title: str
    fault: Callable[[EtcdBench], Awaitable[None]]
    patience: Patience = PATIENCE


SCENARIOS = {
    "burst": Scenario(f"{BURST} new keys in 5 revisions, then 50 deletes", burst),
    "pieces": Scenario("events arrive in pieces of 37 bytes", pieces),
    "cut": Scenario("the connection is closed, and new ones are refused for a moment", cut),
    "reset": Scenario("the same, reset", reset),
    "torn": Scenario("the connection is cut in the middle of an event", torn),
    "down": Scenario("connections are closed as soon as they are made, for 5 s", down),
    "compacted": Scenario("the same, and the history is compacted meanwhile", compacted),
    "silence": Scenario("the connection falls silent and is never closed", silence, Patience(after=100.0)),
}


async def run(scenario: Scenario, watch: Watch, directory: Path) -> Verdict:
    """What becomes of a watcher."""
    async with bench(directory) as at:
        return await trial(at, watch, lambda: scenario.fault(at), scenario.patience)
