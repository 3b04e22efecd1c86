"""Lives of one server on one data directory, each ended by SIGKILL under traffic and faults, then the whole check."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import random
import signal
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path

from kvstore.api import Client
from kvstore.client import RemoteClient
from kvstore.errors import Unavailable
from tests.faults.proxy import FaultProxy
from tests.robustness.failpoints import COMMIT_POINTS, COMPACTION_POINTS
from tests.robustness.history import Call, History
from tests.robustness.server import StartError, serving
from tests.robustness.traffic import EVERYTHING, Traffic, bounded, check_kept
from tests.robustness.watchers import Watcher

LONGEST_LIFE = 0.6  # seconds of traffic
FAILPOINT_LIFE = 1.5  # what a failpoint has to be reached in, else the kill comes at that instant
DIRECT_CLIENTS, PROXIED_CLIENTS, WATCHERS = 4, 2, 4
OUTBOXES = (300, 2_000, 64 << 10, 4 << 20)
LONGEST_END = 30.0  # seconds until a cancelled task must have ended
AT_RANDOM = "random instant"
PROGRESS_INTERVAL = 0.1


@dataclasses.dataclass
class Report:
    """What a run did. `kills` counts by the point at which the server died."""

    kills: dict[str, int] = dataclasses.field(default_factory=dict)
    acknowledged: int = 0
    undecided: int = 0
    revisions: int = 0
    compactions: int = 0
    events: int = 0
    resumed: int = 0
    cut_off: int = 0  # watchers that history went away from under

    def add(self, other: Report) -> None:
        """Sum up."""
        for point, count in other.kills.items():
            self.kills[point] = self.kills.get(point, 0) + count
        for field in dataclasses.fields(self)[1:]:
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def killed(self) -> int:
        """All kills."""
        return sum(self.kills.values())


class Run:
    """One data directory."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._rng = random.Random(seed)
        self._numbers = itertools.count(1)
        self.history = History()
        self._watchers = [Watcher(self.history, random.Random(self._rng.random())) for _ in range(WATCHERS)]
        self._report = Report()

    async def run(self, kills: int) -> Report:
        """Kill that often, then let everybody catch up, and check. Raises AssertionError at the first thing wrong."""
        for _ in range(kills):
            await self._life()
        await self._last_life()
        history, report = self.history, self._report
        history.check()
        report.events = sum(watcher.check() for watcher in self._watchers)
        report.acknowledged = sum(call.revision > 0 for call in history.calls)
        report.undecided = sum(call.revision == 0 and not call.refused for call in history.calls)
        report.revisions = history.revision
        report.compactions = len(history.compactions)
        report.resumed = sum(watcher.resumed for watcher in self._watchers)
        report.cut_off = sum(watcher.compacted for watcher in self._watchers)
        return report

    async def _life(self) -> None:
        rng = self._rng
        point = rng.choice((*COMMIT_POINTS, *COMPACTION_POINTS)) if rng.random() < 0.6 else ""
        count = int(rng.expovariate(1 / (60 if point in COMMIT_POINTS else 2))) + 1
        died_at = point or AT_RANDOM
        try:
            async with contextlib.AsyncExitStack() as stack:
                server, address = await stack.enter_async_context(
                    serving(
                        self._directory,
                        outbox_bytes=rng.choice(OUTBOXES),
                        progress_interval=PROGRESS_INTERVAL,
                        failpoint=f"{point}:{count}" if point else "",
                    )
                )
                everybody = await self._everybody(stack, address)
                if everybody:
                    ended = asyncio.create_task(server.wait())
                    life = FAILPOINT_LIFE if point else rng.random() * LONGEST_LIFE
                    crowd = [asyncio.create_task(each) for each in everybody]
                    try:
                        await asyncio.wait((ended, *crowd), timeout=life, return_when=asyncio.FIRST_COMPLETED)
                        if server.returncode is None and not any(task.done() for task in crowd):
                            server.send_signal(signal.SIGKILL)
                            died_at = AT_RANDOM
                    finally:
                        await _end([*crowd, ended])
                await bounded(server.wait())
                assert server.returncode == -signal.SIGKILL, f"the server ended by itself: {server.returncode}"
        except StartError as error:
            if error.returncode != -signal.SIGKILL:
                raise
        self._report.kills[died_at] = self._report.kills.get(died_at, 0) + 1

    async def _everybody(self, stack: contextlib.AsyncExitStack, address: str) -> list[Coroutine[object, object, None]]:
        """Who takes part in a life; nobody if the server dies before it began."""
        history, rng = self.history, self._rng
        host, _, port = address.rpartition(":")
        proxy = await stack.enter_async_context(FaultProxy(host, int(port)))
        clients = [
            await stack.enter_async_context(RemoteClient([each], rng=rng))
            for each in [address] * (DIRECT_CLIENTS + 1) + [proxy.address] * PROXIED_CLIENTS
        ]
        recording, *writing = clients
        try:
            await self._began(recording)
        except Unavailable:
            return []
        life = len(history.lives) - 1
        return [
            _record(recording, history),
            _faults(proxy, random.Random(rng.random())),
            *(Traffic(each, history, random.Random(rng.random()), life, self._numbers).run() for each in writing),
            *(
                watcher.run(clients[-1 - number % PROXIED_CLIENTS] if number % 2 else clients[1])
                for number, watcher in enumerate(self._watchers)
            ),
        ]

    async def _began(self, client: Client) -> None:
        history = self.history
        clock = asyncio.get_running_loop().time
        call = Call(EVERYTHING, len(history.lives), clock())
        response = await bounded(client.range(EVERYTHING))
        history.began(response.header.revision)
        call.returned, call.revision, call.answer = clock(), response.header.revision, (response.count, response.kvs)
        history.calls.append(call)
        await bounded(check_kept(client, history))

    async def _last_life(self) -> None:
        history = self.history
        async with contextlib.AsyncExitStack() as stack:
            serve = serving(self._directory, progress_interval=PROGRESS_INTERVAL)
            _, address = await stack.enter_async_context(serve)
            client = await stack.enter_async_context(RemoteClient([address], rng=self._rng))
            await self._began(client)
            recording = asyncio.create_task(_record(client, history))
            try:
                traffic = Traffic(client, history, self._rng, len(history.lives) - 1, self._numbers)
                for _ in range(10):
                    await bounded(traffic.write_once())
                final = (await bounded(client.range(EVERYTHING))).header.revision
                await bounded(asyncio.gather(*(watcher.finish(client, final) for watcher in self._watchers)))
                while history.revision < final and not recording.done():
                    await asyncio.sleep(0.01)
            finally:
                await _end([recording])


async def _record(client: Client, history: History) -> None:
    """Watch everything into the history."""
    clock = asyncio.get_running_loop().time
    while True:
        try:
            start = history.revision + 1
            async with client.watch(EVERYTHING.key, EVERYTHING.range_end, start_revision=start) as watch:
                async for response in watch:
                    history.watched(response, clock())
        except Unavailable:
            await asyncio.sleep(0.005)


async def _faults(proxy: FaultProxy, rng: random.Random) -> None:
    """Stall and cut the connections through the proxy."""
    while True:
        await asyncio.sleep(rng.random() * 0.15)
        match rng.choice(("cut", "reset", "cut_after", "stall", "stall")):
            case "cut":
                proxy.cut()
            case "reset":
                proxy.reset()
            case "cut_after":
                proxy.cut_after(rng.randrange(1, 20_000))
            case "stall":
                proxy.stall()
                await asyncio.sleep(rng.random() * 0.2)
                proxy.flow()


async def _end(tasks: Sequence[asyncio.Task[None] | asyncio.Task[int]]) -> None:
    """Cancel and wait; what any of them had failed with is raised."""
    for task in tasks:
        task.cancel()
    _, stuck = await asyncio.wait(tasks, timeout=LONGEST_END)
    assert not stuck, f"a cancelled task went on: {stuck}"
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def one(seed: int, kills: int) -> Report:
    """The kills of one data directory."""
    with tempfile.TemporaryDirectory(prefix="listwatch-robustness-") as directory:
        try:
            return asyncio.run(Run(Path(directory) / "data", seed).run(kills))
        except BaseException as error:
            error.add_note(f"seed {seed}, {kills} kills of one data directory")
            raise
