"""A small Kubernetes API server with one kind that has a status subresource, in memory: what an operator of another
framework works against. It keeps nothing on disk and checks nothing, so it is cheaper to write to than a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec
from aiohttp import web

from informer.patch import merge

Object: TypeAlias = dict[str, Any]
Told: TypeAlias = Callable[[Object], None]

GROUP_VERSION = "example.com/v1"
WIDGETS = f"/apis/{GROUP_VERSION}/widgets"
IN_NAMESPACE = f"/apis/{GROUP_VERSION}/namespaces/default/widgets"
FIRST_REVISION = 100


class ApiServer:
    """Serves Widgets of the namespace "default" on a port of 127.0.0.1. Use as `async with`.

    on_change is called with each new state of an object.
    """

    def __init__(self, on_change: Told) -> None:
        self.objects: dict[str, Object] = {}
        self._on_change = on_change
        self._revision = FIRST_REVISION
        self._lines: list[bytes] = []  # of revision FIRST_REVISION + 1 and on
        self._watches: set[asyncio.Queue[bytes | None]] = set()
        self._quiet: set[asyncio.Queue[bytes | None]] = set()

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post(IN_NAMESPACE, self._create)
        application.router.add_patch(IN_NAMESPACE + "/{name}", self._patch)
        application.router.add_patch(IN_NAMESPACE + "/{name}/{part:status}", self._patch)
        application.router.add_get(WIDGETS, self._widgets)
        for path in ("/api/v1/namespaces", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"):
            application.router.add_get(path, self._none)
        application.router.add_get("/{path:.*}", self._discovery)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for queue in self._watches | self._quiet:
            queue.put_nowait(None)
        await self._runner.cleanup()

    def _put(self, kind: str, obj: Object) -> web.Response:
        self._revision += 1
        obj["metadata"]["resourceVersion"] = str(self._revision)
        self.objects[obj["metadata"]["name"]] = obj
        line = msgspec.json.encode({"type": kind, "object": obj}) + b"\n"
        self._lines.append(line)
        for queue in self._watches:
            queue.put_nowait(line)
        self._on_change(obj)
        return _answer(obj)

    async def _create(self, request: web.Request) -> web.Response:
        obj = msgspec.json.decode(await request.read())
        uid = f"00000000-0000-4000-8000-{self._revision:012d}"
        obj["metadata"] |= {"uid": uid, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
        return self._put("ADDED", obj)

    async def _patch(self, request: web.Request) -> web.Response:
        before = self.objects[request.match_info["name"]]
        patch = msgspec.json.decode(await request.read())
        # The status has a subresource: neither write can change what the other is for.
        if "part" in request.match_info:
            patch = {"status": patch["status"]}
        else:
            patch.pop("status", None)
        return self._put("MODIFIED", merge(before, patch))

    async def _widgets(self, request: web.Request) -> web.StreamResponse:
        if not _is_watch(request):
            return self._list(list(self.objects.values()))
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for line in self._lines[int(request.query["resourceVersion"]) - FIRST_REVISION :]:
            queue.put_nowait(line)
        return await self._stream(request, queue, self._watches)

    async def _none(self, request: web.Request) -> web.StreamResponse:
        """Kinds of which there is nothing: kopf lists and watches them before any other."""
        if not _is_watch(request):
            return self._list([])
        return await self._stream(request, asyncio.Queue(), self._quiet)

    def _list(self, items: list[Object]) -> web.Response:
        return _answer({"kind": "List", "metadata": {"resourceVersion": str(self._revision)}, "items": items})

    async def _stream(
        self, request: web.Request, queue: asyncio.Queue[bytes | None], among: set[asyncio.Queue[bytes | None]]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        # Before any `await`: no change may fall between what was queued above and this.
        among.add(queue)
        try:
            await response.prepare(request)
            while (line := await queue.get()) is not None:
                await response.write(line)
        except ConnectionResetError:  # the operator has ended
            return response
        finally:
            among.discard(queue)
        return response

    async def _discovery(self, request: web.Request) -> web.Response:
        answer = _DISCOVERY.get(request.path.rstrip("/"))
        return _answer({"kind": "Status", "status": "Failure", "code": 404}, 404) if answer is None else _answer(answer)


def _is_watch(request: web.Request) -> bool:
    return request.query.get("watch") in ("true", "1", "True")


def _answer(body: Object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _resources(group_version: str, *names: str, kind: str, namespaced: bool) -> Object:
    verbs = ["get", "list", "watch", "create", "update", "patch", "delete"]
    resources = [
        {"name": name, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}
        for name in names
    ]
    return {"kind": "APIResourceList", "groupVersion": group_version, "resources": resources}


def _group(name: str) -> Object:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


_EXTENSIONS = "apiextensions.k8s.io"
_DISCOVERY: dict[str, Object] = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "groups": [_group(_EXTENSIONS), _group("example.com")]},
    "/api/v1": _resources("v1", "namespaces", kind="Namespace", namespaced=False),
    f"/apis/{_EXTENSIONS}/v1": _resources(
        f"{_EXTENSIONS}/v1", "customresourcedefinitions", kind="CustomResourceDefinition", namespaced=False
    ),
    f"/apis/{GROUP_VERSION}": _resources(GROUP_VERSION, "widgets", "widgets/status", kind="Widget", namespaced=True),
}
