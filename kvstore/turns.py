"""Turns: a crowd does its work a few at a time, so that the event loop stays quick for everybody else."""

from __future__ import annotations

import asyncio
from collections import deque

STARTS_A_TURN = 4


class Turns:
    """Lets `size` waiters go on in each turn of the event loop, in the order they came, and as many at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size  # of those that need not wait in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next: asyncio.Handle | None = None

    @property
    def crowded(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def take(self) -> bool:
        """Whether one may go on at once, ahead of those that wait: for who comes seldom."""
        if not self._left:
            return False
        self._left -= 1
        self._schedule()
        return True

    def wait(self, place: asyncio.Future[None]) -> None:
        """Complete a future when its turn comes. One that is done by then costs the others nothing."""
        self._waiting.append(place)
        self._schedule()

    def _schedule(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._next = None
        self._left = left = self._size
        while self._waiting and left:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                left -= 1
        if self._waiting:
            self._schedule()


class Rush:
    """Lets those that come in a rush wait until it is over, so that others who come can be let in meanwhile.

    A rush is more than `size` within `window` seconds. It is over when a window passes in which none came, and for who
    has waited `longest` seconds. Those who waited go on a few in each turn of the event loop.
    """

    def __init__(self, size: int, window: float, longest: float) -> None:
        self._size = size
        self._window = window
        self._longest = longest
        self._came = 0  # in this window
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._turns = Turns(STARTS_A_TURN)
        self._timer: asyncio.TimerHandle | None = None

    async def over(self) -> None:
        """Wait, if there is a rush."""
        self._came += 1
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(self._window, self._look)
        if self._came > self._size or self._waiting:
            place = loop.create_future()
            self._waiting.append((loop.time() + self._longest, place))
            await place

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        came, self._came = self._came, 0
        while self._waiting and (not came or self._waiting[0][0] <= loop.time()):
            self._turns.wait(self._waiting.popleft()[1])
        self._timer = loop.call_later(self._window, self._look) if came or self._waiting else None
