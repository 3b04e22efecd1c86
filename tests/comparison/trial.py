"""One watcher, one fault: start it, wait until it is in step, break something, and see what it believes in the end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from tests.comparison.judge import Evidence, Told, Verdict, View, judge, peak
from tests.faults.proxy import FaultProxy

ROOT = Path(__file__).parents[2]
ALIVE_WITHIN = 10.0  # seconds, for a change when nothing is broken

Watch: TypeAlias = Callable[[str, View], AbstractAsyncContextManager[None]]


class Bench(Protocol):
    """A store that can be broken, and what is true in it."""

    @property
    def url(self) -> str: ...

    @property
    def truth(self) -> Mapping[str, str]:
        """Key -> revision."""

    @property
    def requests(self) -> Sequence[float]:
        """When each was made, of the loop's clock."""

    @property
    def lists(self) -> int: ...

    async def touch(self) -> None:
        """Change one object."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """Seconds: to get in step at first, and to be right again after the fault."""

    first: float = 30.0
    after: float = 20.0


PATIENCE = Patience()


async def trial(
    bench: Bench, watch: Watch, fault: Callable[[], Awaitable[None]], patience: Patience, *, keeps_history: bool = False
) -> Verdict:
    """Break `bench` with `fault` under a watcher. keeps_history: nothing forces it to list again."""
    view = View()
    loop = asyncio.get_running_loop()

    def right() -> bool:
        return view.known == bench.truth

    async with watch(bench.url, view):
        # A change that is told shows that the watch is open too.
        in_step = await view.until(right, patience.first)
        if in_step:
            await bench.touch()
            in_step = await view.until(right, ALIVE_WITHIN)
        if not in_step:
            why = f"raises {view.ended}" if view.ended else "is never in step"
            return Verdict(true=False, text=f"{why}, before any fault", silent=not view.ended)
        told, lists, began = view.told, bench.lists, loop.time()
        await fault()
        over = loop.time()
        recovered = loop.time() - over if await view.until(right, patience.after) else None
        alive = False
        if recovered is not None:
            await bench.touch()
            alive = await view.until(right, ALIVE_WITHIN)
        evidence = Evidence(
            recovered=recovered,
            alive=alive,
            told_before=told,
            peak=peak(bench.requests, began),
            relists=bench.lists - lists if keeps_history else 0,
        )
        return judge(view, bench.truth, evidence)


class CountingProxy(FaultProxy):
    """Remembers when it made and when it refused a connection."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.made: list[float] = []
        self.refused: list[float] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times = self.refused if self.refusing else self.made
        times.append(asyncio.get_running_loop().time())
        await super()._serve(reader, writer)


def process(name: str, log: Path) -> Watch:
    """The watcher of that name in `candidates`, in a process of its own that is killed at the end."""

    @contextlib.asynccontextmanager
    async def watch(url: str, view: View) -> AsyncIterator[None]:
        with log.open("ab") as errors:
            started = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.comparison.candidates",
                name,
                url,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )
        assert started.stdout is not None
        reading = asyncio.create_task(_read(started, view))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                started.kill()
            await started.wait()
            await reading

    return watch


async def _read(started: asyncio.subprocess.Process, view: View) -> None:
    assert started.stdout is not None
    async for line in started.stdout:
        view.observe(msgspec.json.decode(line, type=Told))
    if view.ended is None:
        view.observe(Told("ended", why=f"nothing, its process ends with {await started.wait()}"))
