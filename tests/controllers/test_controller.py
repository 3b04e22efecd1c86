"""Controllers on a real embedded store, on virtual time: what triggers a run, and what follows from its outcome."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import structlog

from controllers.context import Context
from controllers.core.types import Event
from controllers.errors import TerminalError, UndeclaredKind
from controllers.manager import Manager
from controllers.owners import set_controller_reference
from controllers.predicates import generation_changed, labels_changed
from controllers.reconcile import Request, Result
from controllers.workqueue import WorkQueue
from informer.cache import Stored
from informer.errors import ApiError, Conflict, Forbidden, Unreachable
from informer.resources import OwnerReference
from kvstore.api import Client, Range, Watch, WatchResponse
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import Unavailable
from tests.controllers.kinds import OtherSite, Part, Rack, Site

pytestmark = pytest.mark.virtual_time

A, B = Request("default", "a"), Request("default", "b")


class Runs:
    """When each key ran (the loop's clock, seconds since the first look), and a way to wait for the next run."""

    def __init__(self) -> None:
        self.log: list[tuple[Request, float]] = []
        self._more = asyncio.Event()

    def note(self, request: Request) -> int:
        self.log.append((request, asyncio.get_running_loop().time()))
        self._more.set()
        return len(self.log)

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(10_000):
            while len(self.log) < count:
                self._more.clear()
                await self._more.wait()

    def keys(self) -> list[Request]:
        return [request for request, _ in self.log]

    def times(self) -> list[float]:
        start = self.log[0][1]
        return [round(time - start, 6) for _, time in self.log]


def site(name: str, **spec: Any) -> Site:
    return Site(name=name, namespace="default", spec=spec)


async def settle() -> None:
    """Long enough for every event to arrive, and for nothing else to be due."""
    await asyncio.sleep(1)


# ---- what triggers a run ---------------------------------------------------------------------------------------------


async def test_what_is_there_at_the_start_and_every_change_runs(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        runs.note(request)

    async with Manager(client=store) as before:
        await before.client.create(site("a"))
    async with manager:
        await settle()
        assert runs.keys() == [A]
        created = await manager.client.create(site("b"))
        await settle()
        assert runs.keys() == [A, B]
        created.spec.replicas = 2
        await manager.client.update(created)
        await settle()
        assert runs.keys() == [A, B, B]
        await manager.client.delete(Site, "a", namespace="default")
        await settle()
        assert runs.keys() == [A, B, B, A]


async def test_a_change_goes_before_what_was_there_at_the_start(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        if runs.note(request) == 1:
            # A long first run: meanwhile something changes, far behind the others in the initial list.
            last = await manager.client.get(Site, "z", "default")
            last.spec.replicas = 9
            await manager.client.update(last)
            await asyncio.sleep(10)
        return None

    async with Manager(client=store) as before:
        for name in ["a", "b", "c", "z"]:
            await before.client.create(site(name))
    async with manager:
        await runs.reach(4)
        await settle()
    assert [request.name for request, _ in runs.log] == ["a", "z", "b", "c"]


async def test_a_result_may_give_the_next_run_a_priority(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        first = runs.keys().count(request) == 0
        runs.note(request)
        if first:
            return Result(requeue_after=1, priority=5 if request.name == "c" else None)
        await asyncio.sleep(10)
        return None

    async with manager:
        for name in "abc":
            await manager.client.create(site(name))
        await runs.reach(6)
    assert [request.name for request, _ in runs.log] == ["a", "b", "c", "c", "a", "b"]


async def test_an_owned_object_runs_its_controller_alone(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site, owns=[Part])
    async def reconcile(ctx: Context, request: Request) -> None:
        runs.note(request)

    async with manager:
        a = await manager.client.create(site("a"))
        b = await manager.client.create(site("b"))
        rack = await manager.client.create(Rack(name="a"))
        await settle()
        runs.log.clear()

        part = Part(name="p", namespace="default")
        part.metadata.owner_references = [
            OwnerReference(api_version="example.com/v1", kind="Site", name="b", uid=b.metadata.uid)
        ]
        set_controller_reference(a, part)
        part = await manager.client.create(part)
        await settle()
        assert runs.keys() == [A]

        # Handed over from a to b: both have to know.
        part.metadata.owner_references = []
        set_controller_reference(b, part)
        part = await manager.client.update(part)
        await settle()
        assert sorted(runs.keys()[1:], key=str) == [A, B]

        await manager.client.delete(Part, "p", namespace="default")
        await settle()
        assert runs.keys()[3:] == [B]

        other = await manager.client.create(OtherSite(name="a", namespace="default"))
        for name, owner in (("q1", rack), ("q2", other)):
            stranger = Part(name=name, namespace="default")
            set_controller_reference(owner, stranger)
            await manager.client.create(stranger)
        await manager.client.create(Part(name="r", namespace="default"))
        await settle()
        assert runs.keys()[4:] == []


async def test_a_cluster_scoped_owner_is_found_without_a_namespace(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Rack, owns=[Part])
    async def reconcile(ctx: Context, request: Request) -> None:
        assert ctx.get(Rack, request) is not None
        runs.note(request)

    async with manager:
        rack = await manager.client.create(Rack(name="r"))
        await settle()
        part = Part(name="p", namespace="default")
        set_controller_reference(rack, part)
        await manager.client.create(part)
        await settle()
    assert runs.keys() == [Request("", "r"), Request("", "r")]


async def test_a_watched_kind_runs_what_the_map_function_says(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    def sites_of(part: Stored) -> Iterable[Request]:
        return [Request(part.namespace, name) for name in part.meta.labels.get("sites", "").split(".") if name]

    @manager.reconciler(Site, watches={Part: sites_of})
    async def reconcile(ctx: Context, request: Request) -> None:
        runs.note(request)

    async with manager:
        part = await manager.client.create(Part(name="p", namespace="default", labels={"sites": "a.b"}))
        await settle()
        assert runs.keys() == [A, B]
        part.metadata.labels["sites"] = "c"
        await manager.client.update(part)
        await settle()
        assert sorted(r.name for r in runs.keys()[2:]) == ["a", "b", "c"]


async def test_a_map_function_that_gives_something_else_costs_its_event_alone(
    store: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    manager, runs = Manager(client=store), Runs()

    def names(part: Stored) -> Any:
        return ["a"]

    @manager.reconciler(Site, watches={Part: names})
    async def reconcile(ctx: Context, request: Request) -> None:
        runs.note(request)

    async with manager:
        await manager.client.create(Part(name="p", namespace="default"))
        await settle()
        await manager.client.create(site("b"))
        await settle()
        assert runs.keys() == [B]
    assert "a map function gives Requests, not 'a'" in capsys.readouterr().out


async def test_a_reconciler_that_calls_exit_is_an_error_of_its_key(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        if runs.note(request) == 1:
            sys.exit(4)

    async with manager:
        await manager.client.create(site("a"))
        await runs.reach(2)
        assert manager.statistics().controllers["site"].outcomes["error"] == 1


async def test_predicates_keep_events_out(store: Client) -> None:
    manager, runs, labelled = Manager(client=store), Runs(), Runs()

    @manager.reconciler(Site, predicates={Site: generation_changed})
    async def reconcile(ctx: Context, request: Request) -> None:
        runs.note(request)

    @manager.reconciler(Site, predicates={Site: labels_changed}, name="labels")
    async def watch_labels(ctx: Context, request: Request) -> None:
        labelled.note(request)

    async with manager:
        a = await manager.client.create(site("a"))
        await settle()
        a.status.ready = 1
        a = await manager.client.update_status(a)
        await settle()
        assert (len(runs.log), len(labelled.log)) == (1, 1)
        a.spec.replicas = 5
        a = await manager.client.update(a)
        await settle()
        assert (len(runs.log), len(labelled.log)) == (2, 1)
        a.metadata.labels["x"] = "y"
        a = await manager.client.update(a)
        await settle()
        assert (len(runs.log), len(labelled.log)) == (2, 2)
        await manager.client.delete(Site, "a", namespace="default")
        await settle()
        assert (len(runs.log), len(labelled.log)) == (3, 3)


# ---- what follows from the outcome -----------------------------------------------------------------------------------


async def test_failures_back_off_and_success_forgets(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        if runs.note(request) not in (5, 8):
            raise ValueError("not yet")

    with structlog.testing.capture_logs() as logs:
        async with manager:
            a = await manager.client.create(site("a"))
            await runs.reach(5)
            assert runs.times() == pytest.approx([0, 0.005, 0.015, 0.035, 0.075])
            await settle()
            a.spec.replicas = 2
            await manager.client.update(a)
            await runs.reach(8)
            assert [round(t - runs.times()[5], 6) for t in runs.times()[5:]] == pytest.approx([0, 0.005, 0.015])
            statistics = manager.statistics().controllers["site"]
            await settle()
    assert statistics.outcomes["error"] == 6
    assert statistics.reconciles == 8
    assert statistics.queue.retries == 6
    failed = [entry for entry in logs if entry["event"] == "reconcile_failed"]
    assert len(failed) == 6
    assert {(e["controller"], e["namespace"], e["name"]) for e in failed} == {("site", "default", "a")}
    assert len({entry["reconcile_id"] for entry in failed}) == 6
    assert "not yet" in failed[0]["error"]


async def test_one_failing_key_does_not_hold_up_the_others(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        runs.note(request)
        if request == A:
            raise ValueError("always")

    async with manager:
        await manager.client.create(site("a"))
        for n in range(5):
            await manager.client.create(site(f"n{n}"))
        await settle()
        assert Counter(runs.keys())[A] > 5
        assert len(set(runs.keys())) == 6


async def test_a_terminal_error_waits_for_a_change(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        runs.note(request)
        raise TerminalError("this image has no name")

    with structlog.testing.capture_logs() as logs:
        async with manager:
            a = await manager.client.create(site("a"))
            await asyncio.sleep(3600)
            assert len(runs.log) == 1
            a.spec.replicas = 2
            await manager.client.update(a)
            await asyncio.sleep(3600)
            assert len(runs.log) == 2
            assert manager.statistics().controllers["site"].outcomes["terminal"] == 2
    (first, second) = [entry for entry in logs if entry["event"] == "reconcile_failed_terminally"]
    assert first["error"] == "this image has no name"
    assert first["reconcile_id"] != second["reconcile_id"]


async def test_requeue_after_is_exact_and_ends_the_backoff(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        match runs.note(request):
            case 1 | 2:
                raise ValueError("twice")
            case 3:
                return Result(requeue_after=90)
            case 4:
                raise ValueError("once")
            case _:
                return None

    async with manager:
        await manager.client.create(site("a"))
        await asyncio.sleep(3600)
        statistics = manager.statistics().controllers["site"]
    assert runs.times() == pytest.approx([0, 0.005, 0.015, 90.015, 90.020])
    assert statistics.outcomes == {"success": 1, "requeue_after": 1, "requeue": 0, "error": 3, "terminal": 0}


@pytest.mark.parametrize("result", [Result(requeue=True), Result(requeue_after=0), Result(requeue_after=-3)])
async def test_requeue_backs_off(store: Client, result: Result) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        return result if runs.note(request) < 4 else None

    async with manager:
        await manager.client.create(site("a"))
        await settle()
        assert manager.statistics().controllers["site"].outcomes["requeue"] == 3
    assert runs.times() == pytest.approx([0, 0.005, 0.015, 0.035])


async def test_a_change_ends_a_delay_and_the_key_does_not_run_twice(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        return Result(requeue_after=100) if runs.note(request) == 1 else None

    async with manager:
        a = await manager.client.create(site("a"))
        await asyncio.sleep(50)
        a.spec.replicas = 3
        await manager.client.update(a)
        await asyncio.sleep(3600)
    assert runs.times() == pytest.approx([0, 50], abs=0.1)


async def test_a_timeout_is_an_error_that_says_so(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site, timeout=7)
    async def reconcile(ctx: Context, request: Request) -> None:
        if runs.note(request) == 1:
            await asyncio.sleep(1000)

    with structlog.testing.capture_logs() as logs:
        async with manager:
            await manager.client.create(site("a"))
            await runs.reach(2)
            await settle()
            statistics = manager.statistics().controllers["site"]
    assert runs.times() == pytest.approx([0, 7.005])
    assert (statistics.timeouts, statistics.outcomes["error"]) == (1, 1)
    assert [entry["seconds"] for entry in logs if entry["event"] == "reconcile_timed_out"] == [7]


async def test_what_a_reconciler_awaits_may_be_cancelled_without_ending_the_worker(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        if runs.note(request) == 1:
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone

    async with manager:
        await manager.client.create(site("a"))
        await runs.reach(2)
        await settle()
        assert manager.statistics().controllers["site"].outcomes["error"] == 1


async def test_an_object_that_is_deleted_under_a_run_is_no_failure_to_worry_about(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        found = ctx.get(Site, request)
        if runs.note(request) == 1:
            assert found is not None
            await manager.client.delete(Site, found.name, found.namespace)
            found.status.ready = 1
            await ctx.update_status(found)

    with structlog.testing.capture_logs() as logs:
        async with manager:
            await manager.client.create(site("a"))
            await settle()
            statistics = manager.statistics().controllers["site"]
    assert statistics.outcomes["error"] == 1
    told = [(entry["event"], entry["log_level"]) for entry in logs if "reconcile" in entry["event"]]
    assert told == [("reconcile_overtaken", "info")]


@pytest.mark.parametrize("refused", [Forbidden("the quota is full"), Unreachable("nobody answers")])
async def test_what_the_store_answers_needs_no_traceback(store: Client, refused: ApiError) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        if runs.note(request) == 1:
            raise refused

    with structlog.testing.capture_logs() as logs:
        async with manager:
            await manager.client.create(site("a"))
            await runs.reach(2)
    (told,) = [entry for entry in logs if "reconcile" in entry["event"]]
    assert (told["event"], told["log_level"], told["error"]) == ("reconcile_refused", "warning", str(refused))
    assert "exc_info" not in told


async def test_a_conflict_is_retried_and_counted(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> None:
        found = ctx.get(Site, request)
        assert found is not None
        if runs.note(request) == 1:
            rival = await ctx.fetch(Site, request)
            assert rival is not None
            rival.spec.replicas = 9
            await manager.client.update(rival)
        found.status.ready = 1
        await ctx.update_status(found)

    with structlog.testing.capture_logs() as logs:
        async with manager:
            await manager.client.create(site("a"))
            await settle()
            statistics = manager.statistics().controllers["site"]
            stored = await manager.client.get(Site, "a", namespace="default")
    assert (stored.spec.replicas, stored.status.ready) == (9, 1)
    assert (statistics.conflicts, statistics.outcomes["error"]) == (1, 1)
    assert [entry["event"] for entry in logs if "reconcile" in entry["event"]] == ["reconcile_conflicted"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (5, "returns Result or None, not int"),
        (Result(requeue_after=timedelta(seconds=1)), "a number of seconds, not datetime.timedelta"),  # type: ignore[arg-type]
    ],
)
async def test_a_wrong_return_value_is_an_error(store: Client, value: Any, problem: str) -> None:
    manager = Manager(client=store)

    async def reconcile(ctx: Context, request: Request) -> Any:
        return value

    manager.add_controller(Site, reconcile)
    with structlog.testing.capture_logs() as logs:
        async with manager:
            await manager.client.create(site("a"))
            await asyncio.sleep(0.001)
    assert any(problem in entry.get("error", "") for entry in logs)


# ---- workers ---------------------------------------------------------------------------------------------------------


async def test_workers_run_keys_together_but_never_one_key_twice(store: Client) -> None:
    manager, held, most = Manager(client=store), set[Request](), 0

    @manager.reconciler(Site, workers=4)
    async def reconcile(ctx: Context, request: Request) -> Result:
        nonlocal most
        assert request not in held
        held.add(request)
        most = max(most, len(held))
        await asyncio.sleep(0.7)
        held.remove(request)
        return Result(requeue_after=0.1)

    async with manager:
        sites = [await manager.client.create(site(f"s{n}")) for n in range(6)]
        for n in range(40):
            await asyncio.sleep(0.3)
            changed = await manager.client.get(Site, sites[n % 6].name, namespace="default")
            changed.spec.replicas = n
            await manager.client.update(changed)
        statistics = manager.statistics().controllers["site"]
    assert most == 4
    assert statistics.outcomes["error"] == 0
    assert statistics.reconciles > 40


async def test_reconcilers_that_never_wait_let_others_run(store: Client) -> None:
    manager, runs = Manager(client=store), 0

    @manager.reconciler(Site, queue=lambda: WorkQueue(base_delay=0, qps=None))
    async def reconcile(ctx: Context, request: Request) -> Result:
        nonlocal runs
        runs += 1
        return Result(requeue=True)

    async with manager:
        await manager.client.create(site("a"))
        for _ in range(100):
            await asyncio.sleep(0)
    assert 10 < runs < 100_000


# ---- reads and writes ------------------------------------------------------------------------------------------------


async def test_the_context_reads_what_was_declared_and_says_how_to_declare_the_rest(store: Client) -> None:
    manager, seen = Manager(client=store), asyncio.get_running_loop().create_future()
    manager.add_index(Part, "color", lambda stored: [Part.decode(stored.data, stored.revision).spec.color])

    @manager.reconciler(Site, reads=[Part], name="reader")
    async def reconcile(ctx: Context, request: Request) -> None:
        if seen.done():
            return
        try:
            found = ctx.get(Site, request)
            assert found is not None
            assert ctx.get(Site, "a") == found
            found.spec.image = "mine to edit"
            again = ctx.get(Site, "a", "default")
            assert again is not None
            assert again.spec.image == ""
            assert ctx.get(Site, "nobody") is None
            assert ctx.get(Site, "a", "elsewhere") is None
            with pytest.raises(KeyError, match=r"Part has no index 'size': add it with manager\.add_index"):
                ctx.list(Part, index=("size", "1"))

            def names(parts: Sequence[Part]) -> list[str]:
                return sorted(f"{part.namespace}/{part.name}" for part in parts)

            assert names(ctx.list(Part)) == ["default/p0", "default/p1", "default/p2", "other/p3"]
            assert names(ctx.list(Part, "default")) == ["default/p0", "default/p1", "default/p2"]
            assert names(ctx.list(Part, owner=found)) == ["default/p1", "default/p2"]
            assert names(ctx.list(Part, selector="n in (0, 1)")) == ["default/p0", "default/p1"]
            assert names(ctx.list(Part, selector={"n": "2"}, owner=found)) == ["default/p2"]
            assert names(ctx.list(Part, index=("color", "red"))) == ["default/p0", "default/p2", "other/p3"]
            assert names(ctx.list(Part, "other", index=("color", "red"))) == ["other/p3"]
            assert names(ctx.list(Part, index=("color", "red"), owner=found)) == ["default/p2"]
            assert [item.key for item in ctx.stored(Part, "other")] == ["other/p3"]
            part = ctx.get_stored(Part, "p1")
            assert part is not None
            assert part.meta.labels == {"n": "1"}
            assert await ctx.fetch(Part, "p1") == ctx.get(Part, "p1")
            assert await ctx.fetch(Part, "nobody") is None
            with pytest.raises(UndeclaredKind, match=r"controller 'reader' does not watch Rack.*reads=\[Rack\]"):
                ctx.list(Rack)
            seen.set_result(None)
        except BaseException as error:
            seen.set_exception(error)
            raise

    async with Manager(client=store) as before:
        a = await before.client.create(site("a"))
        for n in range(4):
            color = "blue" if n == 1 else "red"
            part = Part(name=f"p{n}", namespace="other" if n == 3 else "default", labels={"n": str(n)})
            part.spec = {"color": color}
            if n in (1, 2):
                set_controller_reference(a, part)
            await before.client.create(part)
    async with manager:
        async with asyncio.timeout(5):
            await seen


class LateClient:
    """A store whose watches tell everything `lag` seconds late, and that may keep one answer to itself (`stall`)."""

    def __init__(self, client: EmbeddedClient, lag: float) -> None:
        self._client = client
        self.lag = lag
        self.stall = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def txn(self, compare: Any = (), success: Any = (), failure: Any = ()) -> Any:
        answer = await self._client.txn(compare, success, failure)
        if self.stall:
            self.stall = False
            await asyncio.get_running_loop().create_future()
        return answer

    def watch(self, *args: Any, **options: Any) -> LateWatch:
        return LateWatch(self, self._client.watch(*args, **options))


class LateWatch:
    """Each response `lag` seconds after it came, however many come meanwhile."""

    def __init__(self, client: LateClient, watch: Watch) -> None:
        self._client = client
        self._watch = watch
        self._arrived: asyncio.Queue[tuple[float, WatchResponse | Exception]] = asyncio.Queue()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    async def __aenter__(self) -> LateWatch:
        await self._watch.__aenter__()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._watch.__aexit__(*error)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            response: WatchResponse | Exception
            try:
                response = await self._watch.__anext__()
            except Exception as error:  # noqa: BLE001 (raised to the reader, when its time has come)
                response = error
            self._arrived.put_nowait((loop.time() + self._client.lag, response))
            if isinstance(response, Exception):
                return

    def __aiter__(self) -> AsyncIterator[WatchResponse]:
        return self

    async def __anext__(self) -> WatchResponse:
        at, response = await self._arrived.get()
        await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))
        if isinstance(response, Exception):
            raise response
        return response


def make_parts(manager: Manager, runs: Runs, workers: int) -> None:
    """Three parts a site, with names that the store makes up: seeing too few of them leads to too many."""

    @manager.reconciler(Site, reads=[Part], workers=workers)
    async def reconcile(ctx: Context, request: Request) -> Result:
        runs.note(request)
        found = ctx.get(Site, request)
        assert found is not None
        if len(ctx.list(Part, owner=found)) < 3:
            part = Part(generate_name="part-", namespace="default")
            set_controller_reference(found, part)
            await ctx.create(part)
        return Result(requeue_after=0.01)


async def test_a_key_waits_until_the_caches_show_what_its_last_run_wrote(store: EmbeddedClient) -> None:
    late = LateClient(store, lag=0.3)
    manager, runs = Manager(client=late), Runs()
    make_parts(manager, runs, workers=2)
    async with manager:
        await manager.client.create(site("a"))
        await manager.client.create(site("b"))
        await asyncio.sleep(5)
        parts = await manager.client.list(Part, namespace="default")
        statistics = manager.statistics().controllers["site"]
    assert len(parts.items) == 6
    assert statistics.catch_ups == 6
    assert statistics.catch_up_timeouts == 0


class LossyClient(LateClient):
    """A late store that loses the replies to its first transactions that write parts, and may be away after that."""

    def __init__(self, client: EmbeddedClient, lag: float, lost: int, away: int = 0) -> None:
        super().__init__(client, lag)
        self.lost = lost
        self.away = away

    async def txn(self, compare: Any = (), success: Any = (), failure: Any = ()) -> Any:
        answer = await self._client.txn(compare, success, failure)
        if self.lost and b"/parts/" in success[0].key:
            self.lost -= 1
            raise Unavailable
        return answer

    async def range(self, request: Range) -> Any:
        if self.away and not self.lost and request.keys_only:
            self.away -= 1
            raise Unavailable
        return await self._client.range(request)


@pytest.mark.parametrize(("lag", "away"), [(0.0, 0), (0.3, 0), (0.3, 3)])
async def test_a_write_whose_answer_was_lost_is_not_made_twice(store: EmbeddedClient, lag: float, away: int) -> None:
    lossy = LossyClient(store, lag, lost=2, away=away)
    manager, runs = Manager(client=lossy), Runs()
    make_parts(manager, runs, workers=2)
    async with manager:
        await manager.client.create(site("a"))
        await asyncio.sleep(10)
        assert len((await manager.client.list(Part, namespace="default")).items) == 3
        statistics = manager.statistics().controllers["site"]
    assert lossy.lost == lossy.away == 0
    assert statistics.outcomes["error"] == 2 + away


async def test_a_run_that_is_cut_off_in_a_write_is_followed_by_one_that_knows(store: EmbeddedClient) -> None:
    late = LateClient(store, lag=0.3)
    manager, runs = Manager(client=late), Runs()

    @manager.reconciler(Site, reads=[Part], timeout=1)
    async def reconcile(ctx: Context, request: Request) -> None:
        found = ctx.get(Site, request)
        assert found is not None
        if ctx.list(Part, owner=found):
            return
        part = Part(generate_name="part-", namespace="default")
        set_controller_reference(found, part)
        if runs.note(request) == 1:
            late.stall = True
        await ctx.create(part)

    async with manager:
        await manager.client.create(site("a"))
        await asyncio.sleep(10)
        assert len((await manager.client.list(Part, namespace="default")).items) == 1
        assert manager.statistics().controllers["site"].timeouts == 1


async def test_no_run_while_the_caches_do_not_show_what_the_last_one_wrote(store: EmbeddedClient) -> None:
    late = LateClient(store, lag=0)
    manager, runs = Manager(client=late), Runs()

    @manager.reconciler(Site, reads=[Part])
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        if runs.note(request) > 1 or request.name == "b":
            assert ctx.get(Part, "p") is not None or request.name == "b"
            return None
        late.lag = 22
        await ctx.create(Part(name="p", namespace="default"))
        return Result(requeue_after=1)

    with structlog.testing.capture_logs() as logs:
        async with manager:
            await manager.client.create(site("a"))
            await manager.client.create(site("b"))
            await runs.reach(3)
            # The worker was free in between.
            assert [request.name for request, _ in runs.log] == ["a", "b", "a"]
            assert manager.statistics().controllers["site"].catch_up_timeouts == 4
    warning = next(entry for entry in logs if entry["event"] == "cache_behind_own_writes")
    assert (warning["controller"], warning["name"], warning["kinds"]) == ("site", "a", ["Part"])


async def test_a_write_of_a_kind_nobody_watches_is_not_waited_for(store: Client) -> None:
    manager, runs = Manager(client=store), Runs()

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        await ctx.apply(Part(name=f"p{runs.note(request)}", namespace="default"))
        return Result(requeue_after=1) if len(runs.log) == 1 else None

    async with manager:
        await manager.client.create(site("a"))
        await runs.reach(2)
        await settle()
        assert manager.statistics().controllers["site"].catch_ups == 0
    assert runs.times() == pytest.approx([0, 1])


async def test_every_kind_of_write(store: Client) -> None:
    manager, done = Manager(client=store), asyncio.Event()

    @manager.reconciler(Site, reads=[Part, Rack])
    async def reconcile(ctx: Context, request: Request) -> None:
        found = ctx.get(Site, request)
        if found is None or done.is_set():
            return
        part = await ctx.create(Part(name="p", namespace="default"))
        part.spec = {"color": "red"}
        part = await ctx.update(part)
        part = await ctx.patch(Part, "p", {"spec": {"color": "blue"}})
        assert ctx.written[Part.TYPE] == part.metadata.resource_version
        applied = await ctx.apply(Part(name="q", namespace="default"), owner=found)
        assert applied.outcome == "created"
        assert ctx.written[Part.TYPE] == applied.object.metadata.resource_version
        await ctx.delete(Part, "p")
        await ctx.delete(Part, "p")
        assert ctx.written[Part.TYPE] != applied.object.metadata.resource_version
        await ctx.create(Rack(name="r"))
        await ctx.delete(Rack, "r")
        found.status.ready = 1
        await ctx.update_status(found)
        with pytest.raises(Conflict):
            await ctx.delete(Part, "q", uid="another")
        done.set()

    async with manager:
        await manager.client.create(site("a"))
        async with asyncio.timeout(5):
            await done.wait()
        await settle()
        assert [part.name for part in (await manager.client.list(Part)).items] == ["q"]
        assert (await manager.client.get(Site, "a", namespace="default")).status.ready == 1
        assert manager.statistics().controllers["site"].outcomes["error"] == 0


# ---- events ----------------------------------------------------------------------------------------------------------


async def test_a_reconciler_tells_events_that_are_counted(store: Client) -> None:
    manager = Manager(client=store)

    @manager.reconciler(Site)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        found = ctx.get(Site, request)
        assert found is not None
        ctx.event(found, "Normal", "Looked", "it was looked at")
        if found.spec.replicas > 1:
            ctx.event(found, "Warning", "TooMany", f"{found.spec.replicas} are too many")
        return Result(requeue_after=10)

    async with manager:
        await manager.client.create(site("a", replicas=3))
        await asyncio.sleep(25)
        events = (await manager.client.list(Event, "default")).items
    told = sorted((event.type, event.reason, event.message, event.count) for event in events)
    assert told == [
        ("Normal", "Looked", "it was looked at", 3),
        ("Warning", "TooMany", "3 are too many", 3),
    ]
    assert {(event.involved_object.kind, event.involved_object.name) for event in events} == {("Site", "a")}
    assert {event.raw["source"]["component"] for event in events} == {"site"}
