"""What 10,000 objects cost while nothing happens to them: a manager with a reconciler that reads each one, after all
have been handled. The baselines are the same manager without objects, and the objects' own JSON.

The embedded store is in the manager's process, and so in what is measured. All processes are measured at once: what is
counted is the processor time that each used, however busy the machine is.

    python -m benchmarks.idle [OBJECTS]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.kopf_job import cpu_of
from benchmarks.servers import ours
from benchmarks.table import Row, quiet, show
from controllers import Context, Manager, Request, Result
from informer import Resource

OBJECTS = 10_000
IN_FLIGHT = 200
SECONDS = 30.0
WITHIN = 120.0
GOAL = 1.0  # percent of a core


class Widget(Resource, group="example.com", version="v1"):
    class Spec:
        size: int = 1
        note: str = ""


class Measured(msgspec.Struct, frozen=True):
    """percent: of a core. grown, json: bytes in all."""

    percent: float
    server_percent: float
    grown: int
    json: int


def own_memory() -> int:
    """Bytes of this process's own memory, without the mapped database file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise LookupError("RssAnon")


async def measure(store: str, objects: int, server: int | None) -> Measured:
    manager = Manager(store)
    handled: set[str] = set()
    all_handled = asyncio.Event()

    @manager.reconciler(Widget)
    async def reconcile(ctx: Context, request: Request) -> Result | None:
        if ctx.get(Widget, request) is not None:
            handled.add(request.key)
            if len(handled) >= objects:
                all_handled.set()
        return None

    async with manager:
        gc.collect()
        before = own_memory()
        names = iter(range(objects))

        async def create() -> None:
            for n in names:
                spec = {"size": 1, "note": "x" * 200}
                await manager.client.create(Widget(name=f"w{n}", namespace="default", spec=spec))

        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(create())
        async with asyncio.timeout(WITHIN):
            if objects:
                await all_handled.wait()
            while (queue := manager.controller("widget").statistics().queue).depth or queue.processing:
                await asyncio.sleep(0.1)
        handled.clear()
        gc.collect()
        grown = own_memory() - before
        size = sum(len(stored.data) for stored in manager.informer(Widget).cache.list())
        assert len(manager.informer(Widget).cache) == objects
        used, serving = time.process_time(), 0.0 if server is None else cpu_of(server)
        await asyncio.sleep(SECONDS)
        used = time.process_time() - used
        serving = 0.0 if server is None else cpu_of(server) - serving
        return Measured(100 * used / SECONDS, 100 * serving / SECONDS, grown, size)


def one(kind: str, objects: int) -> Measured:
    quiet()
    with tempfile.TemporaryDirectory(prefix="listwatch-bench-") as scratch, contextlib.ExitStack() as stack:
        if kind == "embedded":
            return asyncio.run(measure(f"{scratch}/data", objects, None))
        server, endpoint = stack.enter_context(ours(Path(scratch)))
        return asyncio.run(measure(f"etcd://{endpoint}", objects, server.pid))


@contextlib.contextmanager
def started(kind: str, objects: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.idle", str(objects), "--one", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def main(objects: int = OBJECTS) -> None:
    with contextlib.ExitStack() as stack:
        running = {
            (kind, count): stack.enter_context(started(kind, count))
            for kind in ("embedded", "served")
            for count in (0, objects)
        }
        found = {}
        for key, process in running.items():
            output, _ = process.communicate(timeout=3 * WITHIN + SECONDS)
            found[key] = msgspec.json.decode(output, type=Measured)
    rows = []
    for kind, title in (("embedded", "manager with its embedded store"), ("served", "manager, served store")):
        none, many = found[kind, 0], found[kind, objects]
        rows.append(Row(f"{title}, no objects", none.percent, "%"))
        reached = many.percent < GOAL
        ratio = many.percent / none.percent if none.percent else None
        rows.append(Row(title, many.percent, "%", "no objects", ratio, f"< {GOAL:g} %", reached))
    rows.append(Row("listwatch serve, no objects", found["served", 0].server_percent, "%"))
    rows.append(Row("listwatch serve", found["served", objects].server_percent, "%"))
    show(f"processor time of {objects:,} idle objects, of one core, over {SECONDS:g} s", rows)
    rows = []
    for kind, title in (("embedded", "manager with its embedded store"), ("served", "manager, served store")):
        many = found[kind, objects]
        rows.append(Row(title, many.grown / objects, "B/object", "their JSON", many.grown / many.json))
    rows.append(Row("their JSON", found["embedded", objects].json / objects, "B/object"))
    show("what they made the process grow by", rows)


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(msgspec.json.encode(one(sys.argv[3], int(sys.argv[1]))).decode())
    else:
        main(*map(int, sys.argv[1:2]))
