"""The manager's start, stop and supervision: on virtual time, and as a process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pytest
import structlog

from controllers.context import Context
from controllers.core.types import Event
from controllers.errors import ManagerError, SyncTimeout, UndeclaredKind
from controllers.handlers import own_key
from controllers.manager import Manager
from controllers.predicates import generation_changed
from controllers.reconcile import Request
from controllers.workqueue import WorkQueue
from informer.cache import Stored
from informer.client import ObjectClient
from informer.crd import CustomResourceDefinition
from informer.errors import Invalid
from informer.transforms import drop_managed_fields
from kvstore.api import Client, LeaseGrantResponse
from kvstore.client.embedded import EmbeddedClient
from tests.controllers.kinds import Part, Rack, Site

virtual_time = pytest.mark.virtual_time


def site(name: str) -> Site:
    return Site(name=name, namespace="default")


async def nothing(ctx: Context, request: Request) -> None:
    """A reconciler with nothing to do."""


@contextmanager
def no_task_left() -> Iterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() == before


@virtual_time
async def test_a_stop_lets_the_run_in_progress_end_and_takes_no_more_keys(store: Client) -> None:
    manager, began, ended = Manager(client=store), list[Request](), list[Request]()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        began.append(request)
        await asyncio.sleep(20)
        await ctx.create(Part(name=request.name, namespace="default"))
        ended.append(request)

    with no_task_left():
        async with manager:
            for name in ("a", "b", "c"):
                await manager.client.create(site(name))
            await asyncio.sleep(5)
        assert began == ended == [Request("default", "a")]
        assert asyncio.get_running_loop().time() == pytest.approx(20, abs=0.5)
    assert await store.get(Part.TYPE.key("default", "a")) is not None


@virtual_time
async def test_keys_that_never_run_again_are_not_remembered(store: Client) -> None:
    manager = Manager(client=store)

    def while_there(old: Stored | None, new: Stored | None) -> bool:
        return new is not None and generation_changed(old, new)

    @manager.reconciler(Site, predicates={Site: while_there})
    async def reconcile(ctx: Context, request: Request) -> None:
        found = ctx.get(Site, request)
        assert found is not None
        found.status.ready = 1
        await ctx.update_status(found)

    async with manager:
        for n in range(400):
            await manager.client.create(site(f"s{n}"))
            await asyncio.sleep(0.1)
            await manager.client.delete(Site, f"s{n}", "default")
        assert len(manager.controller("site")._unseen) <= 100


class Distant(EmbeddedClient):
    """A store that is not in this process: an answer takes a while."""

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> LeaseGrantResponse:
        await asyncio.sleep(0.02)
        return await super().lease_grant(ttl, lease_id)


@virtual_time
async def test_what_the_last_run_tells_is_written(store: EmbeddedClient) -> None:
    manager = Manager(client=Distant(store._node))
    running, may_end = asyncio.Event(), asyncio.Event()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        running.set()
        await may_end.wait()
        found = ctx.get(Site, request)
        assert found is not None
        ctx.event(found, "Normal", "Built", "It stands.")

    async with manager:
        await manager.client.create(site("a"))
        await running.wait()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
    assert [event.reason for event in (await ObjectClient(store).list(Event)).items] == ["Built"]


@virtual_time
async def test_a_stop_is_bounded(store: Client) -> None:
    manager, cancelled = Manager(client=store, stop_timeout=30), list[str]()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(request.name)
            raise

    with no_task_left(), structlog.testing.capture_logs() as logs:
        async with manager:
            await manager.client.create(site("a"))
            await asyncio.sleep(5)
        assert asyncio.get_running_loop().time() == pytest.approx(35, abs=0.5)
    assert cancelled == ["a"]
    assert not [entry for entry in logs if entry["event"] == "reconcile_failed"]
    (entry,) = [entry for entry in logs if entry["event"] == "stop_timed_out"]
    assert entry["active"] == {"site": ["default/a"]}


@virtual_time
async def test_cancelling_a_stop_makes_it_immediate(store: Client) -> None:
    manager = Manager(client=store)

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        async with manager:
            await manager.client.create(site("a"))
            await asyncio.sleep(5)

    with no_task_left():
        task = asyncio.create_task(main())
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() == pytest.approx(10)


@virtual_time
async def test_controllers_share_one_informer_a_kind(store: Client) -> None:
    manager = Manager(client=store)
    manager.add_controller(Site, nothing, owns=[Part], name="one")
    manager.add_controller(Site, nothing, reads=[Part], name="two")
    async with manager:
        assert sorted(manager.statistics().informers) == ["parts.example.com", "sites.example.com"]
        site_informer = manager.statistics().informers["sites.example.com"]
        assert [handler.name for handler in site_informer.handlers] == ["one", "two"]
        assert manager.controller("one").caches[Part.TYPE] is manager.informer(Part).cache
        racks = manager.informer(Rack)
        assert manager.informer(Rack) is racks
        await manager.client.create(Rack(name="r"))
        await racks.wait_synced()
        async with asyncio.timeout(5):
            while racks.cache.get("r") is None:
                await asyncio.sleep(0.01)


@virtual_time
async def test_a_controller_can_see_one_namespace_or_some_labels_only(store: Client) -> None:
    manager, runs, seen = Manager(client=store), list[str](), list[str]()

    @manager.reconciler(Site, owns=[Part], reads=[Rack], namespace="a", selector="tier=gold", name="some")
    async def reconcile(ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        runs.append(f"{request} {site and site.metadata.labels.get('tier')}")
        seen[:] = [str(part.name) for part in ctx.list(Part)] + [rack.name for rack in ctx.list(Rack)]
        for read in (lambda: ctx.get(Part, "x", "b"), lambda: ctx.list(Part, "b")):
            with pytest.raises(UndeclaredKind, match=r"namespace 'a' only.*ctx\.fetch"):
                read()
        if site is not None:
            # Nothing to wait for: the caches never show it.
            await ctx.create(Part(name=f"{site.name}-{len(runs)}", namespace="b"))

    manager.add_controller(Site, nothing, name="all")
    async with manager:
        objects = manager.client
        await objects.create(Rack(name="r"))
        for namespace in ("a", "b"):
            await objects.create(Part(name="p", namespace=namespace))
            for tier in ("gold", "lead"):
                await objects.create(Site(name=tier, namespace=namespace, labels={"tier": tier}))
        await asyncio.sleep(1)
        assert runs == ["a/gold gold"]
        assert seen == ["p", "r"]
        await objects.patch(Site, "lead", {"metadata": {"labels": {"tier": "gold"}}}, "a")
        await asyncio.sleep(1)
        await objects.patch(Site, "gold", {"metadata": {"labels": {"tier": "lead"}}}, "a")
        await asyncio.sleep(1)
        assert runs == ["a/gold gold", "a/lead gold", "a/gold None"]
        statistics = manager.statistics()
        assert statistics.controllers["some"].catch_up_timeouts == 0
        assert sorted(statistics.informers) == [
            "parts.example.com -n a",
            "racks.example.com",
            "sites.example.com",
            "sites.example.com -n a -l tier=gold",
        ]
        assert statistics.informers["sites.example.com -n a -l tier=gold"].cache.objects == 1
    with pytest.raises(ValueError, match="no namespace"):
        Manager(client=store).add_controller(Rack, nothing, namespace="a")
    with pytest.raises(Invalid):
        Manager(client=store).add_controller(Site, nothing, selector="a in b")


@virtual_time
async def test_a_transform_for_every_cache(store: Client) -> None:
    manager, seen = Manager(client=store, transform=drop_managed_fields), list[Site | None]()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        seen.append(ctx.get(Site, request))

    async with manager:
        await manager.client.with_field_manager("somebody").create(site("a"))
        await asyncio.sleep(1)
        (found,) = seen
        assert found is not None
        assert "managedFields" not in found.raw["metadata"]
        assert manager.informer(Site).cache.get("default/a") is not None
        assert list(manager.statistics().informers) == ["sites.example.com | drop_fields(metadata.managedFields)"]
        with pytest.raises(Invalid, match="transform"):
            await manager.client.update(found)


@virtual_time
async def test_controllers_come_and_go_while_it_runs(store: Client) -> None:
    manager, runs, held = Manager(client=store), list[str](), asyncio.Event()
    manager.add_controller(Site, nothing, name="stays")
    with no_task_left():
        async with manager:
            await manager.client.create(site("a"))
            before = asyncio.all_tasks()

            @manager.reconciler(Part, watches={Site: own_key}, name="guest")
            async def reconcile(ctx: Context, request: Request) -> None:
                runs.append(f"{request} {len(ctx.list(Site))} {len(ctx.list(Site, index=('image', 'nginx')))}")
                await held.wait()

            manager.add_index(Site, "image", lambda stored: [Site.decode(stored.data, "1").spec.image])
            with pytest.raises(ValueError, match="'image'"):
                manager.add_index(Site, "image", lambda stored: [])
            await manager.controller("guest").started.wait()
            assert manager.informers.users(manager.informer(Site)) == 3
            await manager.client.create(Site(name="b", namespace="default", spec={"image": "nginx"}))
            await asyncio.sleep(1)
            assert runs == ["default/a 1 0"]
            definitions = await manager.client.list(CustomResourceDefinition)
            assert [each.name for each in definitions] == ["parts.example.com", "sites.example.com"]
            with pytest.raises(ValueError, match="guest"):
                manager.add_controller(Part, nothing, name="guest")

            removing = asyncio.create_task(manager.remove_controller("guest"))
            await asyncio.sleep(5)
            assert not removing.done()  # a run is in progress
            held.set()
            await removing
            assert runs == ["default/a 1 0"]
            assert asyncio.all_tasks() == before
            assert sorted(manager.statistics().informers) == ["sites.example.com"]
            assert manager.informers.users(manager.informer(Site)) == 2
            assert sorted(manager.statistics().controllers) == ["stays"]
            with pytest.raises(KeyError):
                await manager.remove_controller("guest")

            manager.add_controller(Part, reconcile, reads=[Site], name="guest")
            await manager.client.create(Part(name="p", namespace="default"))
            await asyncio.sleep(1)
            assert runs == ["default/a 1 0", "default/p 2 1"]
    with pytest.raises(RuntimeError, match="stopped"):
        manager.add_controller(Rack, nothing)


@virtual_time
async def test_a_controller_that_cannot_be_added_leaves_nothing_behind(store: Client) -> None:
    manager = Manager(client=store)
    manager.add_controller(Site, nothing)
    with no_task_left():
        async with manager:
            before = asyncio.all_tasks()
            async with manager.informers.use(Part) as theirs:
                theirs.cache.add_indexer("color", lambda stored: ["red"])
                with pytest.raises(ValueError, match="'color'"):
                    manager.add_index(Part, "color", lambda stored: [])
            manager.add_index(Part, "color", lambda stored: ["blue"])  # the first one is not remembered
            theirs = manager.informers.acquire(Part, "default")
            theirs.cache.add_indexer("size", lambda stored: ["large"])
            manager._indexes[Part.TYPE]["size"] = lambda stored: []
            for _ in range(2):
                with pytest.raises(ValueError, match="'size'"):
                    manager.add_controller(Site, nothing, owns=[Rack, Part], namespace="default", name="guest")
            await asyncio.sleep(1)
            assert manager.controller_names == ["site"]
            assert manager.informers.users(theirs) == 1
            await manager.informers.release(theirs)
            assert sorted(manager.statistics().informers) == ["sites.example.com"]
            assert asyncio.all_tasks() == before

            def no_queue() -> WorkQueue[Request]:
                raise LookupError("no queue")

            with pytest.raises(LookupError, match="no queue"):
                manager.add_controller(Rack, nothing, name="guest", queue=no_queue)
            await asyncio.sleep(1)
            assert asyncio.all_tasks() == before
            manager.add_controller(Rack, nothing, name="guest")
            await manager.controller("guest").started.wait()
            with pytest.raises(LookupError, match="no queue"):
                manager.add_controller(Part, nothing, queue=no_queue)  # what it leaves ends with the manager


@virtual_time
async def test_removing_a_controller_is_bounded(store: Client) -> None:
    manager = Manager(client=store, stop_timeout=30)

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        await asyncio.sleep(1000)

    with no_task_left():
        async with manager:
            await manager.client.create(site("a"))
            await asyncio.sleep(5)
            with structlog.testing.capture_logs() as logs:
                await manager.remove_controller("site")
            assert asyncio.get_running_loop().time() == pytest.approx(35, abs=0.5)
            assert [entry["active"] for entry in logs if entry["event"] == "stop_timed_out"] == [
                {"site": ["default/a"]}
            ]
            assert manager.statistics().informers == {}


@virtual_time
async def test_the_kinds_of_users_are_defined_in_the_store(store: Client) -> None:
    manager = Manager(client=store)
    manager.add_controller(Site, nothing, owns=[Part])
    async with manager:
        definitions = await manager.client.list(CustomResourceDefinition)
        assert [each.name for each in definitions] == ["parts.example.com", "sites.example.com"]
    again = Manager(client=store)
    again.add_controller(Site, nothing)
    async with again:
        definition = await again.client.get(CustomResourceDefinition, "sites.example.com")
        assert definition.metadata.generation == 1


@virtual_time
async def test_two_managers_in_one_process_share_nothing(store: Client) -> None:
    runs = list[str]()

    def make(name: str) -> Manager:
        manager = Manager(client=store)

        @manager.reconciler(Site)
        async def reconcile(ctx: Context, request: Request) -> None:
            runs.append(name)

        return manager

    async with make("one") as one, make("two") as two:
        await one.client.create(site("a"))
        await asyncio.sleep(1)
        assert sorted(runs) == ["one", "two"]
        assert one.informer(Site) is not two.informer(Site)


@virtual_time
async def test_runnables_start_with_full_caches_and_are_cancelled_at_the_stop(store: Client) -> None:
    manager, steps = Manager(client=store), list[str]()
    manager.add_controller(Site, nothing)

    async def forever() -> None:
        assert manager.informer(Site).has_synced
        steps.append("started")
        try:
            await asyncio.sleep(1e6)
        finally:
            await manager.client.create(Rack(name="last-word"))
            steps.append("ended")

    async def short() -> None:
        steps.append("short")

    manager.add_runnable(forever)
    manager.add_runnable(short)
    with no_task_left():
        async with manager:
            await asyncio.sleep(100)
            assert sorted(steps) == ["short", "started"]
    assert steps[-1] == "ended"


@virtual_time
async def test_runnables_can_be_added_while_it_runs(store: Client) -> None:
    manager, steps = Manager(client=store), list[str]()

    async def forever() -> None:
        steps.append("started")
        try:
            await asyncio.sleep(1e6)
        finally:
            steps.append("ended")

    async def short() -> None:
        steps.append("short")

    with no_task_left():
        async with manager:
            manager.add_runnable(forever)
            for _ in range(10):
                manager.add_runnable(short)
            await asyncio.sleep(100)
            assert sorted(steps) == ["short"] * 10 + ["started"]
            assert len(manager._runnable_tasks) == 1
    assert steps[-1] == "ended"
    with pytest.raises(RuntimeError, match="stopped"):
        manager.add_runnable(short)


@virtual_time
async def test_a_runnable_that_fails_stops_the_manager_with_its_error(store: Client) -> None:
    manager = Manager(client=store)

    async def broken() -> None:
        await asyncio.sleep(7)
        raise LookupError("lost")

    manager.add_runnable(broken)
    with no_task_left(), pytest.raises(LookupError, match="lost"):
        async with manager:
            await asyncio.sleep(1000)
    assert asyncio.get_running_loop().time() == pytest.approx(7)
    assert (task := asyncio.current_task()) is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1)


@virtual_time
async def test_a_failure_in_the_moment_when_the_body_ends_is_still_raised(store: Client) -> None:
    manager, go = Manager(client=store), asyncio.Event()

    async def broken() -> None:
        await go.wait()
        raise LookupError("lost")

    async def main() -> None:
        async with manager:
            go.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    manager.add_runnable(broken)
    with no_task_left(), pytest.raises(LookupError, match="lost"):
        await main()
    await asyncio.sleep(1)


@virtual_time
async def test_an_error_of_the_body_passes_through(store: Client) -> None:
    with no_task_left(), pytest.raises(LookupError, match="mine"):
        async with Manager(client=store):
            raise LookupError("mine")


class BrokenClient:
    """A store whose reads fail with what no store should give, or hang, once told to."""

    def __init__(self, client: EmbeddedClient, how: str) -> None:
        self._client = client
        self._how = how

    def __getattr__(self, name: str) -> Any:
        if name == "range_stream":  # all it can do is `range`
            raise AttributeError(name)
        return getattr(self._client, name)

    async def range(self, request: Any) -> Any:
        if self._how == "raise":
            raise ZeroDivisionError("a bug")
        await asyncio.sleep(1e9)


@virtual_time
async def test_an_informer_that_dies_stops_the_manager_with_its_error(store: EmbeddedClient) -> None:
    manager = Manager(client=cast(Client, BrokenClient(store, "raise")))
    manager.add_controller(Rack, nothing)
    with no_task_left(), pytest.raises(ZeroDivisionError, match="a bug"):
        async with manager:
            await asyncio.sleep(1000)


@virtual_time
async def test_caches_that_do_not_fill_in_time_are_named(store: EmbeddedClient) -> None:
    manager = Manager(client=cast(Client, BrokenClient(store, "hang")), sync_timeout=15)
    manager.add_controller(Rack, nothing)
    with no_task_left(), pytest.raises(SyncTimeout, match=r"'rack': no complete list of Rack within 15 s"):
        async with manager:
            pass


@virtual_time
async def test_a_controller_that_ends_by_itself_stops_the_manager(store: Client) -> None:
    manager = Manager(client=store)
    manager.add_controller(Site, nothing)

    async def main() -> None:
        async with manager:
            manager.controller("site").stop()
            await asyncio.sleep(10)

    with no_task_left(), pytest.raises(ManagerError, match="controller site ended unexpectedly"):
        await main()


@virtual_time
async def test_mistakes_are_told_at_once(store: Client) -> None:
    manager = Manager(client=store)
    manager.add_controller(Site, nothing)
    with pytest.raises(ValueError, match=r"already.*name="):
        manager.add_controller(Site, nothing)
    with pytest.raises(ValueError, match="Part"):
        manager.add_controller(Rack, nothing, predicates={Part: generation_changed})
    with pytest.raises(ValueError, match="not both"):
        Manager("etcd://a:1", client=store)
    with pytest.raises(RuntimeError, match="not running"):
        _ = manager.client
    async with manager:
        pass
    with pytest.raises(RuntimeError, match="not running"):
        _ = manager.client
    with pytest.raises(RuntimeError):
        async with manager:
            pass
    with pytest.raises(ValueError, match="workers"):
        Manager(client=store).add_controller(Site, nothing, workers=0)


# ---- as a process ----------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from controllers import Manager
from informer.resources import Resource
class Site(Resource, group="example.com", version="v1"): ...
manager = Manager(sys.argv[1], connect_timeout=0.5)
@manager.reconciler(Site)
async def reconcile(ctx, request):
    print("began", flush=True)
    await asyncio.sleep(float(sys.argv[2]))
    print("ended", flush=True)
async def feed():
    await manager.client.apply(Site(name="a", namespace="default"))
manager.add_runnable(feed)
manager.run()
print("returned", flush=True)
"""


BLOCKING_PROGRAM = PROGRAM.replace("async def reconcile", "def reconcile").replace(
    "await asyncio.sleep(", "__import__('time').sleep("
)


@contextmanager
def program(store: str, seconds: float, source: str = PROGRAM) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", source, store, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(stream: IO[str] | None, line: str) -> None:
    assert stream is not None
    for found in stream:
        if found.strip() == line:
            return
    raise AssertionError(f"the output ended before {line!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with program(str(tmp_path), 1) as process:
        read_until(process.stdout, "began")
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert [line for line in output.splitlines() if line in ("ended", "returned")] == ["ended", "returned"]


@pytest.mark.parametrize("source", [PROGRAM, BLOCKING_PROGRAM], ids=["async", "thread"])
def test_a_second_signal_does_not_wait(tmp_path: Path, source: str) -> None:
    with program(str(tmp_path), 1000, source) as process:
        read_until(process.stdout, "began")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        for line in process.stdout:
            if "manager_stopping" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.splitlines() == ["error: stopped before the runs in progress had ended"]


def test_a_store_that_is_not_there_is_one_line_and_an_exit_code() -> None:
    with program("etcd://127.0.0.1:1", 0) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith("error: store etcd://127.0.0.1:1: ")
    assert "times in 0.5 s" in line
