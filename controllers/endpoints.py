"""What a manager tells over HTTP: metrics, health, statistics. Imported only when asked for.

`/metrics`            Prometheus' text format
`/healthz` `/readyz`  as controller-runtime has them: 200 `ok` or 500; `?verbose`, `?exclude=NAME`, and a path a check
`/statistics`         everything as JSON, for `listwatch top`

There is no authentication, so an address says itself who can reach it: 127.0.0.1 is this machine only.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from controllers.controller import ControllerStatistics
from controllers.errors import EndpointError
from controllers.leader import LeaderStatistics
from controllers.manager import Check, Manager
from controllers.metrics import CONTENT_TYPE, Metrics, merged
from controllers.settings import Settings
from informer import InformerStatistics
from kvstore.api import Client
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import Code, KvError
from kvstore.server.config import ListenAddress, ListenError
from kvstore.server.connections import Connections, HttpLimits
from kvstore.server.http_log import http_logger
from kvstore.server.listener import Listener

LOOK_AT_LOOP = 1.0
"""Seconds between two looks at how late the event loop is."""
STATUS_TIMEOUT = 1.0
"""Seconds for the state of a store: `listwatch top` wants to know the rest in any case, and waits for 2 s."""
STOP_GRACE = 1.0
"""Seconds that requests under way have to end at the stop."""
_PROBE = b"/registry/"  # no key of an object

log = structlog.get_logger("controllers")


class Watchers(msgspec.Struct, frozen=True):
    """An embedded store's watchers by state, and the events that wait for them."""

    synced: int
    unsynced: int
    victims: int
    pending_events: int


class StoreReport(msgspec.Struct, frozen=True):
    """A store as a manager sees it; `commits` since its start and `watchers` only of one in this process.

    error: why it does not answer; then the rest is nothing.
    """

    name: str
    revision: int = 0
    db_size: int = 0
    commits: int | None = None
    watchers: Watchers | None = None
    error: str = ""


class Report(msgspec.Struct, frozen=True):
    """`/statistics`: the managers of a process, as one. lag: seconds that its event loop was late."""

    pid: int
    lag: float
    controllers: Mapping[str, ControllerStatistics]
    informers: Mapping[str, InformerStatistics]
    leaders: Sequence[LeaderStatistics]
    requests: Mapping[str, Mapping[str, int]]
    stores: Sequence[StoreReport]


class Endpoints:
    """Serves some managers of this process on HOST:PORT; port 0 lets the system choose one.

    Raises EndpointError when the address is none, or cannot be used. Use it around the managers: what it tells of one
    that is not running is that.
    """

    def __init__(self, managers: Sequence[Manager], address: str, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._given = parse_address(address)
        self._managers = managers
        self._lag = 0.0
        self._metrics = Metrics(managers, lambda: self._lag)
        timeout = self._settings.http_timeout
        self._connections = Connections(
            HttpLimits(self._settings.http_connections, headers=timeout, body=timeout, idle=timeout)
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._failing: set[tuple[str, str]] = set()
        self.address = ""
        """HOST:PORT, while it is served."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen and answer."""
        app = web.Application(client_max_size=1024, middlewares=[self._while_busy])
        for path, handler in {
            "/metrics": self._answer_metrics,
            "/statistics": self._answer_statistics,
            "/healthz": self._answer_health,
            "/healthz/": self._answer_health,
            "/readyz": self._answer_health,
            "/readyz/": self._answer_health,
            "/healthz/{check:.+}": self._answer_check,
            "/readyz/{check:.+}": self._answer_check,
        }.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=http_logger("controllers.endpoints", log),
            handle_signals=False,
            shutdown_timeout=STOP_GRACE,
        )
        try:
            await self._runner.setup()
            self._listener = Listener(self._given, self._accepted)
            await self._listener.start()
        except ListenError as error:
            await self.stop()
            raise EndpointError(f"metrics and health: {error}") from None
        except BaseException:
            await self.stop()
            raise
        self.address = self._given._replace(port=self._listener.port).target
        self._run(self._look_at_loop())

    async def stop(self) -> None:
        """Answer no more. Idempotent."""
        if self._listener is not None:
            self._listener.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        runner, self._runner, self._listener, self.address = self._runner, None, None, ""
        if runner is not None:
            await runner.cleanup()

    # ---- connections -----------------------------------------------------------------------------------------------

    def _accepted(self, connection: socket.socket) -> None:
        task = self._run(self._greet(connection))
        self._connections.enter(task, task.cancel)
        task.add_done_callback(lambda _: self._greeted(task, connection))

    async def _greet(self, connection: socket.socket) -> None:
        assert self._runner is not None
        assert self._runner.server is not None
        serve, task = self._runner.server, asyncio.current_task()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self._connections.protocol(serve(), task), connection)

    def _greeted(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._connections.leave(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:  # perhaps before it ran at all
            connection.close()
        if error is not None:
            log.debug("http_connection_refused", error=str(error))

    @web.middleware
    async def _while_busy(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        async with self._connections.busy(request.transport):
            return await handler(request)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- what is told ----------------------------------------------------------------------------------------------

    async def _answer_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _answer_statistics(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(await self.report()), content_type="application/json")

    async def report(self) -> Report:
        """What `/statistics` tells."""
        managers = [manager.statistics() for manager in self._managers]
        requests: dict[str, dict[str, int]] = {}
        for manager in managers:
            for method, codes in manager.requests.items():
                counts = requests.setdefault(method, {})
                for code, count in codes.items():
                    counts[code] = counts.get(code, 0) + count
        clients: dict[int, tuple[str, Client]] = {}
        for each, statistics in zip(self._managers, managers, strict=True):
            if each.is_open:
                clients[id(each.store_client)] = (statistics.store, each.store_client)
        return Report(
            pid=os.getpid(),
            lag=self._lag,
            controllers=merged(manager.controllers for manager in managers),
            informers=merged(manager.informers for manager in managers),
            leaders=[manager.leader for manager in managers if manager.leader is not None],
            requests=requests,
            stores=await asyncio.gather(*(self._report_store(name, client) for name, client in clients.values())),
        )

    async def _report_store(self, name: str, client: Client) -> StoreReport:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                status = await client.status()
        except TimeoutError:
            return StoreReport(name, error=f"no answer within {STATUS_TIMEOUT:g} s")
        except KvError as error:
            return StoreReport(name, error=str(error))
        if not isinstance(client, EmbeddedClient):
            return StoreReport(name, status.header.revision, status.db_size)
        node = client.statistics()
        watch = node.watch
        watchers = Watchers(watch.synced, watch.unsynced, watch.victims, watch.pending_events)
        return StoreReport(name, status.header.revision, status.db_size, node.store.commits, watchers)

    # ---- health ----------------------------------------------------------------------------------------------------

    async def _answer_health(self, request: web.Request) -> web.Response:
        """All checks but the excluded ones. Who asks for all may be anybody, so the reasons are not told here."""
        kind = request.path.strip("/")
        excluded = set(request.query.getall("exclude", []))
        checks = self._checks(kind)
        asked = [name for name in checks if name not in excluded]
        # All at once: the answer takes no longer than one of them may.
        answers = await asyncio.gather(*(self._failure(kind, name, checks[name]) for name in asked))
        failures = dict(zip(asked, answers, strict=True))
        lines: list[str] = []
        for name in checks:
            if name not in failures:
                lines.append(f"[+]{name} excluded: ok\n")
            elif failures[name]:
                lines.append(f"[-]{name} failed: reason withheld\n")
            else:
                lines.append(f"[+]{name} ok\n")
        if excluded := excluded - checks.keys():
            names = ",".join(f'"{name}"' for name in sorted(excluded))
            lines.append(f"warn: some health checks cannot be excluded: no matches for {names}\n")
        if any(answers):
            return web.Response(status=500, text=f"{''.join(lines)}{kind} check failed\n")
        return web.Response(text=f"{''.join(lines)}{kind} check passed\n" if "verbose" in request.query else "ok")

    async def _answer_check(self, request: web.Request) -> web.Response:
        """One check, and why it fails."""
        kind, name = request.path.strip("/").partition("/")[0], request.match_info["check"]
        check = self._checks(kind).get(name)
        if check is None:
            return web.Response(status=404, text="404 page not found\n")
        failure = await self._failure(kind, name, check)
        return (
            web.Response(status=500, text=f"internal server error: {failure}\n") if failure else web.Response(text="ok")
        )

    def _checks(self, kind: str) -> Mapping[str, Check]:
        """healthz: would a restart help? readyz: is it doing its work?"""
        if kind == "healthz":
            own: dict[str, Check] = {"ping": _ping, "event-loop": self._check_loop}
            return own | merged(manager.healthz_checks for manager in self._managers)
        own = {"ping": _ping, "informers": self._check_informers, "store": self._check_store}
        return own | merged(manager.readyz_checks for manager in self._managers)

    async def _failure(self, kind: str, name: str, check: Check) -> str:
        """Why a check fails; nothing if it does not. A change is a line in the log."""
        seconds = self._settings.check_timeout
        try:
            async with asyncio.timeout(seconds):
                answer = check()
                if inspect.isawaitable(answer):
                    answer = await answer
            failure = "it answered False" if answer is False else ""
        except TimeoutError:
            failure = f"no answer within {seconds:g} s"
        except asyncio.CancelledError as error:
            if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
            failure = str(error) or "what it waited for was cancelled"
        except (Exception, SystemExit) as error:  # noqa: BLE001 - that is how a check says so
            failure = " ".join(str(error).split()) or type(error).__name__
        key = (kind, name)
        if failure and key not in self._failing:
            self._failing.add(key)
            log.warning("health_check_failed", endpoint=kind, check=name, error=failure)
        elif not failure and key in self._failing:
            self._failing.discard(key)
            log.info("health_check_recovered", endpoint=kind, check=name)
        return failure

    def _check_loop(self) -> None:
        limit = self._settings.loop_lag_limit
        if self._lag > limit:
            raise EndpointError(f"the event loop was late by {self._lag:.1f} s, more than {limit:g} s")

    def _check_informers(self) -> None:
        for manager in self._managers:
            if not manager.is_open:
                raise EndpointError("the manager is not running")
        informers = merged(manager.statistics().informers for manager in self._managers)
        if missing := sorted(name for name, informer in informers.items() if not informer.synced):
            raise EndpointError(f"not synced: {', '.join(missing)}")

    async def _check_store(self) -> None:
        for manager in self._managers:
            if not manager.is_open:
                raise EndpointError("the store is not open")
            try:
                # A read that asks a cluster's quorum, which its status does not.
                await manager.store_client.get(_PROBE)
            except KvError as error:
                if error.code is not Code.PERMISSION_DENIED:  # that is an answer
                    raise

    async def _look_at_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_AT_LOOP
            await asyncio.sleep(LOOK_AT_LOOP)
            self._lag = max(0.0, loop.time() - due)


def parse_address(text: str) -> ListenAddress:
    """HOST:PORT, or [HOST]:PORT. Raises EndpointError."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise EndpointError(
            f"metrics and health: expected HOST:PORT, got {text!r}: 127.0.0.1:8080 for this machine only, "
            "0.0.0.0:8080 for everybody"
        )
    return ListenAddress(host, int(port))


def _ping() -> None:
    """Whoever is asked answers."""
