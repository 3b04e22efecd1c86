"""Metrics, health and statistics of running managers, asked for as a scraper and a kubelet would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import msgspec
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from controllers import endpoints
from controllers.context import Context
from controllers.endpoints import Endpoints, Report, parse_address
from controllers.errors import EndpointError, TerminalError
from controllers.leader import LeaderElection
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from controllers.settings import Settings
from informer.client import ObjectClient
from kvstore.api import Client, Range, RangeResponse
from kvstore.client.embedded import EmbeddedClient
from tests.controllers.kinds import Part, Site

HERE = "127.0.0.1:0"
# What the panels of controller-runtime's two published Grafana dashboards are made of.
DASHBOARD = (
    "controller_runtime_active_workers",
    "controller_runtime_reconcile_total",
    "controller_runtime_reconcile_errors_total",
    "workqueue_depth",
    "workqueue_queue_duration_seconds_bucket",
    "workqueue_adds_total",
    "workqueue_unfinished_work_seconds",
    "workqueue_work_duration_seconds_bucket",
    "workqueue_retries_total",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


class Asked:
    """Asks one address."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def __call__(self, path: str) -> tuple[int, str]:
        async with self._session.get(f"http://{self._address}{path}") as response:
            return response.status, await response.text()

    async def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Series -> label values, in the order of the labels' names -> value."""
        status, text = await self("/metrics")
        assert status == 200
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                series = found.setdefault(sample.name, {})
                assert labels not in series, f"{sample.name}{sample.labels} is there twice"
                series[labels] = sample.value
        return found


async def nothing(ctx: Context, request: Request) -> None:
    """A reconciler with nothing to do."""


async def create(store: EmbeddedClient, *names: str) -> None:
    client = ObjectClient(store)
    for name in names:
        await client.create(Site(name=name, namespace="default"))


# ---- metrics --------------------------------------------------------------------------------------------------------


async def test_every_outcome_is_counted_under_controller_runtimes_names(
    store: EmbeddedClient, http: aiohttp.ClientSession
) -> None:
    manager, ran = Manager(client=store, http=HERE), set[str]()
    done = asyncio.Event()

    async def reconcile(ctx: Context, request: Request) -> Result | None:
        again = request.name in ran
        ran.add(request.name)
        if len(ran) == 6:
            done.set()
        match request.name:
            case "error" if not again:
                raise ValueError("once")
            case "exit" if not again:
                raise SystemExit(3)
            case "late" if not again:
                await asyncio.sleep(60)
            case "terminal":
                raise TerminalError("no use")
            case "later":
                site = ctx.get(Site, request)
                assert site is not None
                ctx.event(site, "Normal", "Waiting", "for nothing")
                return Result(requeue_after=1000)
        return None

    manager.add_controller(Site, reconcile, timeout=0.05)
    await create(store, "fine", "error", "exit", "late", "terminal", "later")
    async with manager:
        await done.wait()
        ask = Asked(http, manager.http_address)
        while (samples := await ask.samples())["controller_runtime_reconcile_total"]["site", "success"] < 4:
            await asyncio.sleep(0.01)

    def value(name: str, *labels: str) -> float:
        return samples[name][labels]

    assert {labels[1]: each for labels, each in samples["controller_runtime_reconcile_total"].items()} == {
        "success": 4,  # the three that failed once, too
        "error": 4,
        "requeue": 0,
        "requeue_after": 1,
    }
    assert value("controller_runtime_reconcile_errors_total", "site") == 4
    assert value("controller_runtime_terminal_reconcile_errors_total", "site") == 1
    assert value("controller_runtime_reconcile_panics_total", "site") == 1
    assert value("controller_runtime_reconcile_timeouts_total", "site") == 1
    assert value("controller_runtime_max_concurrent_reconciles", "site") == 1
    assert value("controller_runtime_active_workers", "site") == 0
    assert value("controller_runtime_reconcile_time_seconds_count", "site") == 9
    assert value("controller_runtime_reconcile_time_seconds_bucket", "site", "60") == 9
    assert value("controller_runtime_reconcile_time_seconds_sum", "site") >= 0.05
    assert value("workqueue_adds_total", "site", "site") == 9
    assert value("workqueue_retries_total", "site", "site") == 4
    assert value("workqueue_depth", "site", "site", "0") == 0
    assert value("listwatch_workqueue_waiting", "site", "site") == 1
    assert value("workqueue_work_duration_seconds_count", "site", "site") == 9
    assert value("listwatch_events_total", "recorded") == 1
    assert ("site", "1e-08", "site") in samples["workqueue_queue_duration_seconds_bucket"]
    assert value("reflector_lists_total", "sites.example.com") + value("reflector_watches_total", "sites.example.com")


async def test_every_series_of_the_published_dashboards_is_there(
    store: EmbeddedClient, http: aiohttp.ClientSession
) -> None:
    election = LeaderElection("sites")
    manager = Manager(client=store, http=HERE, leader_election=election)
    manager.add_controller(Site, nothing)
    async with manager:
        await manager.elected.wait()
        samples = await Asked(http, manager.http_address).samples()
    assert [series for series in DASHBOARD if series not in samples] == []
    assert samples["leader_election_master_status"] == {("default/sites",): 1}
    # What it asked for itself: the definition of its kind, which was not there.
    assert samples["rest_client_requests_total"] == {("404", "local", "GET"): 1, ("201", "local", "POST"): 1}


async def test_two_managers_on_one_page_keep_their_names_apart(
    store: EmbeddedClient, http: aiohttp.ClientSession
) -> None:
    one, two = Manager(client=store), Manager(client=store)
    for manager in (one, two):
        manager.add_controller(Site, nothing, name="site")
    two.add_controller(Part, nothing)
    async with Endpoints([one, two], HERE) as served, one, two:
        ask = Asked(http, served.address)
        samples = await ask.samples()
        assert {labels[0] for labels in samples["controller_runtime_active_workers"]} == {"site", "site #2", "part"}
        report = msgspec.json.decode((await ask("/statistics"))[1], type=Report)
        assert set(report.controllers) == {"site", "site #2", "part"}
        assert len(report.stores) == 1


async def test_statistics_are_all_there_is_as_json(store: EmbeddedClient, http: aiohttp.ClientSession) -> None:
    manager = Manager(client=store, http=HERE)
    manager.add_controller(Site, nothing)
    await create(store, "a")
    async with manager:
        status, text = await Asked(http, manager.http_address)("/statistics")
        report = msgspec.json.decode(text, type=Report)
        told = manager.statistics()
    assert (status, report.pid) == (200, os.getpid())
    assert report.controllers["site"].queue.adds == told.controllers["site"].queue.adds == 1
    assert report.informers["sites.example.com"].cache.objects == 1
    (stored,) = report.stores
    assert (stored.name, stored.revision, stored.error) == ("local", (await store.status()).header.revision, "")
    assert stored.commits == store.statistics().store.commits
    assert stored.watchers is not None
    assert (stored.watchers.synced, stored.watchers.unsynced) == (1, 0)


# ---- health ---------------------------------------------------------------------------------------------------------


async def test_health_is_told_as_controller_runtime_tells_it(
    store: EmbeddedClient, http: aiohttp.ClientSession
) -> None:
    manager = Manager(client=store, http=HERE, settings=Settings(check_timeout=0.1))
    manager.add_controller(Site, nothing)
    broken = True

    async def mirror() -> None:
        if broken:
            raise ConnectionError("the mirror\nis gone")

    async def hanging() -> None:
        if broken:
            await asyncio.sleep(60)

    manager.add_healthz_check("mirror", mirror)
    manager.add_readyz_check("hanging", hanging)
    manager.add_readyz_check("full", lambda: not broken)
    async with manager:
        ask = Asked(http, manager.http_address)
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                assert await ask("/healthz") == (
                    500,
                    "[+]ping ok\n[+]event-loop ok\n[-]mirror failed: reason withheld\nhealthz check failed\n",
                )
            assert await ask("/healthz/mirror") == (500, "internal server error: the mirror is gone\n")
            assert await ask("/healthz/ping") == (200, "ok")
            assert (await ask("/healthz/"))[0] == 500  # controller-runtime serves both spellings
            assert await ask("/healthz/none") == (404, "404 page not found\n")
            assert await ask("/healthz?exclude=mirror") == (200, "ok")
            assert await ask("/healthz?exclude=mirror&exclude=z&verbose=1") == (
                200,
                "[+]ping ok\n[+]event-loop ok\n[+]mirror excluded: ok\n"
                'warn: some health checks cannot be excluded: no matches for "z"\nhealthz check passed\n',
            )
            assert await ask("/readyz") == (
                500,
                "[+]ping ok\n[+]informers ok\n[+]store ok\n[-]hanging failed: reason withheld\n"
                "[-]full failed: reason withheld\nreadyz check failed\n",
            )
            assert await ask("/readyz/hanging") == (500, "internal server error: no answer within 0.1 s\n")
            assert await ask("/readyz/full") == (500, "internal server error: it answered False\n")
            broken = False
            assert await ask("/readyz") == (200, "ok")
            assert await ask("/healthz") == (200, "ok")
    told = [(line["event"], line["check"]) for line in logs if line["event"].startswith("health_check")]
    assert told[:3] + sorted(told[3:]) == [
        ("health_check_failed", "mirror"),
        ("health_check_failed", "full"),
        ("health_check_failed", "hanging"),
        ("health_check_recovered", "full"),
        ("health_check_recovered", "hanging"),
        ("health_check_recovered", "mirror"),
    ]


async def test_whatever_a_check_does_is_an_answer(store: EmbeddedClient, http: aiohttp.ClientSession) -> None:
    manager = Manager(client=store, http=HERE)

    async def waits_for_what_is_cancelled() -> None:
        waiting = asyncio.create_task(asyncio.sleep(60))
        waiting.cancel()
        await waiting

    def exits() -> None:
        raise SystemExit(3)

    manager.add_readyz_check("cancelled", waits_for_what_is_cancelled)
    manager.add_readyz_check("exits", exits)
    async with manager:
        ask = Asked(http, manager.http_address)
        assert await ask("/readyz/cancelled") == (500, "internal server error: what it waited for was cancelled\n")
        assert await ask("/readyz/exits") == (500, "internal server error: 3\n")
        assert (await ask("/readyz"))[0] == 500
        assert await ask("/readyz?exclude=cancelled&exclude=exits") == (200, "ok")


async def test_a_manager_is_alive_before_it_is_ready_and_says_what_it_waits_for(http: aiohttp.ClientSession) -> None:
    manager = Manager("etcd://127.0.0.1:1", connect_timeout=60, http=HERE)
    manager.add_controller(Site, nothing)
    starting = asyncio.create_task(manager.__aenter__())
    while not manager.http_address:
        await asyncio.sleep(0)
    ask = Asked(http, manager.http_address)
    assert await ask("/healthz") == (200, "ok")
    assert await ask("/readyz/store") == (500, "internal server error: the store is not open\n")
    assert await ask("/readyz/informers") == (500, "internal server error: the manager is not running\n")
    assert (await ask("/metrics"))[0] == 200
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert manager.http_address == ""
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask("/healthz")


async def test_a_store_that_went_away_is_not_ready_but_no_reason_to_restart(
    store: EmbeddedClient, http: aiohttp.ClientSession
) -> None:
    manager = Manager(client=store, http=HERE)
    async with manager:
        ask = Asked(http, manager.http_address)
        assert await ask("/readyz") == (200, "ok")
        await store.close()
        assert (await ask("/readyz"))[0] == 500
        assert (await ask("/readyz/store"))[1].startswith("internal server error: ")
        assert await ask("/healthz") == (200, "ok")
        report = msgspec.json.decode((await ask("/statistics"))[1], type=Report)
        assert report.stores[0].error


async def test_an_event_loop_that_is_blocked_is_unhealthy(
    store: EmbeddedClient, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "LOOK_AT_LOOP", 0.2)
    async with Manager(client=store, http=HERE, settings=Settings(loop_lag_limit=0.5)) as manager:
        ask = Asked(http, manager.http_address)
        assert await ask("/healthz/event-loop") == (200, "ok")
        monkeypatch.setattr(endpoints, "LOOK_AT_LOOP", 2.0)  # time to see it on a slow machine
        time.sleep(1)  # what a reconciler must not do
        status, text = await ask("/healthz/event-loop")
        assert status == 500
        assert text.startswith("internal server error: the event loop was late by ")
        while (await ask("/healthz/event-loop"))[0] != 200:
            await asyncio.sleep(0.05)


def test_a_check_needs_a_name_of_its_own(store: EmbeddedClient) -> None:
    manager = Manager(client=store)
    manager.add_readyz_check("mirror", lambda: True)
    manager.add_healthz_check("mirror", lambda: True)
    for name in ("mirror", "store", "ping", ""):
        with pytest.raises(ValueError, match="check"):
            manager.add_readyz_check(name, lambda: True)


# ---- the address, and bounds ----------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_one_line_and_nothing_is_left(store: EmbeddedClient) -> None:
    async with Manager(client=store, http=HERE) as first:
        before = asyncio.all_tasks()
        second = Manager(client=store, http=first.http_address)
        with pytest.raises(EndpointError) as raised:
            async with second:
                pass
        assert str(raised.value) == f"metrics and health: cannot listen on {first.http_address}: the port is in use"
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("address", [":8080", "8080", "localhost", "127.0.0.1:", "127.0.0.1:99999", "::1:8080", "a:²"])
def test_an_address_says_who_can_reach_it(address: str) -> None:
    with pytest.raises(EndpointError, match="expected HOST:PORT"):
        parse_address(address)
    assert parse_address("[::1]:8080").target == "[::1]:8080"
    assert parse_address("0.0.0.0:80").host == "0.0.0.0"


async def test_clients_that_say_nothing_are_bounded_in_number_and_time(
    store: EmbeddedClient, http: aiohttp.ClientSession
) -> None:
    settings = Settings(http=HERE, http_connections=4, http_timeout=0.3)
    async with Manager(client=store, settings=settings) as manager:
        host, _, port = manager.http_address.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
        assert await Asked(http, manager.http_address)("/healthz") == (200, "ok")
        for reader, writer in silent:  # dropped for others, or too late
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()


async def test_a_request_that_comes_byte_by_byte_is_given_up(store: EmbeddedClient) -> None:
    async with Manager(client=store, settings=Settings(http=HERE, http_timeout=0.3)) as manager:
        host, _, port = manager.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HT")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405), (b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
     (b"\x16\x03\x01\x00\x00 nonsense\r\n\r\n", 400)],
)  # fmt: skip
async def test_what_is_not_served_is_refused(store: EmbeddedClient, request_: bytes, status: int) -> None:
    async with Manager(client=store, http=HERE) as manager:
        host, _, port = manager.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_)
        assert (await reader.readline()).split()[1] == str(status).encode()
        writer.close()


# ---- the settings of a manager --------------------------------------------------------------------------------------


async def test_what_a_manager_goes_by(store: EmbeddedClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTWATCH_WORKERS", "3")
    monkeypatch.setenv("LISTWATCH_STOP_TIMEOUT", "7")
    monkeypatch.setenv("LISTWATCH_RECONCILE_TIMEOUT", "9")
    manager = Manager(client=store, stop_timeout=5)
    manager.add_controller(Site, nothing)
    manager.add_controller(Part, nothing, workers=1)
    async with manager:
        told = {name: each.workers for name, each in manager.statistics().controllers.items()}
        assert told == {"site": 3, "part": 1}
        assert (manager.settings.stop_timeout, manager.settings.reconcile_timeout) == (5, 9)
    given = Manager(client=store, settings=Settings(workers=2), sync_timeout=4)
    async with given:
        assert (given.settings.workers, given.settings.stop_timeout, given.settings.sync_timeout) == (2, 30, 4)


class Asking:
    """A client that tells what it was asked for, and cannot stream."""

    range_stream = None

    def __init__(self, client: EmbeddedClient) -> None:
        self._client = client
        self.limits: set[int] = set()

    async def range(self, request: Range) -> RangeResponse:
        self.limits.add(request.limit)
        return await self._client.range(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def test_the_numbers_reach_queues_and_informers(store: EmbeddedClient) -> None:
    asking = Asking(store)
    settings = Settings(list_page_size=7, queue_base_delay=40, queue_max_delay=60, queue_qps=0, reconcile_timeout=0.05)
    manager, failed = Manager(client=cast(Client, asking), settings=settings), asyncio.Event()

    async def reconcile(ctx: Context, request: Request) -> None:
        failed.set()
        await asyncio.sleep(60)

    manager.add_controller(Site, reconcile)
    await create(store, "a")
    async with manager:
        await failed.wait()
        while not (told := manager.statistics().controllers["site"]).timeouts:
            await asyncio.sleep(0.01)
        # The next try is 40 s away.
        assert (told.queue.waiting, told.queue.depth) == (1, 0)
        left = manager.controller("site").queue._core.next_ready()
        assert left is not None
        assert 35 < left - asyncio.get_running_loop().time() <= 40
    assert 7 in asking.limits


async def test_an_office_by_name_has_the_settings_numbers(store: EmbeddedClient) -> None:
    settings = Settings(lease_seconds=9, lease_renew_deadline=6, lease_retry_period=1)
    async with Manager(client=store, settings=settings, leader_election="kube-system/sites") as manager:
        await manager.elected.wait()
        (lease,) = (await store.leases()).leases
        assert (await store.lease_time_to_live(lease)).granted_ttl == 9
        leader = manager.statistics().leader
        assert leader is not None
        assert leader.name == "kube-system/sites"


def test_a_bad_setting_ends_run_with_one_line(
    store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LISTWATCH_STOP_TIMEOUT", "soon")
    with pytest.raises(SystemExit) as raised:
        Manager("nowhere").run()
    assert raised.value.code == 1
    assert capsys.readouterr().err == (
        "error: stop_timeout (LISTWATCH_STOP_TIMEOUT): expected a number of seconds, at least 0, got 'soon'\n"
    )
    with pytest.raises(ValueError, match=r"^stop_timeout \(argument\): expected .*, got -1$"):
        Manager("nowhere", stop_timeout=-1)
