"""What a watcher believes, and whether that is true."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

What: TypeAlias = Literal["put", "delete", "ended"]

HOT = 50  # requests in one second, to a server that fails, of one watcher of one kind
BUSY = 10  # worth telling


@dataclasses.dataclass(frozen=True)
class Told:
    """One thing that a watcher told its user. `ended`: it told nothing more; `why` is the error, or empty."""

    what: What
    key: str = ""
    revision: str = ""
    uid: str = ""
    why: str = ""


class View:
    """What somebody who is told all this believes to exist."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}  # key -> revision
        self.ended: str | None = None
        self.backwards = 0  # an object became older than it had been
        self.told = 0
        self._uids: dict[str, str] = {}
        self._replaced: set[str] = set()  # uids of objects whose name another one has now
        self._news = asyncio.Event()

    def observe(self, told: Told) -> None:
        if told.what == "ended":
            self.ended = told.why
        else:
            self.told += 1
            if told.what == "put":
                self._put(told)
            elif told.uid in self._replaced:
                self._replaced.discard(told.uid)
            else:
                self.known.pop(told.key, None)
                self._uids.pop(told.key, None)
        self._news.set()

    def _put(self, told: Told) -> None:
        before = self.known.get(told.key)
        if before is not None:
            self.backwards += int(before) > int(told.revision)
            if self._uids[told.key] != told.uid:
                self._replaced.add(self._uids[told.key])
        self.known[told.key] = told.revision
        self._uids[told.key] = told.uid

    @property
    def merged(self) -> int:
        """Objects that were never told as deleted, although another one has their name now."""
        return len(self._replaced)

    async def until(self, there: Callable[[], bool], seconds: float) -> bool:
        """Wait until something told made it so; False if it did not in time, or can no more."""
        try:
            async with asyncio.timeout(seconds):
                while not there():
                    if self.ended is not None:
                        return False
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one watcher under one fault. `text` goes into the table; `true` whether its view is the truth;
    `silent` that it is not, and nobody is told."""

    true: bool
    text: str
    silent: bool = False


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was measured.

    recovered: seconds from the end of the fault until the view was true; None if it never was. alive: whether a
    change made after that was told too. told_before: what had been told when the fault began. peak: the most requests
    in any one second since then. relists: lists since then that nothing made necessary.
    """

    recovered: float | None
    alive: bool
    told_before: int
    peak: int
    relists: int


def peak(times: Sequence[float], since: float) -> int:
    """The most of `times`, which ascend, in any one second that begins at `since` or later."""
    most, first = 0, 0
    for last, time in enumerate(times):
        while times[first] < max(since, time - 1.0):
            first += 1
            if first > last:
                break
        most = max(most, last - first + 1)
    return most


def judge(view: View, truth: Mapping[str, str], evidence: Evidence) -> Verdict:
    """In a few words: what is wrong with the view and how it ended, or how soon it was right again, and the price."""
    true = evidence.recovered is not None and evidence.alive
    notes = []
    if evidence.peak >= HOT:
        notes.append(f"hot loop, {evidence.peak:,} requests/s")
    elif evidence.peak >= BUSY:
        notes.append(f"{evidence.peak} requests/s")
    if view.backwards:
        notes.append(f"{view.backwards} objects back in time")
    if view.merged:
        notes.append("recreated told as changed")
    if evidence.relists:
        notes.append("lists again")
    if true:
        assert evidence.recovered is not None
        return Verdict(true=True, text="; ".join([f"ok {evidence.recovered:.1f} s", *notes]))
    if view.ended is not None:
        # It no longer claims to know anything, so what it knew last is not held against it.
        head = f"raises {view.ended}" if view.ended else "ends without a word"
    elif evidence.recovered is not None or view.told == evidence.told_before:
        head = "deaf for good"
    else:
        counts = {
            "deletes missed": sum(key not in truth for key in view.known),
            "missing": sum(key not in view.known for key in truth),
            "stale": sum(view.known.get(key, revision) != revision for key, revision in truth.items()),
        }
        head = "wrong for good: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return Verdict(true=False, text="; ".join([head, *notes]), silent=not view.ended)
