"""Lives of a whole cluster on virtual time: users wish, nodes die, the network fails, and the processes of the built-in
controllers end after any of their writes, to be started again; two of them may run for one office.

Subclass `User` for what users of a kind do, live a life, and look at the history:

    life = await live(store, Jobs(seed), leaders=2)
    revisions = await history(store)
    assert life.user.end(revisions[-1]) == await undisturbed(Jobs(seed))

The same user lives the undisturbed life: `begin` and `settle` alone, without faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from controllers.builtin import add_workloads
from controllers.core.types import Lease, Pod
from controllers.errors import ControllerError
from controllers.leader import LeaderElection
from controllers.manager import Manager
from controllers.settings import Settings
from controllers.simulation.client import NO_FAULTS, Faults, SimulatedClient
from informer.client import ObjectClient
from informer.errors import ApiError, NotFound
from kvstore.api import Client, prefix_end
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import KvError
from kvstore.node import Node, NodeOptions
from tests.controllers.cluster import Cluster, Revision, history, virtual_now

# Late events are stale caches, of each kind by itself.
FAULTS = Faults(refused=0.005, crash=0.01, slow=0.03, slowest=1.0, late=0.03, latest=3.0, cut=0.02)
WITHOUT_CRASHES = Faults(refused=0.005, crash=0, slow=0.03, slowest=1.0, late=0.03, latest=3.0, cut=0.02)

STEPS = 12
PAUSES = (0.0, 0.1, 1.0, 5.0, 30.0)  # seconds between them
PATIENCE = 4_000.0  # seconds, virtual, from the last fault to the end
REST = 60.0  # seconds that it is looked on at the end
OFFICE = "simulated"
RESTART = (0.1, 5.0)  # seconds until a process that ended is started again
DEPOSE = 0.1  # of the steps, where there are two: the leader loses its office without knowing


def seeds(count: int) -> range:
    """So many lives; more with SIMULATION_SEEDS=1000."""
    return range(int(os.environ.get("SIMULATION_SEEDS", count)))


class User:
    """Does as a seed says. Reads and writes the store itself, without faults. `it` is a cluster that runs."""

    options: ClassVar[dict[str, Any]] = {"pod_delete_delay": (0.1, 3.0), "node_grace": 8.0, "eviction_after": 4.0}
    """What `add_workloads` is given."""

    it: Cluster
    client: ObjectClient
    """The user's own way to the store, the same for all its life: uids are drawn from its randomness."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/user")
        self.down: set[str] = set()
        self.clusters: list[Cluster] = []
        self.deleted: set[str] = set()  # uids of the pods that users deleted

    def make_client(self, store: Client) -> ObjectClient:
        """Called once, at the beginning."""
        return ObjectClient(store, now=virtual_now, rng=random.Random(f"{self.seed}/uids"))

    async def begin(self) -> None:
        """Make what the life is about."""
        raise NotImplementedError

    async def act(self) -> None:
        """Do something."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Wish what the end is to be, whatever was wished before."""
        raise NotImplementedError

    async def settled(self) -> bool:
        """Whether that is there."""
        raise NotImplementedError

    def end(self, revision: Revision) -> Any:
        """What counts of the end: has to be that of an undisturbed life."""
        raise NotImplementedError

    # ---- what users of any kind do -------------------------------------------------------------------------------

    async def delete_pod(self) -> None:
        """Delete any pod."""
        pods = [pod for pod in await self.it.pods() if not pod.deleting]
        if pods:
            pod = self.rng.choice(pods)
            self.deleted.add(pod.metadata.uid or "")
            with contextlib.suppress(NotFound):
                await self.client.delete(Pod, pod.name, "default", uid=pod.metadata.uid)

    def kill_node(self) -> None:
        """A machine stops; never the first one."""
        self._kill(self.rng.choice(self.it.workloads.nodes.names[1:]))

    def revive_node(self) -> None:
        """A machine that stopped is back, if there is one."""
        if self.down:
            self._revive(self.rng.choice(sorted(self.down)))

    def revive_all(self) -> None:
        """All machines are back."""
        for name in sorted(self.down):
            self._revive(name)

    def _kill(self, name: str) -> None:
        self.down.add(name)
        for it in self.clusters:
            it.workloads.nodes.kill(name)

    def _revive(self, name: str) -> None:
        self.down.discard(name)
        for it in self.clusters:
            it.workloads.nodes.revive(name)


@dataclass
class Life:
    """What happened. authors: who wrote a revision, `process-1.3` or "somebody"; users are not in it. times: the
    loop's clock when it was written. healed: the same when the last fault was over."""

    user: User
    faults: Counter[str] = field(default_factory=Counter)
    authors: dict[int, str] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    healed: float = 0.0

    def fault(self, who: str, name: str, what: str) -> None:
        self.faults[name] += 1

    def wrote(self, who: str, revision: int) -> None:
        self.authors[revision] = who

    async def keep_time(self, store: Client) -> None:
        """Note when each revision is written, until cancelled: time stands still until all have heard of it."""
        registry, loop = b"/registry/", asyncio.get_running_loop()
        async with store.watch(registry, prefix_end(registry), start_revision=1) as watch:
            async for response in watch:
                for event in response.events:
                    self.times[event.kv.mod_revision] = loop.time()


async def live(
    store: Client, user: User, *, faults: Faults = FAULTS, leaders: int = 1, steps: int = STEPS, rest: float = REST
) -> Life:
    """Live until everything is as the user wished last, and some time more. leaders: processes for one office.

    Whether nodes die is the user's doing. Raises TimeoutError if the end does not come.
    """
    life = Life(user)
    user.client = user.make_client(store)
    lives = _Processes(store, life, faults, leaders)
    async with asyncio.TaskGroup() as group:
        clock = group.create_task(life.keep_time(store), name="clock")
        for number in range(1, leaders + 1):
            group.create_task(lives.supervise(f"process-{number}"), name=f"process-{number}")
        await lives.started.wait()
        await user.begin()
        for _ in range(steps):
            await asyncio.sleep(user.rng.choice(PAUSES))
            if leaders > 1 and user.rng.random() < DEPOSE:
                await store.delete(Lease.TYPE.key("default", OFFICE))
                life.faults["depose"] += 1
            else:
                await user.act()
        lives.heal()
        life.healed = asyncio.get_running_loop().time()
        user.revive_all()
        await user.settle()
        await user.it.until(user.settled, PATIENCE)
        await asyncio.sleep(rest)
        clock.cancel()
        lives.stop()
    return life


async def undisturbed(user: User) -> Any:
    """The end of a life without faults, in which the user wishes at once what it wishes last."""
    with tempfile.TemporaryDirectory(prefix="undisturbed-") as directory:
        options = NodeOptions(fsync=False, inline_commits=True)
        async with Node.open(Path(directory), options, rng=random.Random(0)) as node:
            store = EmbeddedClient(node)
            await live(store, user, faults=NO_FAULTS, steps=0)
            revisions = await history(store)
            await store.close()
    return user.end(revisions[-1])


class _Processes:
    """The processes of the built-in controllers: each is started again when it has ended."""

    def __init__(self, store: Client, life: Life, faults: Faults, leaders: int) -> None:
        self._store = store
        self._life = life
        self._faults = faults
        self._leaders = leaders
        self._rng = random.Random(f"{life.user.seed}/processes")
        self._outside = contextvars.copy_context()
        self._clients: list[SimulatedClient] = []
        self._stopping = asyncio.Event()
        self.started = asyncio.Event()

    def heal(self) -> None:
        """No more faults."""
        self._faults = NO_FAULTS
        for client in self._clients:
            client.faults = NO_FAULTS

    def stop(self) -> None:
        """End all of them."""
        self._stopping.set()

    async def supervise(self, name: str) -> None:
        """Keep a process running, as a kubelet does."""
        number = 0
        while not self._stopping.is_set():
            number += 1
            await self._process(f"{name}.{number}")
            if self._leaders > 1:
                await _first(self._stopping.wait(), asyncio.sleep(self._rng.uniform(*RESTART)))

    async def _process(self, name: str) -> None:
        crashed = asyncio.Event()
        client = self._client(name, crashed.set)
        main = asyncio.create_task(self._run(name, client), name=name)
        self._clients.append(client)
        await _first(crashed.wait(), asyncio.shield(main))
        if crashed.is_set():
            client.dead = True
        main.cancel()
        await asyncio.wait([main])
        self._clients.remove(client)
        if not main.cancelled() and (error := main.exception()) is not None and not client.dead:
            raise error

    def _client(self, name: str, crash: Callable[[], None]) -> SimulatedClient:
        return SimulatedClient(
            self._store,
            name,
            faults=self._faults,
            rng=random.Random(f"{self._life.user.seed}/faults/{name}"),
            observer=self._life,
            outside=self._outside,
            crash=crash,
        )

    async def _run(self, name: str, client: SimulatedClient) -> None:
        user = self._life.user
        manager = Manager(
            client=client,
            now=virtual_now,
            rng=random.Random(f"{user.seed}/{name}"),
            settings=Settings(),
            stop_timeout=0.0,
            leader_election=LeaderElection(OFFICE, identity=name) if self._leaders > 1 else None,
        )
        workloads = add_workloads(manager, **user.options)
        for node in user.down:
            workloads.nodes.kill(node)
        it = Cluster(manager, workloads, self._store)
        user.clusters.append(it)
        user.it = it
        try:
            async with manager:
                self.started.set()
                await self._stopping.wait()
        except (ControllerError, ApiError, KvError):
            # An office that was lost, a store that could not be reached for too long: another process begins.
            if client.faults == NO_FAULTS and self._leaders == 1:
                raise
        finally:
            user.clusters.remove(it)


async def _first(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
