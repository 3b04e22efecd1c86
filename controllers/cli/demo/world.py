"""What the demo runs: an embedded store, served; and controllers that reach it over a link that can be cut.

The demo itself stands beside the store: it reads and writes through the embedded client, and so goes on seeing while
the controllers see nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from controllers.apps.types import Deployment, ReplicaSet
from controllers.builtin import Workloads, add_workloads
from controllers.cli.demo.link import Link
from controllers.cli.demo.runner import StepFailed
from controllers.cli.kinds import Kinds
from controllers.cli.session import Session
from controllers.core.types import Node as Machine
from controllers.core.types import Pod
from controllers.manager import Manager
from informer.cache import Stored
from informer.client import ObjectClient
from informer.listwatch import StoreListWatch
from informer.resources import Resource
from informer.shared import Handler, InformerStatistics, SharedInformer
from kvstore.client import EmbeddedClient, RemoteClient
from kvstore.node import Node, NodeOptions
from kvstore.server import Server

R = TypeVar("R", bound=Resource)

# An informer that changes its state makes no event in the store; it is looked at this often, in seconds.
LOOK_EVERY = 0.05
# The nodes must outlast the cuts, and a killed one must be missed within the demo's time. Seconds.
NODE_GRACE, EVICTION_AFTER = 3.0, 0.5
START_TIMEOUT = 5.0
# Start, readiness and end of a pod, for eyes and for pipes.
VISIBLE = ((0.1, 0.3), (0.2, 0.6), (0.1, 0.3))
QUICK = ((0.05, 0.15), (0.1, 0.3), (0.05, 0.15))


class World:
    """Everything there is, and how it stands. Made by `open_world`."""

    def __init__(self, node: Node, link: Link, manager: Manager, workloads: Workloads, session: Session) -> None:
        self.node = node
        self.link = link
        self.manager = manager
        self.workloads = workloads
        self.session = session
        self._changed = asyncio.Event()
        self._informers: dict[type[Resource], SharedInformer] = {}
        for cls in (Deployment, ReplicaSet, Pod, Machine):
            informer = SharedInformer(StoreListWatch(session.client, cls.TYPE), name=cls.TYPE.qualified)
            informer.add_handler(_Wake(self._changed))
            self._informers[cls] = informer

    @property
    def informers(self) -> Sequence[SharedInformer]:
        """The demo's own, on the embedded client."""
        return [*self._informers.values()]

    @property
    def revision(self) -> int:
        """The store's."""
        return self.node.revision

    def all(self, cls: type[R]) -> list[R]:
        """The objects of a kind, by name."""
        found = [cls.decode(each.data, each.revision) for each in self._informers[cls].cache.list()]
        return sorted(found, key=lambda obj: obj.name)

    def deployment(self, name: str) -> Deployment:
        """One Deployment. Raises StepFailed if it is not there."""
        stored = self._informers[Deployment].cache.get(f"default/{name}")
        if stored is None:
            raise StepFailed(f"there is no deployment {name}")
        return Deployment.decode(stored.data, stored.revision)

    def watchers(self) -> Mapping[str, InformerStatistics]:
        """The controllers' informers, which are the ones that lose their connection."""
        return self.manager.statistics().informers

    def nodes_ready(self) -> bool:
        """Whether every node is there and says that it is ready."""
        ready = {machine.name for machine in self.all(Machine) if machine.ready}
        return ready >= set(self.workloads.nodes.names)

    def add_pod_handler(self, handler: Handler) -> Callable[[], None]:
        """Be told of every change of a pod, until what is returned is called."""
        return self._informers[Pod].add_handler(handler).remove

    async def until(self, expected: str, reached: Callable[[], bool], timeout: float) -> None:
        """Wait until something holds. Raises StepFailed after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not reached():
                    self._changed.clear()
                    await self._any_change()
        except TimeoutError:
            raise StepFailed(f"expected within {timeout:g} s: {expected}") from None

    async def _any_change(self) -> None:
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await self._changed.wait()
        except TimeoutError:
            return


class _Wake(Handler):
    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def on_add(self, new: Stored, initial: bool) -> None:
        self._event.set()

    def on_update(self, old: Stored, new: Stored) -> None:
        self._event.set()

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._event.set()


@asynccontextmanager
async def open_world(directory: Path, *, visible: bool) -> AsyncIterator[World]:
    """Start it all in a directory; leaving stops it. `visible`: pods take long enough to be looked at."""
    start, ready, end = VISIBLE if visible else QUICK
    async with AsyncExitStack() as stack:
        # What is in the directory goes with the demo; nobody waits for a disk on its account.
        node = await stack.enter_async_context(Node.open(directory / "store", NodeOptions(fsync=False)))
        server = await stack.enter_async_context(Server(node, ["http://127.0.0.1:0"]))
        host, _, port = server.client_urls[0].removeprefix("http://").rpartition(":")
        link = await stack.enter_async_context(Link((host, int(port))))
        far = await stack.enter_async_context(RemoteClient([link.address]))
        near = EmbeddedClient(node)
        stack.push_async_callback(near.close)
        manager = Manager(client=far, rng=random.Random(), stop_timeout=1.0)
        workloads = add_workloads(
            manager,
            nodes=3,
            pod_start_delay=start,
            pod_ready_delay=ready,
            pod_delete_delay=end,
            node_grace=NODE_GRACE,
            eviction_after=EVICTION_AFTER,
        )
        objects = ObjectClient(near, field_manager="listwatch-demo")
        world = World(node, link, manager, workloads, Session(near, objects, Kinds()))
        for informer in world.informers:
            await stack.enter_async_context(informer)
            await informer.wait_synced()
        await stack.enter_async_context(manager)
        # Whatever state a step left the link in, the manager stops faster over one that is up.
        stack.callback(link.up)
        await world.until("three nodes ready", world.nodes_ready, START_TIMEOUT)
        yield world
