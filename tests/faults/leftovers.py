"""What a piece of code leaves behind: tasks, sockets, files."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

PATIENCE = 5.0  # seconds; gRPC closes its sockets on threads of its own, a little after `close` has returned


def descriptors(pid: int | str = "self") -> Counter[str]:
    """What a process has open: sockets by their own numbers, other things by name. Nothing if there is no such one."""
    found: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since
                found[str(each.readlink())] += 1
    return found


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """What is begun and opened inside is over when it ends; AssertionError if not."""
    # gRPC keeps a poller, with sockets of its own, as long as anything uses it; so something does, all the while.
    async with grpc.aio.insecure_channel("127.0.0.1:1"):
        opened, running = descriptors(), asyncio.all_tasks()
        yield
        tasks = {task for task in asyncio.all_tasks() - running if not _is_of_grpc(task)}
        assert tasks == set()
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while left := descriptors() - opened:
            assert loop.time() < until, f"left open: {dict(left)}"
            await asyncio.sleep(0.01)


def _is_of_grpc(task: asyncio.Task[object]) -> bool:
    """Whether gRPC itself runs it. One of its coroutines is told by its name alone: it is compiled."""
    coroutine = task.get_coro()
    return "grpc" in repr(coroutine) or getattr(coroutine, "__qualname__", "").startswith("_AioCall.")
