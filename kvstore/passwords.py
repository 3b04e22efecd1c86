"""bcrypt off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from kvstore.errors import PasswordTooLong, TooManyRequests

MAX_PASSWORD_BYTES = 72  # bcrypt does not look further
MIN_COST, MAX_COST = 4, 31
# A hash made elsewhere may ask for days of work, and a thread at work cannot be stopped. 3 s.
MAX_COST_CHECKED = 16
THREADS = 2  # a hash takes 50 ms of a core: a crowd that logs in must not take every core
MAX_WAITING = 1000  # 25 s of work at cost 10

T = TypeVar("T")


class Passwords:
    """Hashes passwords and checks them, two at a time. `close()` it.

    cost: bcrypt's, 4 to 31; each step doubles the time. inline: on the event loop, for simulations.
    Raises ValueError for another cost.
    """

    def __init__(self, *, cost: int, inline: bool) -> None:
        if not MIN_COST <= cost <= MAX_COST:
            raise ValueError(f"bcrypt cost {cost}: it must be between {MIN_COST} and {MAX_COST}")
        self._cost = cost
        self._inline = inline
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0

    async def hash(self, password: str) -> bytes:
        """The hash to store. Raises PasswordTooLong or TooManyRequests."""
        data = password.encode()
        if len(data) > MAX_PASSWORD_BYTES:
            raise PasswordTooLong()
        return await self._run(lambda: bcrypt.hashpw(data, bcrypt.gensalt(self._cost)))

    async def match(self, password: str, stored: bytes) -> bool:
        """Whether the password has that hash. Raises TooManyRequests.

        A hash that is none, or is much dearer than `cost`, matches nothing.
        """
        if _cost_of(stored) > max(self._cost, MAX_COST_CHECKED):
            return False
        data = password.encode()[:MAX_PASSWORD_BYTES]
        return await self._run(lambda: _match(data, stored))

    async def _run(self, job: Callable[[], T]) -> T:
        if self._inline:
            return job()
        if self._waiting >= MAX_WAITING:
            raise TooManyRequests()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bcrypt")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, job)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Drop what waits and wait for what runs. Idempotent."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


def _cost_of(stored: bytes) -> int:
    cost = stored.split(b"$")[2:3]  # $2b$10$...
    return int(cost[0]) if cost and cost[0].isdigit() else 0


def _match(password: bytes, stored: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, stored)
    except ValueError:
        return False
