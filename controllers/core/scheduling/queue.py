"""The pods that wait for a node, in the order in which they are tried. No I/O: times come in as arguments."""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Iterable

import msgspec

from controllers.core.scheduling.framework import Change

# kube-scheduler's podInitialBackoffSeconds and podMaxBackoffSeconds, of a pod that could not be placed or bound.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 10.0


class _State(enum.Enum):
    ACTIVE = enum.auto()
    BACKING_OFF = enum.auto()
    PARKED = enum.auto()
    IN_HAND = enum.auto()


class _Waiting(msgspec.Struct, eq=False):
    """rank: what is tried first. changed: so that it is to be tried again, while it was in hand."""

    key: str
    rank: tuple[int, str, int]
    state: _State = _State.ACTIVE
    ticket: int = 0
    failures: int = 0
    not_before: float = 0.0
    woken_by: frozenset[Change] = frozenset()
    changed: bool = False


class SchedulingQueue:
    """Higher priority first, then the older. A pod that failed waits 1 s, then 2, 4, 8, 10; one that no node takes also
    for a change that may help.

    A pod is in one state: active, backing off, parked, or in hand of who took it by `pop`. An entry of a heap counts
    only while its ticket is the pod's, so O(log n) each, and none stays longer than its back-off.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._active: list[tuple[tuple[int, str, int], int, str]] = []
        self._backing_off: list[tuple[float, int, str]] = []
        self._parked: dict[Change, set[str]] = {change: set() for change in Change}
        self._tickets = itertools.count(1)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    @property
    def parked(self) -> int:
        """How many wait for a change."""
        return sum(each.state is _State.PARKED for each in self._waiting.values())

    def add(self, key: str, priority: int, created: str) -> None:
        """A pod that is to get a node. One that is there already may be tried again, for it has changed."""
        waiting = self._waiting.get(key)
        if waiting is None:
            ticket = next(self._tickets)
            waiting = self._waiting[key] = _Waiting(key, (-priority, created, ticket))
            self._activate(waiting)
            return
        waiting.rank = (-priority, created, waiting.rank[2])
        match waiting.state:
            case _State.PARKED:
                self._unpark(waiting)
            case _State.IN_HAND:
                waiting.changed = True
            case _State.ACTIVE:
                self._activate(waiting)

    def forget(self, key: str) -> None:
        """It needs no node any more."""
        waiting = self._waiting.pop(key, None)
        if waiting is not None and waiting.state is _State.PARKED:
            self._take_from_parked(waiting)

    def pop(self, now: float) -> str | None:
        """The next to be tried, None if none is due. It stays in hand until `park`, `retry` or `forget`."""
        while self._backing_off and (self._backing_off[0][0] <= now or self._is_stale(self._backing_off[0])):
            entry = heapq.heappop(self._backing_off)
            if not self._is_stale(entry):
                self._activate(self._waiting[entry[2]])
        while self._active:
            ranked = heapq.heappop(self._active)
            if not self._is_stale(ranked):
                waiting = self._waiting[ranked[2]]
                waiting.state = _State.IN_HAND
                waiting.changed = False
                return waiting.key
        return None

    def park(self, key: str, now: float, woken_by: Iterable[Change]) -> None:
        """No node took it: it waits for one of these changes, and for its back-off."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return
        self._fail(waiting, now)
        if waiting.changed:
            self._back_off(waiting)
            return
        waiting.state = _State.PARKED
        waiting.woken_by = frozenset(woken_by)
        for change in waiting.woken_by:
            self._parked[change].add(key)

    def retry(self, key: str, now: float) -> None:
        """It could not be seen through: it is tried again after its back-off."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            if waiting.state is _State.PARKED:
                self._take_from_parked(waiting)
            self._fail(waiting, now)
            self._back_off(waiting)

    def wake(self, change: Change) -> bool:
        """Pods that wait for this change may be tried again, each after its back-off; whether there were any."""
        keys = self._parked[change]
        if not keys:
            return False
        for key in sorted(keys):
            self._unpark(self._waiting[key])
        return True

    def next_time(self) -> float | None:
        """When the next pod's back-off ends; None if none backs off."""
        while self._backing_off and self._is_stale(self._backing_off[0]):
            heapq.heappop(self._backing_off)
        return self._backing_off[0][0] if self._backing_off else None

    def _fail(self, waiting: _Waiting, now: float) -> None:
        waiting.not_before = now + min(LAST_BACKOFF, FIRST_BACKOFF * 2 ** min(waiting.failures, 10))
        waiting.failures += 1

    def _unpark(self, waiting: _Waiting) -> None:
        self._take_from_parked(waiting)
        self._back_off(waiting)

    def _take_from_parked(self, waiting: _Waiting) -> None:
        for change in waiting.woken_by:
            self._parked[change].discard(waiting.key)

    def _activate(self, waiting: _Waiting) -> None:
        waiting.state = _State.ACTIVE
        waiting.ticket = next(self._tickets)
        heapq.heappush(self._active, (waiting.rank, waiting.ticket, waiting.key))

    def _back_off(self, waiting: _Waiting) -> None:
        waiting.state = _State.BACKING_OFF
        waiting.ticket = next(self._tickets)
        heapq.heappush(self._backing_off, (waiting.not_before, waiting.ticket, waiting.key))

    def _is_stale(self, entry: tuple[object, int, str]) -> bool:
        waiting = self._waiting.get(entry[2])
        return waiting is None or waiting.ticket != entry[1]

    def _check(self) -> None:
        """Raise AssertionError if the states and the structures do not agree. O(pods)."""
        active = {entry[2] for entry in self._active if not self._is_stale(entry)}
        backing_off = {entry[2] for entry in self._backing_off if not self._is_stale(entry)}
        by_state: dict[_State, set[str]] = {state: set() for state in _State}
        for key, waiting in self._waiting.items():
            by_state[waiting.state].add(key)
        assert active == by_state[_State.ACTIVE]
        assert backing_off == by_state[_State.BACKING_OFF]
        for change, keys in self._parked.items():
            parked = {key for key in by_state[_State.PARKED] if change in self._waiting[key].woken_by}
            assert keys == parked
