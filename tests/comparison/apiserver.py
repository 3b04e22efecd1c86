"""A small Kubernetes API server that serves one kind of object and fails in the ways that real ones do.

It answers what the Python clients ask before they watch (discovery, version), lists in pages that are all of one
revision, and watches with bookmarks, 410 Gone and synthetic initial events, as the Kubernetes API describes them.
Faults are attributes that a scenario sets.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from aiohttp import web

from tests.comparison.world import Change, Object, World

Verb: TypeAlias = Literal["list", "watch"]
End: TypeAlias = Literal["eof", "half a line", "abort"]

EMPTY = "empty"  # a watch that is accepted and ended at once


class ApiServer:
    """Serves a `World` on a port of 127.0.0.1. Use as `async with`.

    fail: what a verb is answered instead: an HTTP status, or EMPTY for a watch. gone_in_stream: 410 Gone is told as
    an event of an accepted watch, else as the status of the answer. expire_pages: how many times the second page of a
    list is refused with 410. piece: bytes of a watch that are sent at a time (0: a line).
    bookmark_every: seconds; a real server sends one a minute.
    """

    def __init__(self, world: World, *, bookmark_every: float = 1.0) -> None:
        self.world = world
        world.on_change = self._on_change
        self.fail: dict[Verb, int | str] = {}
        self.gone_in_stream = False
        self.expire_pages = 0
        self.piece = 0
        self.requests: list[tuple[float, Verb]] = []
        self.unknown: collections.Counter[str] = collections.Counter()
        self.bookmark_every = bookmark_every
        self._streams: set[_Stream] = set()
        self._other_streams: set[_Stream] = set()
        self._pages: dict[str, tuple[int, list[Object]]] = {}

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/api/v1/pods", self._pods)
        application.router.add_get("/api/v1/namespaces/default/pods", self._pods)
        for path in _OTHERS:
            application.router.add_get(path, self._others)
        application.router.add_get("/{path:.*}", self._discovery)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.host, self.port = self._runner.addresses[0][:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_watches("eof")
        for stream in self._other_streams:
            stream.queue.put_nowait("eof")
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def watching(self) -> int:
        return len(self._streams)

    def end_watches(self, how: End) -> None:
        """End every open watch; what happens from now on is not told on it."""
        for stream in self._streams:
            stream.queue.put_nowait(how)
        self._streams.clear()

    def send_error(self, code: int, reason: str) -> None:
        """Put an ERROR event on every open watch and end it, as the server does when its own storage fails."""
        for stream in self._streams:
            stream.queue.put_nowait(_line("ERROR", _status(code, reason)))
        self.end_watches("eof")

    def _on_change(self, change: Change) -> None:
        for stream in self._streams:
            stream.queue.put_nowait(_line(change.kind, change.object))

    # ---- requests

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        verb: Verb = "watch" if _is_watch(request) else "list"
        self.requests.append((asyncio.get_running_loop().time(), verb))
        failure = self.fail.get(verb)
        if isinstance(failure, int):
            headers = {"Retry-After": "1"} if failure == 429 else {}
            return _answer(_status(failure, _REASONS[failure]), failure, headers)
        if verb == "list":
            return self._list(request)
        return await self._watch(request, empty=failure == EMPTY)

    async def _others(self, request: web.Request) -> web.StreamResponse:
        """Kinds of which there is nothing: kopf waits for them before it looks at any other."""
        if not _is_watch(request):
            metadata = {"resourceVersion": str(self.world.revision)}
            return _answer({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": []})
        stream = _Stream()
        self._other_streams.add(stream)
        return await self._stream(request, stream, self._other_streams)

    def _list(self, request: web.Request) -> web.Response:
        token = request.query.get("continue", "")
        limit = int(request.query.get("limit") or 0)
        if token:
            if self.expire_pages:
                self.expire_pages -= 1
                del self._pages[token]
            if token not in self._pages:
                return _answer(_status(410, "Expired"), 410)
            revision, items = self._pages[token]
        else:
            revision, items = self.world.revision, list(self.world.objects.values())
        metadata: Object = {"resourceVersion": str(revision)}
        if limit and len(items) > limit:
            following = f"{revision}-{len(items) - limit}"
            self._pages[following] = (revision, items[limit:])
            metadata |= {"continue": following, "remainingItemCount": len(items) - limit}
            items = items[:limit]
        return _answer({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, *, empty: bool) -> web.StreamResponse:
        asked = request.query.get("resourceVersion", "")
        gone = asked not in ("", "0") and int(asked) < self.world.compacted
        if gone and not self.gone_in_stream:
            return _answer(_status(410, "Expired"), 410)
        stream = _Stream()
        if gone:
            stream.queue.put_nowait(_line("ERROR", _status(410, "Expired")))
            stream.queue.put_nowait("eof")
        elif empty:
            stream.queue.put_nowait("eof")
        else:
            # From no await between here and the registration depends that no event falls between the two.
            if asked in ("", "0"):
                for pod in self.world.objects.values():
                    stream.queue.put_nowait(_line("ADDED", pod))
            else:
                for change in self.world.after(int(asked)):
                    stream.queue.put_nowait(_line(change.kind, change.object))
            self._streams.add(stream)
        return await self._stream(request, stream, self._streams)

    async def _stream(self, request: web.Request, stream: _Stream, streams: set[_Stream]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            with contextlib.suppress(ConnectionResetError):  # the client went away
                await response.prepare(request)
                await self._send(request, response, stream)
        finally:
            streams.discard(stream)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, stream: _Stream) -> None:
        bookmarks = request.query.get("allowWatchBookmarks") in ("true", "1", "True")
        seconds = request.query.get("timeoutSeconds")
        loop = asyncio.get_running_loop()
        ends = loop.time() + float(seconds) if seconds else float("inf")
        while True:
            try:
                async with asyncio.timeout_at(min(ends, loop.time() + self.bookmark_every)):
                    news = await stream.queue.get()
            except TimeoutError:
                if loop.time() >= ends:
                    return
                if not bookmarks:
                    continue
                metadata = {"resourceVersion": str(self.world.revision)}
                news = _line("BOOKMARK", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
            if isinstance(news, bytes):
                for begin in range(0, len(news), self.piece or len(news)):
                    await response.write(news[begin : begin + (self.piece or len(news))])
                continue
            if news == "eof":
                return
            if news == "half a line":
                line = _line("MODIFIED", next(iter(self.world.objects.values())))
                await response.write(line[: len(line) // 2])
            if request.transport is not None:
                request.transport.close()
            return

    async def _discovery(self, request: web.Request) -> web.Response:
        answer = _DISCOVERY.get(request.path.rstrip("/"))
        if answer is None:
            self.unknown[request.path] += 1
            return _answer(_status(404, "NotFound"), 404)
        return _answer(answer)


class _Stream:
    """What an open watch has yet to send: lines, and how it ends."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | str] = asyncio.Queue()


def _answer(body: Object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    # Without a charset, as the real one; there are clients that compare the whole header.
    return web.Response(
        body=json.dumps(body, ensure_ascii=False).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def _is_watch(request: web.Request) -> bool:
    return request.query.get("watch") in ("true", "1", "True")


def _line(kind: str, what: Object) -> bytes:
    # As Go writes JSON: only `<`, `>`, `&`, U+2028 and U+2029 are escaped beside what has to be.
    return json.dumps({"type": kind, "object": what}, ensure_ascii=False).encode() + b"\n"


_REASONS = {429: "TooManyRequests", 500: "InternalError", 410: "Expired"}


def _status(code: int, reason: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": f"the fault under test: {reason}",
        "reason": reason,
        "code": code,
    }


_OTHERS = ("/api/v1/namespaces", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
_EXTENSIONS = {"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"}


def _resource(plural: str, kind: str, *, namespaced: bool) -> Object:
    verbs = ["get", "list", "watch", "create", "update", "patch", "delete"]
    return {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}


def _resources(group_version: str, *resources: Object) -> Object:
    return {"kind": "APIResourceList", "groupVersion": group_version, "resources": list(resources)}


_DISCOVERY: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {"name": "apiextensions.k8s.io", "versions": [_EXTENSIONS], "preferredVersion": _EXTENSIONS},
        ],
    },
    "/api/v1": _resources(
        "v1",
        _resource("pods", "Pod", namespaced=True),
        _resource("namespaces", "Namespace", namespaced=False),
    ),
    "/apis/apiextensions.k8s.io/v1": _resources(
        "apiextensions.k8s.io/v1",
        _resource("customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
    ),
}
