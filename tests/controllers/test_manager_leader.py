"""Managers that share an office: one acts, the others are ready."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from controllers import Context, LeaderElection, LeadershipLost, Manager, Request
from controllers.core.types import Lease
from informer import Fenced, ObjectClient
from kvstore.api import Client, LeaseKeepAliveResponse, Range, RangeResponse
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import Unavailable
from kvstore.node import Node
from tests.controllers.kinds import Part, Site

pytestmark = pytest.mark.virtual_time

ELECTION = LeaderElection("sites")


class CutOff(EmbeddedClient):
    """A store that this process cannot renew its lease with, once it is cut."""

    cut = False

    async def lease_keep_alive(self, lease_id: int) -> LeaseKeepAliveResponse:
        if self.cut:
            raise Unavailable
        return await super().lease_keep_alive(lease_id)


class Process:
    """One of the processes: which keys it ran, and when."""

    def __init__(self, client: Client, name: str, **options: Any) -> None:
        self.manager = Manager(
            client=client, rng=random.Random(name), leader_election=LeaderElection("sites", identity=name), **options
        )
        self.ran: list[str] = []
        self.manager.add_controller(Site, self.reconcile, owns=[Part])

    async def reconcile(self, ctx: Context, request: Request) -> None:
        self.ran.append(request.name)
        site = ctx.get(Site, request)
        if site is not None and not ctx.list(Part, owner=site):
            await ctx.apply(Part(generate_name=f"{site.name}-", name=f"{site.name}-part"), owner=site)


async def make(client: Client, name: str) -> None:
    await ObjectClient(client).create(Site(name=name, namespace="default"))


async def settle() -> None:
    await asyncio.sleep(1)


async def test_one_acts_and_the_others_are_ready(store: Client) -> None:
    a, b = Process(store, "a"), Process(store, "b")
    await make(store, "one")
    async with a.manager:
        await a.manager.elected.wait()
        async with b.manager:
            await make(store, "two")
            await settle()
            assert (a.ran.count("one"), a.ran.count("two"), b.ran) == (2, 2, [])  # once for its part
            standby = b.manager.statistics()
            assert standby.leader is not None
            assert (standby.leader.is_leader, standby.leader.holder) == (False, "a")
            assert standby.controllers["site"].queue.depth == 2  # warm: it knows what it would have to do
            with pytest.raises(Fenced):
                await b.manager.client.create(Site(name="x", namespace="default"))
            left = asyncio.create_task(leave_after(a))
            loop = asyncio.get_running_loop()
            await left
            began = loop.time()
            await b.manager.elected.wait()
            await settle()
            assert loop.time() - began <= 1.1
            assert sorted(b.ran) == ["one", "two"]


async def leave_after(process: Process) -> None:
    # What `async with` does on leaving, in another task than the test's body.
    await process.manager._close()


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[asyncio.Task[None]]:
    """The manager in a task of its own, as it is in a process of its own."""

    async def run() -> None:
        async with process.manager:
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_leader_that_cannot_renew_ends_with_an_error_and_another_takes_over(store: EmbeddedClient) -> None:
    client = CutOff(store._node)
    a, b = Process(client, "a"), Process(store, "b")
    async with running(a) as first:
        await a.manager.elected.wait()
        async with running(b):
            await settle()
            client.cut = True
            await asyncio.wait([first])
            with pytest.raises(LeadershipLost, match="no renewal for 10 s"):
                first.result()
            await make(store, "after")
            await b.manager.elected.wait()
            await settle()
            assert "after" in b.ran
            assert "after" not in a.ran
    assert [lease.name for lease in (await ObjectClient(store).list(Lease)).items] == []


async def test_a_run_in_progress_cannot_write_once_another_leads(store: EmbeddedClient) -> None:
    """The reconciler of the old leader does not notice that its process slept through its dismissal."""
    a = Process(store, "a")
    outcome: list[BaseException] = []
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def sleepy(ctx: Context, request: Request) -> None:
        asleep.set()
        await wake.wait()
        try:
            await ctx.create(Part(name="late", namespace="default"))
        except Fenced as error:
            outcome.append(error)
            raise

    a.manager.add_controller(Site, sleepy, name="sleepy")
    async with running(a) as first:
        await a.manager.elected.wait()
        await make(store, "one")
        await asleep.wait()
        await store.delete(Lease.TYPE.key("default", "sites"))  # as its expiry does, while the process is suspended
        b = Process(store, "b")
        async with running(b):
            await b.manager.elected.wait()
            wake.set()
            with pytest.raises(LeadershipLost):
                await first
            assert outcome
            assert "late" not in [part.name for part in (await ObjectClient(store).list(Part)).items]


async def test_a_new_leader_has_seen_all_that_the_last_one_wrote(store: EmbeddedClient) -> None:
    """Whatever its watch has still to bring: it must not make a second part."""
    a, b = Process(store, "a"), Process(store, "b")
    async with running(b):  # b becomes the leader only after a, whose writes its informers get late
        await b.manager.elected.wait()
    b = Process(store, "b2")
    async with running(a):
        await a.manager.elected.wait()
        async with running(b):
            await settle()
            for n in range(50):
                await make(store, f"s{n}")
            await settle()
            parts = len((await ObjectClient(store).list(Part)).items)
    assert parts == 50
    assert len((await ObjectClient(store).list(Part)).items) == 50


async def test_what_needs_no_leader_runs_everywhere(store: Client) -> None:
    started: list[str] = []

    def process(name: str) -> Process:
        made = Process(store, name)

        async def everywhere() -> None:
            started.append(f"{name} everywhere")

        async def leader_only() -> None:
            started.append(f"{name} leader")

        async def watch_only(ctx: Context, request: Request) -> None:
            started.append(f"{name} saw {request.name}")

        made.manager.add_runnable(everywhere, leader_election=False)
        made.manager.add_runnable(leader_only)
        made.manager.add_controller(Site, watch_only, name="watch", leader_election=False)
        return made

    a, b = process("a"), process("b")
    async with running(a):
        await a.manager.elected.wait()
        async with running(b):
            await make(store, "one")
            await settle()
            assert sorted(started) == ["a everywhere", "a leader", "a saw one", "b everywhere", "b saw one"]


async def test_what_is_added_while_it_stands_by_waits_for_the_election(store: Client) -> None:
    started: list[str] = []

    def adds(name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            started.append(name)

        return run

    a, b = Process(store, "a"), Process(store, "b")
    async with AsyncExitStack() as first:
        await first.enter_async_context(running(a))
        await a.manager.elected.wait()
        async with running(b):
            a.manager.add_runnable(adds("leader"))
            b.manager.add_runnable(adds("candidate"))
            b.manager.add_runnable(adds("anybody"), leader_election=False)
            await settle()
            assert sorted(started) == ["anybody", "leader"]
            await first.aclose()
            await b.manager.elected.wait()
            await settle()
            assert sorted(started) == ["anybody", "candidate", "leader"]


class SlowToCatchUp(EmbeddedClient):
    """A store whose answers to a new leader's look at what the last one wrote can be held back."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.asked = asyncio.Event()
        self.free = asyncio.Event()

    async def range(self, request: Range) -> RangeResponse:
        if request.min_mod_revision:
            self.asked.set()
            await self.free.wait()
        return await super().range(request)


async def test_controllers_come_and_go_while_a_new_leader_looks_at_what_was_written(store: EmbeddedClient) -> None:
    slow = SlowToCatchUp(store._node)
    a = Process(slow, "a")
    a.manager.add_controller(Part, a.reconcile)
    async with a.manager:
        await slow.asked.wait()
        a.manager.add_controller(Site, a.reconcile, name="late")
        await a.manager.remove_controller("part")
        slow.free.set()
        await a.manager.elected.wait()
        await a.manager.controller("late").started.wait()
        await make(store, "one")
        await settle()
        assert "one" in a.ran


async def test_a_candidate_that_is_stopped_does_not_wait(store: Client) -> None:
    a, b = Process(store, "a"), Process(store, "b")
    async with running(a):
        await a.manager.elected.wait()
        loop = asyncio.get_running_loop()
        async with b.manager:
            await settle()
            began = loop.time()
        assert loop.time() - began < 1
        assert b.ran == []
        assert len((await store.leases()).leases) == 1
