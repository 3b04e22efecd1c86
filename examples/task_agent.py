"""Teaches why a watch alone is not enough, and what a list is for.

Tasks are keys under /tasks/. An agent carries out each task it hears of. The first agent only watches: it never hears
of the tasks that were handed out before it came, nor of those handed out while it was away. The second one lists, then
watches from the revision of the list on, and after each absence from the last revision it has seen. Both run through
the same day, side by side (examples/list_watch.py adds what to do when that revision is compacted):

    python examples/task_agent.py
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kvstore.api import Client, EventType, Range, Watch, prefix_end
from kvstore.client import EmbeddedClient
from kvstore.node import Node

PREFIX = b"/tasks/"
END = prefix_end(PREFIX)


class WatchingAgent:
    """Watches from now on, each time it comes to work."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.handled: set[str] = set()
        self._progress = asyncio.Event()

    def handle(self, key: bytes) -> None:
        self.handled.add(key.removeprefix(PREFIX).decode())
        self._progress.set()

    async def open_watch(self) -> Watch:
        return self.client.watch(PREFIX, END)

    async def work(self, watch: Watch) -> None:
        async for response in watch:
            for event in response.events:
                if event.type is EventType.PUT:
                    self.handle(event.kv.key)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """At work inside the block, away outside of it."""
        async with await self.open_watch() as watch:
            working = asyncio.create_task(self.work(watch))
            try:
                yield
            finally:
                working.cancel()
                await asyncio.wait([working])

    async def has_handled(self, task: str) -> None:
        while task not in self.handled:
            self._progress.clear()
            await self._progress.wait()


class ListWatchingAgent(WatchingAgent):
    """Lists once, and watches from the last revision it has seen."""

    seen = 0

    async def open_watch(self) -> Watch:
        if not self.seen:
            tasks = await self.client.range(Range(PREFIX, END))
            for kv in tasks.kvs:
                self.handle(kv.key)
            self.seen = tasks.header.revision
        return self.client.watch(PREFIX, END, start_revision=self.seen + 1)

    async def work(self, watch: Watch) -> None:
        async for response in watch:
            for event in response.events:
                if event.type is EventType.PUT:
                    self.handle(event.kv.key)
                self.seen = event.kv.mod_revision


async def hand_out(client: Client, *tasks: str) -> None:
    for task in tasks:
        await client.put(PREFIX + task.encode(), b"to do")


async def a_day(client: Client, agents: list[WatchingAgent]) -> list[str]:
    """Tasks are handed out before the agents come, while they work, while they are away, and after they are back."""
    await hand_out(client, "1", "2", "3")
    print("tasks 1 2 3 are handed out; then the agents come")
    first, second = agents
    async with first.at_work(), second.at_work():
        await hand_out(client, "4")
        print("task 4 is handed out while they work")
        await asyncio.gather(*(agent.has_handled("4") for agent in agents))
    await hand_out(client, "5", "6")
    print("tasks 5 6 are handed out while they are away; then they are back")
    async with first.at_work(), second.at_work():
        await hand_out(client, "7")
        print("task 7 is handed out while they work")
        await asyncio.gather(*(agent.has_handled("7") for agent in agents))
    return ["1", "2", "3", "4", "5", "6", "7"]


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with Node.open(Path(directory)) as node:
            client = EmbeddedClient(node)
            watching, list_watching = WatchingAgent(client), ListWatchingAgent(client)
            tasks = await a_day(client, [watching, list_watching])
    print(f"\n{'agent':<19} {'handled':<15} missed")
    for name, agent in (("only watches", watching), ("lists, then watches", list_watching)):
        missed = [task for task in tasks if task not in agent.handled]
        print(f"{name:<19} {' '.join(sorted(agent.handled)):<15} {' '.join(missed) or '-'}")
    assert watching.handled == {"4", "7"}
    assert list_watching.handled == set(tasks)
    print("\nchecked: the one that only watches misses what it did not witness; the other one nothing")


if __name__ == "__main__":
    asyncio.run(main())
