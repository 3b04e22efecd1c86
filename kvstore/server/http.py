"""HTTP beside gRPC: version, health, metrics and the JSON gateway. Imported only when asked for.

`listen_client_http_urls` have all of it, as etcd's client port has, and may be shared with gRPC; `listen_metrics_urls`
only health and metrics, so that a monitoring network needs no way to the data.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from kvstore.api import Compare, CompareResult, CompareTarget, DeleteRange, Range, Txn
from kvstore.errors import KvError
from kvstore.node import Node
from kvstore.server.config import InvalidListenURL, ListenAddress, parse_listen_url
from kvstore.server.connections import Connections, HttpLimits
from kvstore.server.edge import Server
from kvstore.server.gateway import JSON_FACTOR, Gateway
from kvstore.server.http_log import http_logger
from kvstore.server.listener import Listener
from kvstore.server.metrics import CONTENT_TYPE, Metrics
from kvstore.server.sniff import speaks_grpc
from kvstore.server.tls import ServerTLS
from kvstore.version import CLUSTER_VERSION, SERVER_VERSION

CHECK_TIMEOUT = 5.0
"""Seconds after which a health check that got no answer from the store has failed."""

# Compares to a version that no key has, so it never deletes anything; but it takes the way of every write.
_NEVER = Txn((Compare(b"\0", CompareTarget.VERSION, CompareResult.EQUAL, -1),), (DeleteRange(b"\0"),))

log = structlog.get_logger("kvstore")


class HttpServer:
    """The HTTP side of a started gRPC `Server`.

    After `start`, `client_urls` and `metrics_urls` have the ports in use. Raises `ListenError` when an address cannot
    be used; then nothing listens. At a client URL that is one of the server's `shared_urls` clients are told apart by
    what they say first: who speaks gRPC is handed on to the server.
    """

    def __init__(
        self,
        node: Node,
        server: Server,
        *,
        client_urls: Sequence[str] = (),
        metrics_urls: Sequence[str] = (),
        tls: ServerTLS | None = None,
        stop_grace: float = 2.0,
        limits: HttpLimits | None = None,
    ) -> None:
        self._client_addresses = [parse_listen_url(url) for url in client_urls]
        self._metrics_addresses = [parse_listen_url(url) for url in metrics_urls]
        encrypted = [each.url for each in (*self._client_addresses, *self._metrics_addresses) if each.tls]
        if encrypted and tls is None:
            raise InvalidListenURL(f"cannot listen on {encrypted[0]}: https needs a --cert-file and a --key-file")
        self._tls = tls.context() if tls is not None and encrypted else None
        self._metrics = Metrics(node, server)
        self._health = Health(node)
        self._server = server
        self._connections = Connections(limits or HttpLimits())
        self._gateway = Gateway(server, self._connections.limits.body)
        self._max_body = server.max_message * JSON_FACTOR
        self._stop_grace = stop_grace
        self._runners: list[web.AppRunner] = []
        self._listeners: list[Listener] = []
        self._greeting: set[asyncio.Task[None]] = set()
        self.client_urls: list[str] = []
        self.metrics_urls: list[str] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen and answer."""
        try:
            for address in self._client_addresses:
                self.client_urls.append(await self._serve(self._client_app(), address))
            for address in self._metrics_addresses:
                self.metrics_urls.append(await self._serve(self._metrics_app(), address))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening, end streams, give other calls `stop_grace` seconds to end. Idempotent."""
        for listener in self._listeners:
            listener.stop()
        self._listeners.clear()
        for task in self._greeting:
            task.cancel()
        if self._greeting:
            await asyncio.wait(self._greeting)
        runners, self._runners = self._runners, []
        self._gateway.stop()
        await asyncio.gather(*(runner.cleanup() for runner in runners))
        self.client_urls.clear()
        self.metrics_urls.clear()

    def _metrics_app(self) -> web.Application:
        app = web.Application(client_max_size=self._max_body, middlewares=[self._while_busy])
        for path, handler in {
            "/metrics": self._answer_metrics,
            "/health": self._health.health,
            "/livez": self._health.livez,
            "/livez/{check}": self._health.livez,
            "/readyz": self._health.readyz,
            "/readyz/{check}": self._health.readyz,
        }.items():
            app.router.add_get(path, handler, allow_head=False)
        return app

    def _client_app(self) -> web.Application:
        app = self._metrics_app()
        app.router.add_get("/version", _version, allow_head=False)
        app.router.add_route("*", "/v3/{path:.*}", self._gateway.handle)
        return app

    async def _answer_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _serve(self, app: web.Application, address: ListenAddress) -> str:
        # With handler_cancellation a watch ends when its client goes away.
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=http_logger("kvstore.server.http", log),
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=self._stop_grace,
        )
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        serve = runner.server

        def accepted(connection: socket.socket) -> None:
            task = asyncio.create_task(self._greet(connection, address, serve))
            self._greeting.add(task)
            task.add_done_callback(lambda _: self._greeted(task, connection))
            self._connections.enter(task, task.cancel)

        listener = Listener(address, accepted)
        await listener.start()
        self._listeners.append(listener)
        return address._replace(port=listener.port).url

    async def _greet(self, connection: socket.socket, address: ListenAddress, serve: web.Server) -> None:
        """Find out what a new client speaks, and hand it on."""
        handshake = self._connections.limits.handshake
        task = asyncio.current_task()
        try:
            if address in self._server.shared:
                async with asyncio.timeout(handshake):
                    is_grpc = await speaks_grpc(connection, tls=address.tls)
                    if is_grpc:
                        await self._server.take(connection, address)
                        return
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connections.protocol(serve(), task),
                connection,
                ssl=self._tls if address.tls else None,
                ssl_handshake_timeout=handshake if address.tls else None,
                ssl_shutdown_timeout=handshake if address.tls else None,
            )
        except (OSError, ssl.SSLError) as error:  # TimeoutError is one, too
            log.debug("http_connection_refused", error=str(error) or type(error).__name__)
            connection.close()

    def _greeted(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._greeting.discard(task)
        self._connections.leave(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:  # cancelled perhaps before it ran at all
            connection.close()
        if error is not None:
            log.error("http_connection_failed", exc_info=error)

    @web.middleware
    async def _while_busy(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        async with self._connections.busy(request.transport):
            return await handler(request)


async def _version(_: web.Request) -> web.Response:
    return web.json_response({"etcdserver": SERVER_VERSION, "etcdcluster": CLUSTER_VERSION})


class Outcome(NamedTuple):
    """One health check: its name, and why it failed (nothing if it did not)."""

    name: str
    failure: str


class Health:
    """`/health`, and Kubernetes' `/livez` and `/readyz` with their checks, as etcd 3.5.11 and later have them."""

    LIVE = ("serializable_read",)
    READY = ("data_corruption", "serializable_read", "linearizable_read", "non_learner")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._checks: dict[str, Callable[[], Awaitable[str]]] = {
            "data_corruption": self._data_corruption,
            "serializable_read": self._serializable_read,
            "linearizable_read": self._linearizable_read,
            "non_learner": self._non_learner,
        }

    async def health(self, request: web.Request) -> web.Response:
        """200 or 503, and `{"health":"true","reason":""}`; `exclude=ALARM` and `serializable=true` as in etcd."""
        excluded = request.query.getall("exclude", [])
        raised = [alarm for alarm in self._alarms() if alarm not in excluded]
        if raised:
            failure = f"ALARM {raised[0]}"
        elif request.query.get("serializable") == "true":
            failure = await self._serializable_read()
        else:
            failure = await self._linearizable_read()
        body = {"health": "false" if failure else "true", "reason": failure}
        return web.json_response(body, status=503 if failure else 200)

    async def livez(self, request: web.Request) -> web.Response:
        """Whether a restart would help."""
        return await self._answer(request, "livez", self.LIVE)

    async def readyz(self, request: web.Request) -> web.Response:
        """Whether requests should come here."""
        return await self._answer(request, "readyz", self.READY)

    async def _answer(self, request: web.Request, name: str, checks: Sequence[str]) -> web.Response:
        one = request.match_info.get("check")
        if one is not None and one not in checks:
            return web.Response(status=404, text="404 page not found\n")
        excluded = request.query.getall("exclude", []) if one is None else []
        lines: list[str] = []
        failed = False
        for check in (one,) if one else checks:
            if check in excluded:
                lines.append(f"[+]{check} excluded: ok\n")
                continue
            failure = await self._checks[check]()
            failed = failed or bool(failure)
            lines.append(f"[-]{check} failed: {failure}\n" if failure else f"[+]{check} ok\n")
        if failed:
            return web.Response(status=503, text="".join(lines) + f"{name} check failed\n")
        return web.Response(text="".join(lines if "verbose" in request.query else []) + "ok\n")

    def _alarms(self) -> list[str]:
        return [alarm.type.name for alarm in self._node.maintenance.alarms.raised()]

    async def _data_corruption(self) -> str:
        return "alarm activated: CORRUPT" if "CORRUPT" in self._alarms() else ""

    async def _serializable_read(self) -> str:
        try:
            self._node.range(Range(b"\0", limit=1))
        except KvError as error:
            return f"RANGE ERROR:{error}"
        return ""

    async def _linearizable_read(self) -> str:
        # A plain read would be answered even when nothing can be committed any more.
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._node.txn(_NEVER)
        except TimeoutError:
            return "QGET ERROR:etcdserver: request timed out"
        except KvError as error:
            return f"QGET ERROR:{error}"
        return ""

    async def _non_learner(self) -> str:
        return ""  # the only member votes
