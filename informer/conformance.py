"""What every `ListWatch` has to do, as checks that anyone can run against one of their own.

    @asynccontextmanager
    async def make() -> AsyncIterator[Subject]: ...      # a list-watch on an empty store, and a hand on that store

    async def test_it() -> None:
        await check_list_watch(make)

A check that fails raises `Nonconforming`, which says what was promised and what was seen. The checks are those of
`CHECKS`, for who would rather have a test of each: `check_list_watch(make, only=["..."])`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NoReturn, Protocol, TypeAlias, TypeVar

from informer.errors import ApiError, Expired, Unreachable, Unsupported
from informer.listwatch import (
    Batch,
    Bookmark,
    Item,
    ListPage,
    ListWatch,
    Removed,
    StreamingListWatch,
    WatchEvent,
    is_newer,
)

T = TypeVar("T")
Changes: TypeAlias = list[Item | Removed]


class Nonconforming(AssertionError):
    """A promise of `ListWatch` that was not kept; `check` is the name of the check that found it."""

    def __init__(self, check: str, problem: str) -> None:
        super().__init__(f"{check}: {problem}")
        self.check = check
        self.problem = problem


class Subject(Protocol):
    """A `ListWatch` to check and a hand on its store, which is empty at first as far as the list-watch shows it."""

    @property
    def list_watch(self) -> ListWatch:
        """What is checked. Its bookmarks have to come well within the `patience` of `check_list_watch`."""

    async def write(self, changes: Mapping[str, bytes | None]) -> str:
        """Put these objects, by key, and delete those that are None, in this order and as one revision if the store
        can do that; gives the revision of the last change."""

    async def write_elsewhere(self) -> str:
        """Change something that the list-watch does not show; gives the revision."""

    async def compact(self, revision: str) -> None:
        """Make the store forget what was before `revision`; what there is at `revision` can still be read."""

    async def disconnect(self) -> None:
        """Take the store away: break what is open and let nothing new through."""

    def open_watches(self) -> int | None:
        """How many watches the store holds open for the list-watch; None if that cannot be known."""


Make: TypeAlias = Callable[[], AbstractAsyncContextManager[Subject]]


async def check_list_watch(
    make: Make,
    *,
    only: Iterable[str] | None = None,
    patience: float = 10.0,
    atomic: bool = True,
    bookmarks: bool = True,
) -> list[str]:
    """Run the checks, each on a subject of its own; gives the names of those that were run.

    only: names of checks. patience: seconds after which something that has to come counts as missing.
    atomic: whether the store can change several objects in one revision. bookmarks: whether the list-watch sends them.
    Raises `Nonconforming`. Cancelling it ends the check and its subject.
    """
    names = [*CHECKS] if only is None else [*only]
    for name in names:
        async with make() as subject:
            bench = _Bench(name, subject, patience, atomic, bookmarks)
            try:
                await CHECKS[name](bench)
            except ApiError as error:
                raise Nonconforming(name, f"raised {_told(error)}") from error
    return names


class _Bench:
    """What a check works with."""

    def __init__(self, check: str, subject: Subject, patience: float, atomic: bool, bookmarks: bool) -> None:
        self._check = check
        self.subject = subject
        self.list_watch = subject.list_watch
        self.patience = patience
        self.atomic = atomic
        self.bookmarks = bookmarks

    def fail(self, problem: str) -> NoReturn:
        raise Nonconforming(self._check, problem)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.fail(otherwise)

    @asynccontextmanager
    async def waiting(self, what: str) -> AsyncIterator[None]:
        """What is done within has to be over in time."""
        try:
            async with asyncio.timeout(self.patience) as deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            self.fail(f"{what} took more than {self.patience:g} s")

    async def in_time(self, awaitable: Awaitable[T], what: str) -> T:
        async with self.waiting(what):
            return await awaitable

    async def write(self, key: str, data: bytes | None) -> str:
        return await self.subject.write({key: data})

    async def list(self, limit: int = 0, continue_: str = "") -> ListPage:
        return await self.in_time(self.list_watch.list(limit=limit, continue_=continue_), "a list")

    async def pages(self, limit: int) -> Sequence[ListPage]:
        found = [await self.list(limit)]
        while found[-1].continue_:
            self.expect(len(found) < 1000, f"a list in pages of {limit} had no end")
            found.append(await self.list(limit, found[-1].continue_))
        return found

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self._entered(self.list_watch.watch(revision), f"opening a watch from {revision}") as batches:
            yield batches

    @asynccontextmanager
    async def _entered(
        self, context: AbstractAsyncContextManager[AsyncIterator[Batch]], what: str
    ) -> AsyncIterator[AsyncIterator[Batch]]:
        batches = await self.in_time(context.__aenter__(), what)
        try:
            yield batches
        finally:
            await self.in_time(context.__aexit__(None, None, None), "leaving a watch")

    async def next(self, batches: AsyncIterator[Batch], what: str) -> Batch:
        """The next batch; for use within `waiting`, as bookmarks may come for ever."""
        try:
            return await anext(batches)
        except StopAsyncIteration:
            self.fail(f"the watch ended while waiting for {what}")

    async def read_to(self, batches: AsyncIterator[Batch], revision: str) -> Sequence[Batch]:
        """Batches up to the one that reaches `revision`."""
        found: list[Batch] = []
        what = f"the events up to revision {revision}"
        async with self.waiting(what):
            while not any(not is_newer(revision, event.revision) for batch in found[-1:] for event in batch):
                found.append(await self.next(batches, what))
        return found

    async def events_to(self, batches: AsyncIterator[Batch], revision: str) -> Changes:
        return _changes(await self.read_to(batches, revision))

    async def refusal(self, act: Callable[[], Awaitable[object]], what: str, wanted: type[ApiError]) -> None:
        """`act` has to raise a `wanted`."""
        try:
            await self.in_time(act(), what)
        except Nonconforming as late:
            raise Nonconforming(self._check, f"{late.problem}; {wanted.__name__} was expected") from None
        except wanted:
            return
        except ApiError as error:
            self.fail(f"{what} raised {_told(error)}; {wanted.__name__} was expected")
        except StopAsyncIteration:
            self.fail(f"{what} ended as if all were well; {wanted.__name__} was expected")
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the wrong one)
            self.fail(f"{what} raised {_told(error)}, which is no ApiError; {wanted.__name__} was expected")
        self.fail(f"{what} did not fail; {wanted.__name__} was expected")

    async def first_batch_from(self, revision: str) -> None:
        """Open a watch and read until it says something other than a bookmark."""
        async with self.list_watch.watch(revision) as batches:
            async for batch in batches:
                if changes := _changes([batch]):
                    self.fail(f"a watch from {revision} gave {_names(changes)}")
        raise StopAsyncIteration

    def compare(self, seen: Sequence[Item | Removed], wanted: Sequence[Item | Removed], where: str) -> None:
        """Both have to be the same; tells the first difference in words."""
        for number, (one, other) in enumerate(zip(seen, wanted, strict=False)):
            if one != other:
                if one in wanted[:number]:
                    self.fail(f"{where}: {_name(one)} came twice")
                if other not in seen:
                    self.fail(f"{where}: {_name(other)} is missing; {_name(one)} came in its place")
                self.fail(f"{where}: {_name(one)} came before {_name(other)}")
        if len(seen) < len(wanted):
            self.fail(f"{where}: {_name(wanted[len(seen)])} is missing")
        if len(seen) > len(wanted):
            extra = seen[len(wanted)]
            self.fail(f"{where}: {_name(extra)} came {'twice' if extra in wanted else 'although it should not'}")


# ---- the checks -----------------------------------------------------------------------------------------------------


async def _lists_what_there_is(bench: _Bench) -> None:
    empty = await bench.list()
    bench.expect(not empty.items, f"the subject was not empty at first: {_names(empty.items)}")
    bench.expect(empty.revision.isdecimal(), f"the revision of a list is no decimal number: {empty.revision!r}")
    data = {"a/1": b'{"n": 1}', "a/2": bytes(range(256)), "b/1": b"x" * 300_000, "a/é": b"{}"}
    revisions = {key: await bench.write(key, value) for key, value in data.items()}
    await bench.write("a/gone", b"{}")
    last = await bench.write("a/gone", None)
    await bench.subject.write_elsewhere()
    page = await bench.list()
    wanted = [Item(key, value, revisions[key]) for key, value in data.items()]
    bench.expect(page.continue_ == "", "a list without a limit says that there is more")
    bench.compare(sorted(page.items, key=_key), sorted(wanted, key=_key), "a list")
    bench.expect(
        not is_newer(last, page.revision), f"a list after a write of revision {last} is of revision {page.revision}"
    )


async def _pages_are_one_list(bench: _Bench) -> None:
    for n in range(7):
        last = await bench.write(f"a/{n}", b"old")
    pages = [await bench.list(3)]
    while pages[-1].continue_:
        for n in range(7):
            await bench.write(f"a/{n}", b"new")
        await bench.write("a/6", None)
        await bench.write(f"b/{len(pages)}", b"new")
        pages.append(await bench.list(3, pages[-1].continue_))
        bench.expect(len(pages) < 100, "a list in pages of 3 had no end")
    for page in pages:
        bench.expect(len(page.items) <= 3, f"a page of {len(page.items)} items was given for a limit of 3")
        bench.expect(
            page.revision == pages[0].revision,
            f"the pages of one list are of the revisions {pages[0].revision} and {page.revision}",
        )
    items = [item for page in pages for item in page.items]
    changed = [item for item in items if item.data != b"old" or is_newer(item.revision, last)]
    bench.expect(not changed, f"a later page shows what happened after the first: {_names(changed)}")
    keys = [item.key for item in items]
    bench.expect(
        sorted(keys) == [f"a/{n}" for n in range(7)], f"the pages together hold {sorted(keys)}, there were a/0 to a/6"
    )


async def _every_page_size_gives_the_same(bench: _Bench) -> None:
    for n in range(6):
        await bench.write(f"a/{n}", b"%d" % n)
    whole = sorted((await bench.list()).items, key=_key)
    for limit in (1, 2, 5, 6, 7):
        items = [item for page in await bench.pages(limit) for item in page.items]
        bench.compare(sorted(items, key=_key), whole, f"a list in pages of {limit}")


async def _an_odd_continuation_is_refused(bench: _Bench) -> None:
    for token in ("no such token", "\x00", "MTox"):
        if token == "MTox":  # noqa: S105 (well-formed for some, so no more than an error of the right kind is asked for)
            try:
                await bench.list(1, token)
            except ApiError:
                continue
            except Nonconforming:
                raise
            except Exception as error:  # noqa: BLE001
                bench.fail(f"the continuation {token!r} raised {_told(error)}, which is no ApiError")
        else:
            await bench.refusal(
                lambda token=token: bench.list_watch.list(limit=1, continue_=token),  # type: ignore[misc]
                f"a list with the continuation {token!r}",
                ApiError,
            )


async def _nothing_is_lost_between_list_and_watch(bench: _Bench) -> None:
    await bench.write("a/before", b"1")
    await bench.write("a/gone", b"1")
    page = await bench.list()
    wanted: Changes = [
        Item("a/between", b"2", await bench.write("a/between", b"2")),
        Removed("a/gone", await bench.write("a/gone", None)),
        Item("a/before", b"3", await bench.write("a/before", b"3")),
    ]
    async with bench.watch(page.revision) as batches:
        wanted.append(Item("a/after", b"4", await bench.write("a/after", b"4")))
        wanted.append(Removed("a/between", last := await bench.write("a/between", None)))
        seen = await bench.events_to(batches, last)
    bench.compare(seen, wanted, "a watch from the revision of a list")


async def _a_watch_resumes_after_any_revision(bench: _Bench) -> None:
    start = (await bench.list()).revision
    history: Changes = []
    for n in range(4):
        history.append(Item(f"a/{n}", b"1", await bench.write(f"a/{n}", b"1")))
        await bench.subject.write_elsewhere()
    history.append(Removed("a/2", await bench.write("a/2", None)))
    history.append(Item("a/2", b"2", await bench.write("a/2", b"2")))
    for number, revision in enumerate([start, *(each.revision for each in history[:-1])]):
        async with bench.watch(revision) as batches:
            seen = await bench.events_to(batches, history[-1].revision)
        bench.compare(seen, history[number:], f"a watch from revision {revision}")


async def _a_delete_has_its_key_and_revision(bench: _Bench) -> None:
    put = await bench.write("a/1", b"1")
    async with bench.watch(put) as batches:
        deleted = await bench.write("a/1", None)
        events: Changes = []
        async with bench.waiting("a deletion"):
            while not events:
                events = _changes([await bench.next(batches, "a deletion")])
    event = events[0]
    bench.expect(isinstance(event, Removed), f"{_name(event)} came for a deletion")
    bench.expect(event.key == "a/1", f"the deletion of a/1 came with the key {event.key!r}")
    bench.expect(
        event.revision == deleted,
        f"a deletion of revision {deleted} came with {event.revision}"
        + (", that of the object's last state" if event.revision == put else ""),
    )


async def _events_come_in_order_and_once(bench: _Bench) -> None:
    start = (await bench.list()).revision
    wanted: Changes = []
    seen: Changes = []
    there: dict[str, None] = {}
    async with bench.watch(start) as batches:
        for n in range(120):
            key = f"a/{n % 7}"
            if n % 5 == 4 and key in there:
                del there[key]
                wanted.append(Removed(key, await bench.write(key, None)))
            else:
                there[key] = None
                wanted.append(Item(key, b"%d" % n, await bench.write(key, b"%d" % n)))
            if n % 8 in (0, 1, 7):  # now one by one, now several at once
                seen += await bench.events_to(batches, wanted[-1].revision)
    bench.compare(seen, wanted, "a watch while 120 writes happen")


async def _a_revision_is_not_parted(bench: _Bench) -> None:
    if not bench.atomic:
        return
    start = (await bench.list()).revision
    async with bench.watch(start) as live:
        for n in range(10):
            last = await bench.subject.write({f"a/{each}": b"%d" % n for each in range(5)})
        at_once = await bench.read_to(live, last)
    async with bench.watch(start) as late:
        afterwards = await bench.read_to(late, last)
    for how, batches in (("as they happen", at_once), ("of the past", afterwards)):
        seen: set[str] = set()
        for batch in batches:
            revisions = {each.revision for each in _changes([batch])}
            parted = seen & revisions
            bench.expect(not parted, f"the events of revision {min(parted, default='')} came in two batches ({how})")
            seen |= revisions
        bench.expect(
            len(_changes(batches)) == 50, f"10 writes of 5 objects made {len(_changes(batches))} events ({how})"
        )


async def _bookmarks_are_true(bench: _Bench) -> None:
    if not bench.bookmarks:
        return
    reached = await bench.write("a/0", b"0")
    async with bench.watch(reached) as batches:
        for n in range(3):
            reached = await _bookmarked(bench, batches, reached, await bench.subject.write_elsewhere())
            written = await bench.write(f"a/{n}", b"1")
            async with bench.waiting(f"the event of revision {written}"):
                while is_newer(written, reached):
                    for event in await bench.next(batches, f"the event of revision {written}"):
                        if isinstance(event, Bookmark) and not is_newer(written, event.revision):
                            bench.fail(f"a bookmark of revision {event.revision} came before the event of {written}")
                        reached = _not_back(bench, event, reached)
    elsewhere = await bench.subject.write_elsewhere()
    async with bench.watch(reached) as batches:
        reached = await _bookmarked(bench, batches, reached, elsewhere)
    await bench.subject.compact(elsewhere)
    async with bench.watch(reached) as batches:
        wanted = Item("a/last", b"2", await bench.write("a/last", b"2"))
        bench.compare(
            await bench.events_to(batches, wanted.revision), [wanted], "a watch from a bookmark, after a compaction"
        )


async def _bookmarked(bench: _Bench, batches: AsyncIterator[Batch], reached: str, revision: str) -> str:
    what = f"a bookmark of revision {revision}"
    async with bench.waiting(what):
        while is_newer(revision, reached):
            for event in await bench.next(batches, what):
                reached = _not_back(bench, event, reached)
    return reached


def _not_back(bench: _Bench, event: WatchEvent, reached: str) -> str:
    if is_newer(reached, event.revision):
        bench.fail(f"{_name(event)} came after something of revision {reached}")
    if not isinstance(event, Bookmark) and event.revision == reached:
        bench.fail(f"{_name(event)} came after a bookmark of that revision")
    return event.revision


async def _compacted_history_is_expired(bench: _Bench) -> None:
    first = await bench.write("a/1", b"1")
    for n in range(3):
        last = await bench.write("a/1", b"%d" % n)
    await bench.subject.compact(last)
    await bench.refusal(
        lambda: bench.first_batch_from(first), f"a watch from revision {first}, compacted at {last},", Expired
    )
    async with bench.watch(last) as batches:
        wanted = Item("a/1", b"x", await bench.write("a/1", b"x"))
        bench.compare(
            await bench.events_to(batches, wanted.revision), [wanted], "a watch from the compacted revision on"
        )


async def _an_expired_page_says_so(bench: _Bench) -> None:
    for n in range(4):
        await bench.write(f"a/{n}", b"1")
    first = await bench.list(2)
    bench.expect(bool(first.continue_), "a page of 2 of 4 objects does not say that there is more")
    await bench.write("a/3", None)
    await bench.subject.compact(await bench.write("a/0", b"2"))
    await bench.refusal(
        lambda: bench.list_watch.list(limit=2, continue_=first.continue_),
        f"the second page of a list of revision {first.revision}, which is compacted,",
        Expired,
    )


async def _a_store_that_is_behind_is_not_watched(bench: _Bench) -> None:
    revision = await bench.write("a/1", b"1")
    ahead = str(int(revision) + 1_000_000)
    await bench.refusal(
        lambda: bench.first_batch_from(ahead),
        f"a watch from revision {ahead} of a store that is at {revision}",
        Unreachable,
    )


async def _a_lost_store_is_unreachable(bench: _Bench) -> None:
    revision = await bench.write("a/1", b"1")

    async def all_of(batches: AsyncIterator[Batch]) -> None:
        while not _changes([await anext(batches)]):
            pass

    async def opened() -> None:
        async with bench.list_watch.watch(revision):
            pass

    async with bench.watch(revision) as batches:
        await bench.subject.disconnect()
        await bench.refusal(lambda: all_of(batches), "a watch whose store went away", Unreachable)
    await bench.refusal(lambda: bench.list_watch.list(limit=0), "a list of a store that is away", Unreachable)
    await bench.refusal(opened, "opening a watch at a store that is away", Unreachable)


async def _cancelling_loses_nothing(bench: _Bench) -> None:
    start = (await bench.list()).revision
    seen: Changes = []
    wanted: Changes = []
    async with bench.watch(start) as batches:
        for n in range(30):
            pending = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            if n % 2:
                wanted.append(Item("a/1", b"%d" % n, await bench.write("a/1", b"%d" % n)))
            pending.cancel()
            await bench.in_time(asyncio.wait([pending]), "cancelling a pending batch")
            if not pending.cancelled():
                seen += _changes([pending.result()])
        if not seen or is_newer(wanted[-1].revision, seen[-1].revision):
            seen += await bench.events_to(batches, wanted[-1].revision)
    bench.compare(seen, wanted, "a watch whose reads were cancelled")


async def _cancelling_leaves_nothing(bench: _Bench) -> None:
    revision = await bench.write("a/1", b"1")

    async def use() -> None:
        async with bench.list_watch.watch(revision) as batches:
            async for _ in batches:
                continue

    async def cancelled(doing: asyncio.Task[object], after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        doing.cancel()
        await bench.in_time(asyncio.wait([doing]), "cancelling a call")
        if not doing.cancelled() and (error := doing.exception()) is not None:
            bench.fail(f"a call that was cancelled raised {_told(error)}")

    async def round_of_them() -> None:
        async with bench.watch(revision):
            pass
        for after in range(8):
            await cancelled(asyncio.create_task(use()), after)
            await cancelled(asyncio.create_task(bench.list_watch.list(limit=1)), after)

    await round_of_them()
    before = asyncio.all_tasks()
    rounds = 3
    for _ in range(rounds):
        await round_of_them()
    # What is kept between watches, as a connection, comes and goes. What is left behind becomes more with each round.
    deadline = asyncio.get_running_loop().time() + bench.patience
    while (watches := bench.subject.open_watches() or 0) or len(asyncio.all_tasks()) >= len(before) + rounds:
        if asyncio.get_running_loop().time() > deadline:
            left = sorted(f"{task.get_name()} {task.get_coro()}" for task in asyncio.all_tasks() - before)
            bench.fail(
                f"{watches} watches are open at the store after all were left"
                if watches
                else f"tasks were left behind, among them {', '.join(left[:3])}"
            )
        await asyncio.sleep(bench.patience / 1000)


async def _watches_do_not_disturb_each_other(bench: _Bench) -> None:
    revision = await bench.write("a/1", b"1")
    async with bench.watch(revision) as one:
        async with bench.watch(revision) as other:
            wanted = [Item("a/1", b"2", await bench.write("a/1", b"2"))]
            bench.compare(await bench.events_to(other, wanted[-1].revision), wanted, "the second of two watches")
        wanted.append(Item("a/2", b"3", await bench.write("a/2", b"3")))
        bench.compare(await bench.events_to(one, wanted[-1].revision), wanted, "a watch beside one that was left")


async def _a_stream_begins_with_what_there_is(bench: _Bench) -> None:
    list_watch = bench.list_watch
    if not isinstance(list_watch, StreamingListWatch):
        return
    state: dict[str, Item] = {}
    for n in range(300):
        key = f"a/{n:03}"
        state[key] = Item(key, b"%d" % n, last := await bench.write(key, b"%d" % n))
    later: Changes = []
    items: list[Item] = []
    seen: Changes = []
    end = ""
    try:
        stream = bench._entered(list_watch.watch_list(last), "opening a stream")
        async with stream as batches:
            later.append(Item("a/000", b"new", await bench.write("a/000", b"new")))
            what = "the end of the initial state"
            async with bench.waiting(what):
                while not end:
                    for event in await bench.next(batches, what):
                        match event:
                            case Bookmark(revision, True):
                                bench.expect(not end, "the initial state ended twice")
                                end = revision
                            case Item() if not end:
                                items.append(event)
                            case Removed() if not end:
                                bench.fail(f"{_name(event)} came in the initial state")
                            case Item() | Removed():
                                seen.append(event)
                    if len(later) == 1:
                        later.append(Removed("a/299", await bench.write("a/299", None)))
            later.append(Item("b/last", b"x", newest := await bench.write("b/last", b"x")))
            seen += await bench.events_to(batches, newest)
    except Unsupported:
        return  # it says so, and the reflector lists in pages
    bench.expect(not is_newer(last, end), f"the initial state is of revision {end}, {last} or later was asked for")
    keys = [item.key for item in items]
    bench.expect(len(keys) == len(set(keys)), "an object came twice in the initial state")
    for event in later:
        if not is_newer(event.revision, end):
            if isinstance(event, Item):
                state[event.key] = event
            else:
                state.pop(event.key, None)
    bench.compare(sorted(items, key=_key), sorted(state.values(), key=_key), f"the initial state of revision {end}")
    bench.compare(seen, [each for each in later if is_newer(each.revision, end)], "a stream after its initial state")

    async def too_new() -> None:
        async with list_watch.watch_list(str(int(newest) + 1_000_000)) as batches:
            await anext(batches)

    await bench.refusal(too_new, "a stream that must not be older than what the store has got to", Unreachable)


CHECKS: Final[dict[str, Callable[[_Bench], Awaitable[None]]]] = {
    check.__name__.strip("_"): check
    for check in (
        _lists_what_there_is,
        _pages_are_one_list,
        _every_page_size_gives_the_same,
        _an_odd_continuation_is_refused,
        _nothing_is_lost_between_list_and_watch,
        _a_watch_resumes_after_any_revision,
        _a_delete_has_its_key_and_revision,
        _events_come_in_order_and_once,
        _a_revision_is_not_parted,
        _bookmarks_are_true,
        _compacted_history_is_expired,
        _an_expired_page_says_so,
        _a_store_that_is_behind_is_not_watched,
        _a_lost_store_is_unreachable,
        _cancelling_loses_nothing,
        _cancelling_leaves_nothing,
        _watches_do_not_disturb_each_other,
        _a_stream_begins_with_what_there_is,
    )
}


def _changes(batches: Sequence[Batch]) -> Changes:
    return [event for batch in batches for event in batch if not isinstance(event, Bookmark)]


def _key(item: Item | Removed) -> str:
    return item.key


def _name(event: WatchEvent) -> str:
    match event:
        case Item(key, _, revision):
            return f"{key} at revision {revision}"
        case Removed(key, revision):
            return f"the deletion of {key} at revision {revision}"
        case Bookmark(revision):
            return f"a bookmark of revision {revision}"


def _names(events: Sequence[WatchEvent]) -> str:
    return ", ".join(map(_name, events[:5])) + (" and more" if len(events) > 5 else "")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}({str(error)!r})"
