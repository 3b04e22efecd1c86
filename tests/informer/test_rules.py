"""client-go's rules for what a reflector asks for next, one row each, as far as they apply to an etcd-like store.

docs/informer.md lists the rows, and those that do not apply with the reason.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import msgspec
import pytest
import structlog

from informer.errors import ApiError, Expired, Silent, TooManyRequests, Unreachable, Unsupported
from informer.listwatch import Batch, Bookmark, Item, ListPage, Removed
from informer.reflector import PAGE_SIZE, SILENCE, Backoff, Core, Listed, Reason, Reflector, State, Transition
from tests.informer.recorder import SinkRecorder
from tests.virtual_time import VirtualTimeLoop

LOST = Unreachable("connection refused")
GONE = Expired("compacted")
BUSY = TooManyRequests("too many requests")
DENIED = ApiError("permission denied")
CANNOT = Unsupported("unknown method")

FIRST_WAIT = (0.8, 1.6)
SECOND_WAIT = (1.6, 3.2)


def item(key: str, revision: str) -> Item:
    return Item(key, b"{}", revision)


class Page(msgspec.Struct, frozen=True):
    revision: str
    items: tuple[Item, ...] = ()
    continue_: str = ""


class Stream(msgspec.Struct, frozen=True):
    """A watch that gives these batches and then ends so: None = in good order; it goes on for ever unless `ends`."""

    batches: tuple[Batch, ...] = ()
    end: ApiError | None = None
    ends: bool = True
    lives: float = 0.0  # seconds between its last batch and its end


OPEN = Stream(ends=False)
Answer: TypeAlias = Page | Stream | ApiError


class Scripted:
    """Answers in turn with what the script says, notes when it was asked for what, and then says no more."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = [*answers]
        self.calls: list[str] = []
        self.times: list[float] = []
        self.done = asyncio.Event()
        self.watching = 0

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        answer = await self._asked(f"list {limit}{' ' + continue_ if continue_ else ''}")
        assert isinstance(answer, Page), answer
        return ListPage([*answer.items], answer.revision, answer.continue_)

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        answer = await self._asked(f"watch {revision}")
        assert isinstance(answer, Stream), answer
        self.watching += 1
        try:
            yield self._batches(answer)
        finally:
            self.watching -= 1

    async def _asked(self, what: str) -> Answer:
        self.calls.append(what)
        self.times.append(asyncio.get_running_loop().time())
        if not self._answers:
            self.done.set()
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def _batches(self, stream: Stream) -> AsyncIterator[Batch]:
        for batch in stream.batches:
            await asyncio.sleep(0)
            yield batch
        if not stream.ends:
            self.done.set()
            await asyncio.Event().wait()
        await asyncio.sleep(stream.lives)
        if stream.end is not None:
            raise stream.end


class ScriptedStreaming(Scripted):
    @asynccontextmanager
    async def watch_list(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        answer = await self._asked(f"watch_list {revision}".strip())
        assert isinstance(answer, Stream), answer
        yield self._batches(answer)


class Row(msgspec.Struct, frozen=True):
    """`calls`: what the store has to be asked for, in order. `waits`: the bounds of the time before each; None = none.
    `told`: what the sink has to be given. `reasons`: of each change of state."""

    name: str
    answers: tuple[Answer, ...]
    calls: tuple[str, ...]
    waits: dict[int, tuple[float, float]] = {}
    told: tuple[object, ...] = ()
    reasons: tuple[Reason, ...] = ()
    streaming: bool = False


FIRST = ("replace", (), "5")
SEVEN: Batch = [item("a", "7")]
APPLIED = ("apply", (item("a", "7"),))

ROWS = [
    Row(
        "the first list asks for the present state, in pages of 500",
        (Page("5", (item("a", "3"),), "more"), Page("5", (item("b", "4"),)), OPEN),
        ("list 500", "list 500 more", "watch 5"),
        told=(("replace", (item("a", "3"), item("b", "4")), "5"),),
        reasons=(Reason.LISTED,),
    ),
    Row(
        "a list that fails is asked for again after a wait",
        (LOST, BUSY, DENIED, Page("5"), OPEN),
        ("list 500", "list 500", "list 500", "list 500", "watch 5"),
        {1: FIRST_WAIT, 2: SECOND_WAIT, 3: (3.2, 6.4)},
        (FIRST,),
        (Reason.LISTED,),
    ),
    Row(
        "a list that is answered with Expired is asked for again at once, in one answer",
        (GONE, Page("5"), OPEN),
        ("list 500", "list 0", "watch 5"),
        told=(FIRST,),
        reasons=(Reason.LISTED,),
    ),
    Row(
        "a continuation that expired falls back to one whole list, with nothing kept of the first pages",
        (Page("3", (item("old", "2"),), "more"), GONE, Page("5"), OPEN),
        ("list 500", "list 500 more", "list 0", "watch 5"),
        told=(FIRST,),
        reasons=(Reason.LISTED,),
    ),
    Row(
        "a whole list that expires too is not asked for in a hot loop",
        (GONE, GONE, Page("5"), OPEN),
        ("list 500", "list 0", "list 0", "watch 5"),
        {2: FIRST_WAIT},
        (FIRST,),
        (Reason.LISTED,),
    ),
    Row(
        "a relist never goes back in time: an older list is refused and asked for again",
        (Page("5"), Stream((SEVEN,), GONE), Page("6"), Page("8"), OPEN),
        ("list 500", "watch 5", "list 500", "list 500", "watch 8"),
        {3: FIRST_WAIT},
        (FIRST, APPLIED, ("replace", (), "8")),
        (Reason.LISTED, Reason.EXPIRED, Reason.LISTED),
    ),
    Row(
        "a relist after which the next one is in pages again",
        (GONE, Page("5"), Stream((SEVEN,), GONE), Page("8"), OPEN),
        ("list 500", "list 0", "watch 5", "list 500", "watch 8"),
        told=(FIRST, APPLIED, ("replace", (), "8")),
        reasons=(Reason.LISTED, Reason.EXPIRED, Reason.LISTED),
    ),
    Row(
        "a watch that cannot be opened, connection refused: wait, the same revision, no list",
        (Page("5"), LOST, LOST, OPEN),
        ("list 500", "watch 5", "watch 5", "watch 5"),
        {2: FIRST_WAIT, 3: SECOND_WAIT},
        (FIRST,),
        (Reason.LISTED, Reason.UNREACHABLE, Reason.OPENED),
    ),
    Row(
        "a watch that cannot be opened, too many requests: wait, the same revision, no list",
        (Page("5"), BUSY, OPEN),
        ("list 500", "watch 5", "watch 5"),
        {2: FIRST_WAIT},
        (FIRST,),
        (Reason.LISTED, Reason.OVERLOADED, Reason.OPENED),
    ),
    Row(
        "a watch that cannot be opened for another reason: wait, list",
        (Page("5"), DENIED, Page("6"), OPEN),
        ("list 500", "watch 5", "list 500", "watch 6"),
        {2: FIRST_WAIT},
        (FIRST, ("replace", (), "6")),
        (Reason.LISTED, Reason.REFUSED, Reason.LISTED),
    ),
    Row(
        "a watch that is expired when it is opened: list, after a wait as no watch has worked yet",
        (Page("5"), GONE, Page("6"), OPEN),
        ("list 500", "watch 5", "list 500", "watch 6"),
        {2: FIRST_WAIT},
        (FIRST, ("replace", (), "6")),
        (Reason.LISTED, Reason.EXPIRED, Reason.LISTED),
    ),
    Row(
        "a revision ahead of the store (too large): wait, the same revision, no list",
        (Page("5"), Unreachable("the store is at revision 4, 5 was already seen"), OPEN),
        ("list 500", "watch 5", "watch 5"),
        {2: FIRST_WAIT},
        (FIRST,),
        (Reason.LISTED, Reason.UNREACHABLE, Reason.OPENED),
    ),
    Row(
        "a stream that ends in good order: watch from the last revision seen, no list, nothing told",
        (Page("5"), Stream((SEVEN,)), Stream(lives=60.0), OPEN),
        ("list 500", "watch 5", "watch 7", "watch 7"),
        {3: (60.0, 60.0)},
        (FIRST, APPLIED),
        (Reason.LISTED, Reason.ENDED, Reason.OPENED, Reason.ENDED, Reason.OPENED),
    ),
    Row(
        "a connection that breaks in a stream: watch from the last revision seen, at once",
        (Page("5"), Stream((SEVEN,), LOST), OPEN),
        ("list 500", "watch 5", "watch 7"),
        told=(FIRST, APPLIED),
        reasons=(Reason.LISTED, Reason.UNREACHABLE, Reason.OPENED),
    ),
    Row(
        "Expired in a stream: list at once",
        (Page("5"), Stream((SEVEN,), GONE), Page("9"), OPEN),
        ("list 500", "watch 5", "list 500", "watch 9"),
        told=(FIRST, APPLIED, ("replace", (), "9")),
        reasons=(Reason.LISTED, Reason.EXPIRED, Reason.LISTED),
    ),
    Row(
        "too many requests in a stream: wait, watch from the last revision seen",
        (Page("5"), Stream((SEVEN,), BUSY), OPEN),
        ("list 500", "watch 5", "watch 7"),
        {2: FIRST_WAIT},
        (FIRST, APPLIED),
        (Reason.LISTED, Reason.OVERLOADED, Reason.OPENED),
    ),
    Row(
        "another error in a stream: wait, list",
        (Page("5"), Stream((SEVEN,), DENIED), Page("9"), OPEN),
        ("list 500", "watch 5", "list 500", "watch 9"),
        {2: FIRST_WAIT},
        (FIRST, APPLIED, ("replace", (), "9")),
        (Reason.LISTED, Reason.REFUSED, Reason.LISTED),
    ),
    Row(
        "a bookmark only moves the revision",
        (Page("5"), Stream(([Bookmark("9")],), lives=5.0), OPEN),
        ("list 500", "watch 5", "watch 9"),
        {2: (5.0, 5.0)},
        (FIRST, ("apply", (Bookmark("9"),))),
        (Reason.LISTED, Reason.ENDED, Reason.OPENED),
    ),
    Row(
        "a very short watch, under 1 s and without an event, is a failure: wait",
        (Page("5"), Stream(([Bookmark("6")],), lives=0.9), Stream(lives=0.9), OPEN),
        ("list 500", "watch 5", "watch 6", "watch 6"),
        {2: (0.8 + 0.9, 1.6 + 0.9), 3: (1.6 + 0.9, 3.2 + 0.9)},
        (FIRST, ("apply", (Bookmark("6"),))),
        (Reason.LISTED, Reason.ENDED, Reason.OPENED, Reason.ENDED, Reason.OPENED),
    ),
    Row(
        "a watch that falls silent is opened again after 5 to 10 minutes",
        (Page("5"), Stream((SEVEN,), lives=1e9), OPEN),
        ("list 500", "watch 5", "watch 7"),
        {2: (SILENCE, 2 * SILENCE)},
        (FIRST, APPLIED),
        (Reason.LISTED, Reason.SILENT, Reason.OPENED),
    ),
    Row(
        "WatchList: one request, the end of the initial state makes one replacement, the stream goes on",
        (Stream(([item("a", "3")], [item("b", "2"), Bookmark("5", initial_end=True), *SEVEN], [Bookmark("9")])), OPEN),
        ("watch_list", "watch 9"),
        told=(("replace", (item("a", "3"), item("b", "2")), "5"), APPLIED, ("apply", (Bookmark("9"),))),
        reasons=(Reason.LISTED, Reason.ENDED, Reason.OPENED),
        streaming=True,
    ),
    Row(
        "WatchList unsupported: a list in pages at once, and never asked again",
        (CANNOT, Page("5"), Stream((SEVEN,), GONE), Page("9"), OPEN),
        ("watch_list", "list 500", "watch 5", "list 500", "watch 9"),
        told=(FIRST, APPLIED, ("replace", (), "9")),
        reasons=(Reason.LISTED, Reason.EXPIRED, Reason.LISTED),
        streaming=True,
    ),
    Row(
        "WatchList refused: a list in pages at once, and asked again the next time",
        (DENIED, Page("5"), Stream((SEVEN,), GONE), OPEN),
        ("watch_list", "list 500", "watch 5", "watch_list 7"),
        told=(FIRST, APPLIED),
        reasons=(Reason.LISTED, Reason.EXPIRED),
        streaming=True,
    ),
    Row(
        "WatchList expired: one whole list at once",
        (Stream(([item("a", "3")],), GONE), Page("5"), OPEN),
        ("watch_list", "list 0", "watch 5"),
        told=(FIRST,),
        reasons=(Reason.LISTED,),
        streaming=True,
    ),
    Row(
        "WatchList that breaks before the end of the initial state: wait, again; items move no revision",
        (
            Stream(([item("a", "3")],), LOST),
            Stream(([item("a", "3")],)),
            Stream(([Bookmark("5", initial_end=True)],), ends=False),
        ),
        ("watch_list", "watch_list", "watch_list"),
        {1: FIRST_WAIT, 2: SECOND_WAIT},
        (FIRST,),
        (Reason.LISTED,),
        streaming=True,
    ),
    Row(
        "WatchList whose end never comes is given up after 5 to 10 minutes",
        (Stream(([item("a", "3")],), lives=1e9), OPEN),
        ("watch_list", "watch_list"),
        {1: (SILENCE + 0.8, 2 * SILENCE + 1.6)},
        streaming=True,
    ),
    Row(
        "WatchList older than what was seen is refused",
        (
            Stream(([Bookmark("5", initial_end=True)], SEVEN), GONE),
            Stream(([Bookmark("6", initial_end=True)],), ends=False),
            Stream(([Bookmark("8", initial_end=True)],), ends=False),
        ),
        ("watch_list", "watch_list 7", "watch_list 7"),
        {2: FIRST_WAIT},
        (FIRST, APPLIED, ("replace", (), "8")),
        (Reason.LISTED, Reason.EXPIRED, Reason.LISTED),
        streaming=True,
    ),
    Row(
        "WatchList that breaks after the end of the initial state: watch from the last revision seen",
        (Stream(([Bookmark("5", initial_end=True)], SEVEN), LOST), OPEN),
        ("watch_list", "watch 7"),
        told=(FIRST, APPLIED),
        reasons=(Reason.LISTED, Reason.UNREACHABLE, Reason.OPENED),
        streaming=True,
    ),
    Row(
        "WatchList with a deletion in the initial state is a mistake of the store's: a list in pages at once",
        (Stream(([Removed("a", "3")],)), Page("5"), OPEN),
        ("watch_list", "list 500", "watch 5"),
        told=(FIRST,),
        reasons=(Reason.LISTED,),
        streaming=True,
    ),
    Row(
        "pages of two revisions are not a list",
        (Page("5", (), "more"), Page("6"), Page("6"), OPEN),
        ("list 500", "list 500 more", "list 500", "watch 6"),
        {2: FIRST_WAIT},
        (("replace", (), "6"),),
        (Reason.LISTED,),
    ),
    Row(
        "a list without an end is given up",
        (Page("5", (), "more"), Page("5", (item("a", "3"),), "more"), Page("6"), OPEN),
        ("list 500", "list 500 more", "list 500", "watch 6"),
        {2: FIRST_WAIT},
        (("replace", (), "6"),),
        (Reason.LISTED,),
    ),
]


@pytest.mark.virtual_time
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("seed", [1, 2])
async def test_rule(row: Row, seed: int) -> None:
    source = ScriptedStreaming(row.answers) if row.streaming else Scripted(row.answers)
    sink, transitions = SinkRecorder(), list[Transition]()
    rng = random.Random(seed)
    reflector = Reflector(source, sink, rng=rng, backoff=Backoff(rng), on_transition=transitions.append)
    running = asyncio.create_task(reflector.run())
    await source.done.wait()
    running.cancel()
    await asyncio.wait([running])
    assert tuple(source.calls) == row.calls
    for number, (before, at) in enumerate(zip(source.times, source.times[1:], strict=False), 1):
        low, high = row.waits.get(number, (0.0, 0.0))
        assert low <= at - before <= high, f"{row.calls[number]} came after {at - before} s"
    assert tuple(sink.told) == row.told
    assert [each.reason for each in transitions] == [*row.reasons, Reason.STOPPED]
    assert reflector.state is State.STOPPED
    assert source.watching == 0


def test_the_page_size_is_client_gos() -> None:
    assert PAGE_SIZE == 500


def test_statistics_tell_all_of_it() -> None:
    async def life() -> None:
        source = Scripted(
            (Page("5", (item("a", "3"),), "more"), Page("5"), Stream((SEVEN,), LOST), LOST, Stream((), GONE), DENIED)
        )
        reflector = Reflector(source, SinkRecorder(), rng=random.Random(1), name="pods")
        running = asyncio.create_task(reflector.run())
        await source.done.wait()
        await asyncio.sleep(2.0)
        told = reflector.statistics()
        running.cancel()
        await asyncio.wait([running])
        assert (told.state, told.last_revision, told.store_revision, told.behind) == (State.RELISTING, "7", "7", 0)
        assert (told.lists, told.pages, told.watches, told.resumes, told.events) == (1, 2, 2, 1, 1)
        assert told.resume_reasons == {Reason.UNREACHABLE: 1}
        assert told.relist_reasons == {Reason.EXPIRED: 1}
        assert told.failure_reasons == {Reason.UNREACHABLE: 2, Reason.EXPIRED: 1, Reason.REFUSED: 1}
        assert (told.failures, told.last_error) == (4, "ApiError: permission denied")
        assert told.seconds_in_state > 2.0
        assert told.silent_for == pytest.approx(asyncio.get_running_loop().time() - told.last_heard)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(life())


def test_a_deadline_is_told_from_a_broken_connection() -> None:
    assert isinstance(Silent("x"), Unreachable)
    assert Silent("x").retriable
    assert Silent.reason == "Timeout"


def test_how_far_behind_the_store_it_is() -> None:
    core = Core(Backoff(random.Random(1)))
    core.start(10.0)
    assert core.statistics(11.0).behind == 0
    core.heard(500, 12.0)
    assert (core.statistics(15.0).listing, core.statistics(15.0).silent_for) == (500, 3.0)
    core.step(Listed("5"), 16.0)
    told = core.statistics(18.0, head="9")
    assert (told.last_revision, told.store_revision, told.behind, told.listing) == ("5", "9", 4, 0)
    assert (told.since, told.seconds_in_state) == (16.0, 2.0)
    assert core.statistics(18.0, head="4").behind == 0


async def test_each_change_of_state_and_each_failure_is_a_line_in_the_log() -> None:
    source = Scripted((LOST, Page("5"), Stream((SEVEN,), GONE)))
    with structlog.testing.capture_logs() as lines:
        reflector = Reflector(
            source, SinkRecorder(), rng=random.Random(1), name="pods", backoff=Backoff(random.Random(1), initial=0.001)
        )
        running = asyncio.create_task(reflector.run())
        await source.done.wait()
        running.cancel()
        await asyncio.wait([running])
    assert all(line["reflector"] == "pods" for line in lines)
    told = [(line.get("was"), line["state"], line["reason"], line["revision"]) for line in lines]
    assert told == [
        (None, "listing", "unreachable", ""),
        ("listing", "watching", "listed", "5"),
        ("watching", "relisting", "expired", "7"),
        ("relisting", "stopped", "stopped", "7"),
    ]
    assert lines[0]["error"] == "Unreachable: connection refused"
    assert 0.001 <= lines[0]["wait"] < 0.003
    assert lines[2]["error"] == "Expired: compacted"
