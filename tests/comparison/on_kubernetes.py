"""Faults of a Kubernetes API server and of the network before it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.comparison.apiserver import EMPTY, ApiServer
from tests.comparison.judge import Verdict
from tests.comparison.trial import PATIENCE, CountingProxy, Patience, Watch, trial
from tests.comparison.world import World

PODS = 20
FAULT_SECONDS = 5.0
BOOKMARK_EVERY = 1.0


class KubernetesBench:
    """A `World`, its API server, and a proxy before it."""

    def __init__(self, world: World, server: ApiServer, proxy: CountingProxy, fault_seconds: float) -> None:
        self.world = world
        self.server = server
        self.proxy = proxy
        self.fault_seconds = fault_seconds

    @property
    def url(self) -> str:
        return f"http://{self.proxy.address}"

    @property
    def truth(self) -> Mapping[str, str]:
        return self.world.truth

    @property
    def requests(self) -> Sequence[float]:
        return sorted([*(at for at, _ in self.server.requests), *self.proxy.refused])

    @property
    def lists(self) -> int:
        return sum(verb == "list" for _, verb in self.server.requests)

    async def touch(self) -> None:
        self.world.put("pod-000")

    def move(self) -> None:
        """Something of everything: a new object, a changed one, deleted ones, one that is deleted and made anew."""
        self.world.put("new", "pod-001")
        self.world.delete("pod-002", "pod-003", "pod-004")
        self.world.put("pod-004")


@asynccontextmanager
async def bench(pods: int, fault_seconds: float, bookmark_every: float) -> AsyncIterator[KubernetesBench]:
    world = World()
    world.put(*(f"pod-{n:03}" for n in range(pods)))
    async with (
        ApiServer(world, bookmark_every=bookmark_every) as server,
        CountingProxy(server.host, server.port) as proxy,
    ):
        yield KubernetesBench(world, server, proxy, fault_seconds)


# ---- the faults. What happens without an `await` in between, a watcher cannot see a part of.


async def ends_in_order(at: KubernetesBench) -> None:
    at.server.end_watches("eof")
    at.move()


async def reset(at: KubernetesBench) -> None:
    at.proxy.reset()
    at.server.end_watches("abort")
    at.move()


async def half_a_line(at: KubernetesBench) -> None:
    at.server.end_watches("half a line")
    at.move()


async def gone_as_status(at: KubernetesBench) -> None:
    at.server.end_watches("eof")
    at.move()
    at.world.compact()


async def gone_in_stream(at: KubernetesBench) -> None:
    at.server.gone_in_stream = True
    await gone_as_status(at)


async def error_in_stream(at: KubernetesBench) -> None:
    at.server.send_error(500, "InternalError")
    at.move()


async def too_many_requests(at: KubernetesBench) -> None:
    at.server.fail = {"watch": 429}
    await _for_a_while(at)


async def server_errors(at: KubernetesBench) -> None:
    at.server.fail = {"watch": 500, "list": 500}
    await _for_a_while(at)


async def ends_at_once(at: KubernetesBench) -> None:
    at.server.fail = {"watch": EMPTY}
    await _for_a_while(at)


async def _for_a_while(at: KubernetesBench) -> None:
    at.server.end_watches("eof")
    at.move()
    await asyncio.sleep(at.fault_seconds)
    at.server.fail = {}


async def down(at: KubernetesBench) -> None:
    at.proxy.refusing = True
    at.proxy.cut()
    at.server.end_watches("abort")
    at.move()
    await asyncio.sleep(at.fault_seconds)
    at.proxy.refusing = False


async def silence(at: KubernetesBench) -> None:
    at.proxy.stall()
    at.move()


async def quiet(at: KubernetesBench) -> None:
    at.world.elsewhere(1000)
    await asyncio.sleep(2.5 * at.server.bookmark_every)
    at.world.compact()
    at.server.end_watches("eof")


async def pieces(at: KubernetesBench) -> None:
    at.server.piece = 37
    at.move()


async def next_line(at: KubernetesBench) -> None:
    at.world.put("pod-005", note="one line\x85next line")


async def page_expires(at: KubernetesBench) -> None:
    """The watch is lost with its history, and the second page of the list that follows is gone as well."""
    at.server.expire_pages = 1
    await gone_as_status(at)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """keeps_history: all that was missed can still be had from a watch."""

    title: str
    fault: Callable[[KubernetesBench], Awaitable[None]]
    keeps_history: bool = True
    pods: int = PODS
    patience: Patience = PATIENCE


SCENARIOS = {
    "ends-in-order": Scenario("the server ends the watch, as it does every few minutes", ends_in_order),
    "reset": Scenario("the connection is reset", reset),
    "half-a-line": Scenario("the watch is cut in the middle of an event", half_a_line),
    "pieces": Scenario("events arrive in pieces of 37 bytes", pieces),
    "next-line": Scenario("a value holds U+0085, which JSON does not escape", next_line),
    "gone-status": Scenario("the history is gone, told by the status 410", gone_as_status, keeps_history=False),
    "gone-event": Scenario("the history is gone, told by an ERROR event", gone_in_stream, keeps_history=False),
    "page-expires": Scenario("the same, and the new list's second page expires", page_expires, False, pods=1200),
    "error-event": Scenario("an ERROR event with code 500", error_in_stream),
    "429": Scenario("watches are answered 429 for 5 s", too_many_requests),
    "500": Scenario("everything is answered 500 for 5 s", server_errors),
    "empty": Scenario("watches end as soon as they are accepted, for 5 s", ends_at_once),
    "down": Scenario("connections are closed as soon as they are made, for 5 s", down),
    "silence": Scenario("the connection falls silent and is never closed", silence, patience=Patience(after=100.0)),
    "quiet": Scenario("nothing happens to the Pods while the history moves on, then the watch ends", quiet),
}


async def run(
    scenario: Scenario,
    watch: Watch,
    *,
    fault_seconds: float = FAULT_SECONDS,
    bookmark_every: float = BOOKMARK_EVERY,
    patience: Patience | None = None,
) -> Verdict:
    """What becomes of a watcher."""
    async with bench(scenario.pods, fault_seconds, bookmark_every) as at:
        verdict = await trial(
            at, watch, lambda: scenario.fault(at), patience or scenario.patience, keeps_history=scenario.keeps_history
        )
        if verdict.true and at.server.expire_pages:
            return dataclasses.replace(verdict, text=f"{verdict.text}; does not list in pages")
        return verdict
