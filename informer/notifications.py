"""What waits for one handler: one by one while it keeps up, made one for each object when it does not. Without I/O."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence, Set

from informer.cache import Change, Stored


def coalesce(pending: tuple[Change, ...], change: Change) -> tuple[Change, ...]:
    """The notifications that stand for `pending` and then `change`, all of one object.

    Adds and updates become one, an add that is undone becomes nothing. A delete followed by an add stays two, for they
    are of two objects that had the same key; so there are never more than two.
    """
    if not pending or pending[-1].new is None:
        return (*pending, change)
    last = pending[-1]
    if change.new is not None:
        return (*pending[:-1], Change(last.old, change.new, initial=last.initial))
    if last.old is None:
        return pending[:-1]
    return (*pending[:-1], change)


class Notifications:
    """The queue of a handler. Times are of any one clock, in seconds.

    First comes what was there at the beginning. What happens meanwhile and later waits one by one, in the order in
    which it came, until more than `limit` notifications wait in all. From then on, until there are none of them, those
    of the same object are made one (`coalesce`), so a slow handler costs no more memory than its objects do; objects
    then come in the order of the oldest that waits for each.

    pending: how many wait; high_water: the most there have been. coalesced: how many were spared by making them one.

    Invariants (`_check`): of what waits one by one and what waits by object, one is empty; no object waits with
    nothing; `pending` is what waits in all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # What was there is not copied: all handlers share it, and each is at its own place in it.
        self._there: Sequence[Stored] | None = None
        self._place = 0
        self._began = 0.0
        self._one_by_one: deque[tuple[float, Change]] = deque()
        self._by_key: OrderedDict[str, tuple[float, tuple[Change, ...]]] = OrderedDict()
        self.pending = self.high_water = self.coalesced = 0

    def begin(self, there: Sequence[Stored], now: float) -> None:
        """Queue what is there, before anything else is put. `there` must not change any more. O(1)."""
        self._there, self._place, self._began = there, 0, now
        self._more(len(there))

    def put(self, changes: Sequence[Change], now: float) -> None:
        """Queue what has happened. O(changes), and once O(limit)."""
        if not self._by_key and self.pending + len(changes) <= self._limit:
            self._one_by_one.extend([(now, change) for change in changes])
            self._more(len(changes))
            return
        while self._one_by_one:
            came, change = self._one_by_one.popleft()
            self.pending -= 1
            self._put_by_key(came, change)
        for change in changes:
            self._put_by_key(now, change)

    def take(self) -> tuple[float, Sequence[Change]] | None:
        """The next notifications, all of one object, and when they came; none of them (an empty sequence) once, after
        all of what was there has been taken. None if nothing waits."""
        there = self._there
        if there is not None:
            while self._place < len(there):
                stored = there[self._place]
                self._place += 1
                self.pending -= 1
                if changes := self._with_later(Change(None, stored, initial=True)):
                    return self._began, changes
            self._there = None
            return self._began, ()
        if self._one_by_one:
            came, change = self._one_by_one.popleft()
            self.pending -= 1
            return came, (change,)
        if self._by_key:
            came, changes = self._by_key.popitem(last=False)[1]
            self.pending -= len(changes)
            return came, changes
        return None

    def oldest(self) -> float | None:
        """When the oldest of them came."""
        if self._there is not None:
            return self._began
        if self._one_by_one:
            return self._one_by_one[0][0]
        return next(iter(self._by_key.values()))[0] if self._by_key else None

    @property
    def behind(self) -> bool:
        """Whether they are being made one."""
        return bool(self._by_key)

    def keys(self) -> Set[str]:
        """The objects of which something waits, but for what was there. O(them)."""
        return {change.key for _, change in self._one_by_one} | self._by_key.keys()

    def clear(self) -> None:
        """Forget them."""
        self._there = None
        self._one_by_one.clear()
        self._by_key.clear()
        self.pending = 0

    def _with_later(self, change: Change) -> tuple[Change, ...]:
        """What is to be told of an object that was there, if what came later is to be made one with it."""
        changes: tuple[Change, ...] = (change,)
        if self._by_key and (waiting := self._by_key.pop(change.key, None)) is not None:
            for later in waiting[1]:
                self.pending -= 1
                before = len(changes)
                changes = coalesce(changes, later)
                self.coalesced += before + 1 - len(changes)
        return changes

    def _put_by_key(self, came: float, change: Change) -> None:
        waiting = self._by_key
        key = change.key
        first, before = waiting.get(key, (came, ()))
        after = coalesce(before, change)
        self.coalesced += len(before) + 1 - len(after)
        self._more(len(after) - len(before))
        if after:
            waiting[key] = (first, after)
        else:
            del waiting[key]

    def _more(self, count: int) -> None:
        self.pending += count
        if self.pending > self.high_water:
            self.high_water = self.pending

    def _check(self) -> None:
        """Raise AssertionError if an invariant does not hold. O(what waits)."""
        assert not (self._one_by_one and self._by_key)
        assert all(changes for _, changes in self._by_key.values())
        rest = 0 if self._there is None else len(self._there) - self._place
        assert self.pending == rest + len(self._one_by_one) + sum(len(each) for _, each in self._by_key.values())
        assert self.pending <= self.high_water
