"""1,000 objects created until all of them are handled, which is one field of their status set by an operator: ours, and
kopf with the settings that it comes with.

kopf talks to a Kubernetes API server, here `benchmarks.apiserver`: HTTP and JSON, nothing on disk. Ours talks to its
store: embedded in the process, or gRPC to a server process; each write is on disk before it counts (without fsync: as
little is promised as by the API server). So that not only transports are compared, a further one of ours is an informer
and a work queue on that same API server. kopf makes two writes for an object, ours one: kopf remembers in an annotation
what it has handled. Both stores are measured alone too, with the same creates and one bare write for each.

Each operator has a process of its own (but for the embedded store) and is ready before the first object is created.

    python -m benchmarks.kopf_job [OBJECTS]
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.apiserver import GROUP_VERSION, IN_NAMESPACE, WIDGETS, ApiServer
from benchmarks.servers import ours
from benchmarks.table import Row, quiet, show
from controllers import Context, Manager, Request, Result, WorkQueue
from informer import Handler, ObjectClient, Resource, SharedInformer, Stored
from kvstore import Put
from kvstore.client import EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.node import Node, NodeOptions
from tests.comparison.kubernetes_list_watch import KubernetesListWatch

OBJECTS = 1_000
IN_FLIGHT = 16  # creates
ROUNDS = 3
WORKERS = (1, 16)  # ours comes with 1; kopf has as many as there are objects
OBJECT_BYTES = 300
WITHIN = 120.0
FIRST = "first"  # handled before the clock starts: the operator is ready


class Widget(Resource, group="example.com", version="v1"):
    class Spec:
        size: int = 1

    class Status:
        size: int | None = None


class Handled:
    """Which objects have been handled, and how many of them had to be."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._wanted = 1
        self._reached = asyncio.Event()

    def note(self, name: str) -> None:
        self.names.add(name)
        if len(self.names) >= self._wanted:
            self._reached.set()

    async def reach(self, wanted: int) -> None:
        self._wanted = wanted
        if len(self.names) < wanted:
            self._reached.clear()
            async with asyncio.timeout(WITHIN):
                await self._reached.wait()


class Measured(msgspec.Struct, frozen=True):
    """seconds: from the first create to the last object handled. cpu: of the operator's process meanwhile."""

    seconds: float
    cpu: float


# ---- operators


async def reconcile(ctx: Context, request: Request) -> Result | None:
    widget = ctx.get(Widget, request)
    if widget is not None and widget.status.size != widget.spec.size:
        widget.status.size = widget.spec.size
        await ctx.update_status(widget)
    return None


def operate_kopf(url: str) -> None:
    kopf: Any = importlib.import_module("kopf")

    def login(**_: Any) -> Any:
        return kopf.ConnectionInfo(server=url)

    async def created(spec: Any, patch: Any, **_: Any) -> None:
        patch.status["size"] = spec["size"]

    kopf.on.login()(login)
    kopf.on.create("example.com", "v1", "widgets")(created)
    kopf.configure(quiet=True)
    kopf.run(clusterwide=True, standalone=True)


def operate_manager(endpoint: str, workers: int) -> None:
    quiet()
    manager = Manager(f"etcd://{endpoint}")
    manager.add_controller(Widget, reconcile, workers=workers)
    manager.run()


class Enqueue(Handler):
    """Adds whatever it is told of."""

    def __init__(self, queue: WorkQueue[str]) -> None:
        self._queue = queue

    def on_add(self, new: Stored, initial: bool) -> None:
        self._queue.add(new.key)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._queue.add(new.key)


async def operate_http(url: str, workers: int) -> None:
    """An informer and a work queue on the API server that kopf gets."""
    rng = random.Random()
    queue: WorkQueue[str] = WorkQueue()
    async with aiohttp.ClientSession() as session:
        informer = SharedInformer(KubernetesListWatch(session, url + WIDGETS, rng), name="widgets", rng=rng)
        informer.add_handler(Enqueue(queue))

        async def work() -> None:
            while (key := await queue.get()) is not None:
                stored = informer.cache.get(key)
                assert stored is not None
                widget = Widget.decode(stored.data, stored.revision)
                if widget.status.size != widget.spec.size:
                    body = {"status": {"size": widget.spec.size}}
                    await _send(session, "PATCH", f"{url}{IN_NAMESPACE}/{stored.name}/status", body)
                queue.done(key)

        async with asyncio.TaskGroup() as group:
            group.create_task(informer.run())
            for _ in range(workers):
                group.create_task(work())


@contextlib.contextmanager
def operator(*arguments: str) -> Iterator[int]:
    """An operator in a process of its own: its process id."""
    command = [sys.executable, "-m", "benchmarks.kopf_job", "--operate", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_of(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- the job


async def job(objects: int, handled: Handled, create: Callable[[str], Awaitable[Any]], pid: int) -> Measured:
    await create(FIRST)
    await handled.reach(1)
    names = iter([f"w{n}" for n in range(objects)])

    async def creator() -> None:
        for name in names:
            await create(name)

    before, began = cpu_of(pid), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(creator())
    await handled.reach(objects + 1)
    took = time.perf_counter() - began
    return Measured(took, cpu_of(pid) - before)


async def _send(session: aiohttp.ClientSession, method: str, url: str, body: Any) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    async with session.request(method, url, data=msgspec.json.encode(body), headers=headers) as response:
        response.raise_for_status()
        await response.read()


@contextlib.asynccontextmanager
async def api_server() -> AsyncIterator[tuple[ApiServer, Handled, aiohttp.ClientSession]]:
    handled = Handled()

    def changed(obj: dict[str, Any]) -> None:
        if obj.get("status", {}).get("size") == obj["spec"]["size"]:
            handled.note(obj["metadata"]["name"])

    async with ApiServer(changed) as server, aiohttp.ClientSession() as session:
        yield server, handled, session


def _create_on(server: ApiServer, session: aiohttp.ClientSession) -> Callable[[str], Awaitable[None]]:
    def create(name: str) -> Awaitable[None]:
        metadata = {"name": name, "namespace": "default"}
        body = {"apiVersion": GROUP_VERSION, "kind": "Widget", "metadata": metadata, "spec": {"size": 1}}
        return _send(session, "POST", server.url + IN_NAMESPACE, body)

    return create


async def on_api_server(objects: int, kind: str, workers: int = 0) -> Measured:
    async with api_server() as (server, handled, session):
        with operator(kind, server.url, str(workers)) as pid:
            return await job(objects, handled, _create_on(server, session), pid)


async def on_api_server_bare(objects: int) -> Measured:
    """The requests alone: each object is created and patched by the client that creates it."""
    async with api_server() as (server, handled, session):
        post = _create_on(server, session)

        async def create(name: str) -> None:
            await post(name)
            await _send(session, "PATCH", f"{server.url}{IN_NAMESPACE}/{name}/status", {"status": {"size": 1}})

        return await job(objects, handled, create, os.getpid())


class NoteHandled(Handler):
    """Notes objects whose status says so."""

    def __init__(self, handled: Handled) -> None:
        self._handled = handled

    def on_add(self, new: Stored, initial: bool) -> None:
        self.on_update(new, new)

    def on_update(self, old: Stored, new: Stored) -> None:
        widget = Widget.decode(new.data, new.revision)
        if widget.status.size == widget.spec.size:
            self._handled.note(new.name)


async def embedded(objects: int, workers: int, directory: Path, *, fsync: bool) -> Measured:
    handled = Handled()
    async with Node.open(directory, NodeOptions(fsync=fsync)) as node:
        manager = Manager(client=EmbeddedClient(node))
        manager.add_controller(Widget, reconcile, workers=workers)
        async with manager:
            manager.informer(Widget).add_handler(NoteHandled(handled))
            return await job(objects, handled, _create_in(manager.client), os.getpid())


async def served(objects: int, workers: int, directory: Path) -> Measured:
    handled = Handled()
    with ours(directory) as (_, endpoint), operator("manager", endpoint, str(workers)) as pid:
        client = RemoteClient([endpoint])
        try:
            manager = Manager(client=client)
            async with manager:
                manager.informer(Widget).add_handler(NoteHandled(handled))
                return await job(objects, handled, _create_in(manager.client), pid)
        finally:
            await client.close()


async def store_alone(objects: int, workers: int, directory: Path) -> Measured:
    """The writes alone: as many bare ones, on disk, with as many in flight."""
    handled = Handled()
    created: asyncio.Queue[str] = asyncio.Queue()
    async with Node.open(directory) as node:

        async def create(name: str) -> None:
            await node.put(Put(f"/widgets/{name}".encode(), bytes(OBJECT_BYTES)))
            created.put_nowait(name)

        async def work() -> None:
            while True:
                name = await created.get()
                await node.put(Put(f"/widgets/{name}".encode(), bytes(OBJECT_BYTES)))
                handled.note(name)

        working = [asyncio.create_task(work()) for _ in range(workers)]
        measured = await job(objects, handled, create, os.getpid())
        for task in working:
            task.cancel()
        await asyncio.wait(working)
        return measured


def _create_in(client: ObjectClient) -> Callable[[str], Awaitable[Widget]]:
    return lambda name: client.create(Widget(name=name, namespace="default", spec={"size": 1}))


def one(name: str, objects: int) -> Measured:
    """A contestant's round, in this process."""
    quiet()
    kind, _, workers = name.partition(":")
    with tempfile.TemporaryDirectory(prefix="listwatch-bench-") as scratch:
        match kind:
            case "bare":
                running = on_api_server_bare(objects)
            case "embedded" | "unsafe":
                running = embedded(objects, int(workers), Path(scratch), fsync=kind == "embedded")
            case "alone":
                running = store_alone(objects, int(workers), Path(scratch))
            case "served":
                running = served(objects, int(workers), Path(scratch))
            case _:
                running = on_api_server(objects, kind, int(workers or 0))
        return asyncio.run(running)


def main(objects: int = OBJECTS) -> None:
    """Each contestant in a process of its own, in turns."""
    titles = {"bare": "API server, the requests alone"}
    try:
        titles["kopf"] = f"API server, kopf {importlib.metadata.version('kopf')}"
    except importlib.metadata.PackageNotFoundError:
        print("kopf is not installed: pip install --group comparison")
    for kind, title in (
        ("http", "API server, our informer and queue"),
        ("alone", "embedded store, the writes alone"),
        ("served", "listwatch serve over gRPC, our manager"),
        ("embedded", "embedded store, our manager"),
        ("unsafe", "embedded store without fsync, our manager"),
    ):
        titles |= {f"{kind}:{n}": f"{title}, {n} worker{'s' * (n > 1)}" for n in WORKERS}
    rounds: dict[str, list[Measured]] = {name: [] for name in titles}
    for _ in range(ROUNDS):
        for name in titles:
            command = [sys.executable, "-m", "benchmarks.kopf_job", str(objects), "--one", name]
            ran = subprocess.run(command, stdout=subprocess.PIPE, timeout=2 * WITHIN, check=True)
            rounds[name].append(msgspec.json.decode(ran.stdout, type=Measured))
    baseline = "kopf" if "kopf" in titles else "bare"
    seconds = {name: statistics.median(each.seconds for each in rounds[name]) for name in titles}
    cpu = {name: statistics.median(each.cpu for each in rounds[name]) for name in titles}
    rows = [Row(titles[name], seconds[name], "s", baseline, seconds[name] / seconds[baseline]) for name in titles]
    show(f"{objects:,} objects created to all handled; median of {ROUNDS}", rows)
    rows = [
        Row(titles[name], 1e3 * cpu[name] / objects, "ms", baseline, cpu[name] / cpu[baseline])
        for name in titles
        if "alone" not in titles[name]
    ]
    show("processor time of the operator's process for an object (embedded: store and creating client are in it)", rows)


def _operate(kind: str, address: str, workers: str) -> None:
    if kind == "kopf":
        operate_kopf(address)
    elif kind == "manager":
        operate_manager(address, int(workers))
    else:
        quiet()
        asyncio.run(operate_http(address, int(workers)))


if __name__ == "__main__":
    if "--operate" in sys.argv:
        _operate(*sys.argv[2:])
    elif "--one" in sys.argv:
        print(msgspec.json.encode(one(sys.argv[3], int(sys.argv[1]))).decode())
    else:
        main(*map(int, sys.argv[1:2]))
