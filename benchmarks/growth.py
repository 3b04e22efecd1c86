"""What grows with the number of objects, from 1,000 to 100,000: start-up to all handled, memory, the time from one
change to its being handled, and the processor while nothing happens. Start-up should be proportional, memory the same
for each object, and the rest stay as it is; the processor's time is what is judged, which other work on the machine
changes little.

For each number one process fills an embedded store, another starts with that store and is measured: a manager with a
reconciler that reads its object and those that it owns, which an object in ten has one of. No fsync: a disk that others
use too would hide what grows. The baseline of every row is the smallest number of objects.

    python -m benchmarks.growth [OBJECTS...]
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.idle import own_memory
from benchmarks.table import Row, quiet, show
from controllers import Context, Manager, Request, Result, set_controller_reference
from informer import ObjectClient, Resource
from kvstore.client import EmbeddedClient
from kvstore.node import Node, NodeOptions

SIZES = (1_000, 10_000, 100_000)
PARTS_EACH = 10  # objects for one that owns one more
IN_FLIGHT = 200
CHANGES = 200
MOST = 1.5  # times the smallest's
SECONDS = 20.0
WITHIN = 300.0


class Widget(Resource, group="example.com", version="v1"):
    class Spec:
        size: int = 1
        note: str = ""


class Part(Resource, group="example.com", version="v1"):
    class Spec:
        size: int = 1


class Measured(msgspec.Struct, frozen=True):
    """start, start_cpu, change, owned, change_cpu: seconds. memory: bytes in all. percent: of a core."""

    start: float
    start_cpu: float
    memory: int
    change: float
    owned: float
    change_cpu: float
    percent: float


async def fill(directory: Path, objects: int) -> None:
    async with Node.open(directory, NodeOptions(fsync=False)) as node:
        client = ObjectClient(EmbeddedClient(node))
        numbers = iter(range(objects))

        async def create() -> None:
            for n in numbers:
                widget = Widget(name=f"w{n}", namespace="default", spec={"size": 1, "note": "x" * 200})
                widget = await client.create(widget)
                if n % PARTS_EACH == 0:
                    part = Part(name=f"p{n}", namespace="default", spec={"size": 1})
                    set_controller_reference(widget, part)
                    await client.create(part)

        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(create())


async def measure(directory: Path, objects: int) -> Measured:
    clock = asyncio.get_running_loop().time
    handled: set[str] = set()
    all_handled, changed = asyncio.Event(), asyncio.Event()
    awaited: tuple[str, int] = ("", 0)
    gc.collect()
    before, began, used = own_memory(), clock(), time.process_time()
    async with Node.open(directory, NodeOptions(fsync=False)) as node:
        manager = Manager(client=EmbeddedClient(node))

        @manager.reconciler(Widget, owns=[Part])
        async def reconcile(ctx: Context, request: Request) -> Result | None:
            widget = ctx.get(Widget, request)
            assert widget is not None
            parts = ctx.list(Part, owner=widget)
            if (request.name, widget.spec.size + sum(part.spec.size for part in parts)) == awaited:
                changed.set()
            if not all_handled.is_set():
                handled.add(request.name)
                if len(handled) == objects:
                    all_handled.set()
            return None

        async with manager:
            async with asyncio.timeout(WITHIN):
                await all_handled.wait()
            start, start_cpu = clock() - began, time.process_time() - used
            handled.clear()
            gc.collect()
            memory = own_memory() - before
            rng = random.Random(1)
            used = time.process_time()
            took: dict[type[Widget | Part], list[float]] = {Widget: [], Part: []}
            for n in range(CHANGES):
                number = PARTS_EACH * rng.randrange(objects // PARTS_EACH)
                for cls, name, other in ((Widget, f"w{number}", f"p{number}"), (Part, f"p{number}", f"w{number}")):
                    size = 10 + n
                    beside = await manager.client.get(Part if cls is Widget else Widget, other, "default")
                    awaited = (f"w{number}", size + beside.spec.size)
                    changed.clear()
                    began_change = clock()
                    async with asyncio.timeout(WITHIN):
                        await manager.client.patch(cls, name, {"spec": {"size": size}}, namespace="default")
                        await changed.wait()
                    took[cls].append(clock() - began_change)
            change_cpu = (time.process_time() - used) / (2 * CHANGES)
            used = time.process_time()
            await asyncio.sleep(SECONDS)
            percent = 100 * (time.process_time() - used) / SECONDS
    change, owned = (statistics.median(took[cls]) for cls in (Widget, Part))
    return Measured(start, start_cpu, memory, change, owned, change_cpu, percent)


def one(objects: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="listwatch-bench-") as scratch:
        answer = b""
        for step in ("--fill", "--measure"):
            command = [sys.executable, "-m", "benchmarks.growth", step, scratch, str(objects)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, timeout=2 * WITHIN, check=True).stdout
        return msgspec.json.decode(answer, type=Measured)


def main(*sizes: int) -> None:
    found = {objects: one(objects) for objects in sizes or SIZES}
    smallest = min(found)
    against = f"{smallest:,}"
    rows: list[Row] = []

    def figure(title: str, unit: str, value: Callable[[int, Measured], float], limit: float | None = None) -> None:
        values = {objects: value(objects, measured) for objects, measured in found.items()}
        for objects, each in values.items():
            ratio = each / values[smallest]
            goal, reached = ("", None) if limit is None else (f"<= {limit:g}", ratio <= limit)
            rows.append(Row(f"{title}, {objects:,}", each, unit, against, ratio, goal, reached))

    figure("start-up to all handled", "s", lambda _, m: m.start)
    figure("its processor time", "us/object", lambda n, m: 1e6 * m.start_cpu / n, MOST)
    figure("memory", "B/object", lambda n, m: m.memory / n, MOST)
    figure("one change to handled", "ms", lambda _, m: 1e3 * m.change)
    figure("the same of an owned object", "ms", lambda _, m: 1e3 * m.owned)
    figure("processor time of a change", "ms", lambda _, m: 1e3 * m.change_cpu, MOST)
    figure("idle", "ms CPU/s", lambda _, m: 10 * m.percent, MOST)
    show(f"growth with the number of objects; changes: median of {CHANGES}", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fill"]:
        quiet()
        asyncio.run(fill(Path(sys.argv[2]), int(sys.argv[3])))
    elif sys.argv[1:2] == ["--measure"]:
        quiet()
        print(msgspec.json.encode(asyncio.run(measure(Path(sys.argv[2]), int(sys.argv[3])))).decode())
    else:
        main(*map(int, sys.argv[1:]))
