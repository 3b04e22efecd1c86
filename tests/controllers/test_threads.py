"""Plain `def` reconcilers: in threads, with writes that block. In real time, for threads know no other."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable

import pytest

from controllers.context import BlockingContext, Context
from controllers.errors import RunCancelled
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from kvstore.api import Client
from tests.controllers.kinds import Part, Site


def site(name: str) -> Site:
    return Site(name=name, namespace="default")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_plain_function_runs_in_a_thread_and_its_writes_block(store: Client) -> None:
    manager, threads = Manager(client=store), set[int]()

    @manager.reconciler(Site, owns=[Part], workers=2)
    def reconcile(ctx: BlockingContext, request: Request) -> Result | None:
        threads.add(threading.get_ident())
        found = ctx.get(Site, request)
        if found is None:
            return None
        part = Part(name=request.name, namespace="default")
        ctx.apply(part, owner=found)
        assert ctx.fetch(Part, request.name) is not None
        assert ctx.get_stored(Site, request) in ctx.stored(Site, request.namespace)
        found.status.ready = len(ctx.list(Part, owner=found))
        ctx.update_status(found)
        return None

    async with manager:
        await manager.client.create(site("a"))
        await manager.client.create(site("b"))
        cache = manager.informer(Site).cache
        await until(lambda: [b'"ready":1' in stored.data for stored in cache.list()] == [True, True])
        sites = (await manager.client.list(Site)).items
        assert [found.status.ready for found in sites] == [1, 1]
        assert [part.name for part in (await manager.client.list(Part)).items] == ["a", "b"]
    assert threads
    assert threading.get_ident() not in threads


def test_a_blocking_context_has_all_that_a_context_has() -> None:
    def names(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert names(Context) - names(BlockingContext) == {"request", "undecided", "written"}  # slots; the first it has


async def test_a_plain_function_that_fails_is_retried(store: Client) -> None:
    manager, runs = Manager(client=store), list[str]()

    @manager.reconciler(Site)
    def reconcile(ctx: BlockingContext, request: Request) -> None:
        runs.append(ctx.reconcile_id)
        if len(runs) == 1:
            raise ValueError("not yet")
        if len(runs) == 2:
            next(iter(()))  # a StopIteration: no future takes one
        if len(runs) == 3:
            sys.exit(4)

    async with manager:
        await manager.client.create(site("a"))
        await until(lambda: manager.statistics().controllers["site"].outcomes["success"] == 1)
        assert manager.statistics().controllers["site"].outcomes["error"] == 3
    assert len(set(runs)) == 4


async def test_a_thread_that_overruns_its_timeout_keeps_its_key_and_can_do_nothing_more(store: Client) -> None:
    manager, release, outcome = Manager(client=store), threading.Event(), list[BaseException | str]()

    @manager.reconciler(Site, timeout=0.01)
    def reconcile(ctx: BlockingContext, request: Request) -> None:
        if outcome:
            outcome.append("ran again")
            return
        release.wait(10)
        try:
            ctx.create(Part(name="late", namespace="default"))
        except RunCancelled as error:
            outcome.append(error)
            raise

    async with manager:
        await manager.client.create(site("a"))
        await until(lambda: manager.controller("site").active == [Request("default", "a")])
        asyncio.get_running_loop().call_later(0.05, release.set)
        await until(lambda: len(outcome) == 2)
        assert manager.statistics().controllers["site"].timeouts == 1
        assert (await manager.client.list(Part)).items == []
    assert isinstance(outcome[0], RunCancelled)
    assert outcome[1:] == ["ran again"]


async def test_a_thread_that_does_not_return_is_left_behind_at_the_stop(
    store: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controllers.controller.THREAD_TIMEOUT", 0.1)
    manager, release = Manager(client=store, stop_timeout=0), threading.Event()

    @manager.reconciler(Site)
    def reconcile(ctx: BlockingContext, request: Request) -> None:
        release.wait(30)

    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
    try:
        async with manager:
            await manager.client.create(site("a"))
            await until(lambda: manager.controller("site").active == [Request("default", "a")])
            began = loop.time()
        assert loop.time() - began < 2
        assert asyncio.all_tasks() == before
    finally:
        release.set()
