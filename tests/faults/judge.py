"""A handler that writes down what it is told, and judges it against what the store really held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from informer.cache import Cache, Stored
from informer.listwatch import is_newer
from informer.reflector import State, Transition
from informer.shared import Handler, HandlerStatistics
from tests.faults.truth import Told, Truth, uid_of

SNAPSHOT_EVERY = 16  # notifications


class IllegalError(AssertionError):
    """The informer told something that is not so."""


class Lists(msgspec.Struct, frozen=True):
    """The revision of the first list; for each relist, the last revision seen before it and the list's own."""

    first: int
    relists: list[tuple[int, int]]

    @classmethod
    def of(cls, transitions: Iterable[Transition]) -> Lists:
        """From the changes of state of one reflector."""
        first, seen = 0, 0
        relists: list[tuple[int, int]] = []
        for transition in transitions:
            revision = int(transition.revision or 0)
            if transition.new is State.RELISTING:
                seen = revision
            elif transition.new is State.WATCHING and transition.old is State.LISTING:
                first = revision
            elif transition.new is State.WATCHING and transition.old is State.RELISTING:
                relists.append((seen, revision))
        return cls(first, relists)


class Judge(Handler):
    """The rules for one handler of one informer; the first that is broken raises `IllegalError` in `verdict`.

    For every object: an add, updates, a delete, each from the state told before; revisions go up; a uid never comes
    back, and never changes but by a delete and an add; the cache is at what is told or later; every state is one that
    the store held. And nothing is missed but what coalescing or a relist explain: see `verdict`.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._begin: int | None = int(cache.revision) if cache.revision else None
        self.known: dict[str, Stored] = {}
        self.told: list[Told] = []
        self._states: list[Stored] = []
        self._gone: dict[str, set[str]] = {}  # uids that were deleted, by key
        self._looks: list[tuple[int, dict[str, tuple[bytes, int]]]] = []
        self._errors: list[str] = []
        self._news = asyncio.Event()

    def on_add(self, new: Stored, initial: bool) -> None:
        uid = uid_of(new.data)
        self._expect(new.key not in self.known, f"add of {new.key}, which is known")
        self._expect(uid not in self._gone.get(new.key, ()), f"add of {new.key} with the uid of one that was deleted")
        self.known[new.key] = new
        self._note(Told("add", new.key, 0, int(new.revision), initial=initial), new)

    def on_update(self, old: Stored, new: Stored) -> None:
        before = self.known.get(new.key)
        self._expect(before == old, f"update of {new.key} from a state that was not told")
        self._expect(is_newer(new.revision, old.revision), f"update of {new.key} from {old.revision} to {new.revision}")
        self._expect(uid_of(old.data) == uid_of(new.data), f"another object under {new.key} is told as an update")
        self.known[new.key] = new
        self._note(Told("update", new.key, int(old.revision), int(new.revision)), new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        before = self.known.pop(old.key, None)
        self._expect(before is not None, f"delete of {old.key}, which is not known")
        if before is not None:
            self._expect(uid_of(before.data) == uid_of(old.data), f"delete of another object than {old.key}")
            self._expect(not is_newer(before.revision, old.revision), f"delete of {old.key} with an older state")
        self._gone.setdefault(old.key, set()).add(uid_of(old.data))
        self._note(Told("delete", old.key, int(old.revision), 0, final_state_known=final_state_known), old)

    def look(self) -> None:
        """Write down what is in the cache, to be compared with what the store held at its revision."""
        objects = {stored.key: (stored.data, int(stored.revision)) for stored in self._cache.list()}
        self._looks.append((int(self._cache.revision or 0), objects))

    def check_looks(self, truth: Truth) -> None:
        """Whenever it looked, the cache was equal to the store at the cache's revision."""
        looks, self._looks = self._looks, []
        for revision, objects in looks:
            there = truth.at(revision)
            if objects != there:
                raise IllegalError(f"the cache at {revision} is not the store's state: {_differ(objects, there)}")

    async def until_known(self, expected: dict[str, tuple[bytes, int]]) -> None:
        """Wait until this is what it was told last of every object."""
        while {key: (stored.data, int(stored.revision)) for key, stored in self.known.items()} != expected:
            self._news.clear()
            await self._news.wait()

    def verdict(self, truth: Truth, lists: Lists, statistics: HandlerStatistics) -> None:
        """Judge everything so far; call it when nothing is pending.

        A handler that was never behind must have been told exactly what `Truth.told` derives from the store's history
        and the lists. For one whose notifications were coalesced, those told and those spared must add up to as many.
        """
        if self._errors:
            raise IllegalError("; ".join(self._errors))
        self.check_looks(truth)
        for stored in self._states:
            held = truth.data(stored.key, int(stored.revision))
            if held != stored.data:
                raise IllegalError(f"{stored.key} at {stored.revision} was never in the store")
        begin = lists.first if self._begin is None else self._begin
        expected = truth.told(begin, lists.relists, int(self._cache.revision))
        if statistics.coalesced == 0:
            told: dict[str, list[Told]] = {}
            for one in self.told:
                told.setdefault(one.key, []).append(one)
            for key in {*told, *expected}:
                got, want = told.get(key, []), expected.get(key, [])
                if got != want:
                    raise IllegalError(f"{key}: {_first_difference(got, want)}")
        should_be = sum(map(len, expected.values()))
        if len(self.told) + statistics.coalesced != should_be:
            raise IllegalError(f"{len(self.told)} told and {statistics.coalesced} coalesced, of {should_be} there were")
        if statistics.failed:
            raise IllegalError(f"{statistics.failed} notifications failed")

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._errors.append(otherwise)

    def _note(self, told: Told, state: Stored) -> None:
        self.told.append(told)
        self._states.append(state)
        self._expect(
            not is_newer(state.revision, self._cache.revision), f"{told.key} is told before the cache has {told}"
        )
        if len(self.told) % SNAPSHOT_EVERY == 1:
            self.look()
        self._news.set()


class SlowJudge(Judge):
    """Takes a turn or a while over each notification, so its queue coalesces."""

    def __init__(self, cache: Cache, seconds: float) -> None:
        super().__init__(cache)
        self._seconds = seconds

    async def on_update(self, old: Stored, new: Stored) -> None:  # type: ignore[override]
        await asyncio.sleep(self._seconds)
        super().on_update(old, new)


def _differ(got: dict[str, tuple[bytes, int]], want: dict[str, tuple[bytes, int]]) -> str:
    keys = sorted(key for key in {*got, *want} if got.get(key) != want.get(key))
    return ", ".join(f"{key} is {got.get(key, (b'', 0))[1]}, not {want.get(key, (b'', 0))[1]}" for key in keys)


def _first_difference(got: Sequence[Told], want: Sequence[Told]) -> str:
    for number, (one, other) in enumerate(zip(got, want, strict=False)):
        if one != other:
            return f"notification {number} was {one}, not {other}"
    longer, which = (got, "too many") if len(got) > len(want) else (want, "missing")
    return f"{which}: {longer[min(len(got), len(want))]}"
