"""A handler that remembers what it was told and can tell whether that was legal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from informer.cache import Stored
from informer.listwatch import Item, WatchEvent, is_newer
from informer.reflector import State, Transition
from informer.shared import Handler


class Recorder(Handler):
    """`known` is what the handler believes to exist. Any notification that does not fit it is an AssertionError,
    kept in `errors`: the informer would only count it."""

    def __init__(self) -> None:
        self.known: dict[str, Stored] = {}
        self.seen: list[tuple[str, str, str]] = []  # (what, key, revision)
        self.initial: list[str] = []
        self.tombstones: list[Stored] = []
        self.errors: list[str] = []
        self._news = asyncio.Event()

    def on_add(self, new: Stored, initial: bool) -> None:
        self._expect(new.key not in self.known, f"add of known {new.key}")
        if initial:
            self.initial.append(new.key)
        self.known[new.key] = new
        self._note("add", new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._expect(self.known.get(new.key) == old, f"update of {new.key} from a state that was not told")
        self._expect(is_newer(new.revision, old.revision), f"update of {new.key} back to {new.revision}")
        self.known[new.key] = new
        self._note("update", new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        before = self.known.pop(old.key, None)
        self._expect(before is not None, f"delete of unknown {old.key}")
        if before is not None:
            self._expect(not is_newer(before.revision, old.revision), f"delete of {old.key} with an older state")
        if not final_state_known:
            self.tombstones.append(old)
        self._note("delete", old)

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait until a notification made it so."""
        while not there():
            self._news.clear()
            await self._news.wait()

    async def until_known(self, expected: Mapping[str, bytes]) -> None:
        """Wait until the handler believes in just these objects."""
        await self.until(lambda: {key: stored.data for key, stored in self.known.items()} == expected)

    def check(self) -> None:
        assert self.errors == []

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.errors.append(otherwise)

    def _note(self, what: str, stored: Stored) -> None:
        self.seen.append((what, stored.key, stored.revision))
        self._news.set()


class Transitions:
    """Remembers a reflector's changes of state and lets a test wait for one; give it as `on_transition`."""

    def __init__(self) -> None:
        self.all: list[Transition] = []
        self._news = asyncio.Event()

    def __call__(self, transition: Transition) -> None:
        self.all.append(transition)
        self._news.set()

    @property
    def states(self) -> list[State]:
        return [transition.new for transition in self.all]

    async def until(self, state: State, times: int = 1) -> None:
        """Wait until the reflector has come to `state` so many times."""
        while self.states.count(state) < times:
            self._news.clear()
            await self._news.wait()


class SinkRecorder:
    """A reflector's sink that only notes what it was given."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def replace(self, items: Sequence[Item], revision: str) -> None:
        self.told.append(("replace", tuple(items), revision))

    def apply(self, events: Sequence[WatchEvent]) -> None:
        self.told.append(("apply", tuple(events)))
