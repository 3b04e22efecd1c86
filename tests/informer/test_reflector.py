"""The state machine by its rules, and the reflector on a real store through faults."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from informer.cache import Cache
from informer.errors import ApiError, Expired, Invalid, Unreachable
from informer.listwatch import Batch, Bookmark, Item, ListPage, Removed, StoreListWatch, WatchEvent, is_newer
from informer.reflector import (
    EVENTS_BETWEEN_YIELDS,
    HEALTHY_AFTER,
    TRANSITIONS,
    Action,
    Apply,
    Backoff,
    Core,
    Disconnected,
    Events,
    Gone,
    IllegalTransitionError,
    Input,
    List,
    Listed,
    ListFailed,
    Opened,
    Reflector,
    Refused,
    Replace,
    Sleep,
    State,
    Stop,
    Streamed,
    Watch,
    state_diagram,
)
from kvstore.client.embedded import EmbeddedClient
from tests.informer.faulty import FaultyListWatch
from tests.informer.rig import PREFIX, Setup
from tests.virtual_time import VirtualTimeLoop

LOST = Unreachable("connection reset")
GONE = Expired("compacted")

INPUTS: list[Input] = [
    Listed("5"),
    ListFailed(LOST),
    Opened(),
    Events([Item("a", b"{}", "7")]),
    Disconnected(LOST),
    Gone(GONE),
    Refused(ApiError("no")),
    Streamed("5"),
    Stop(),
]


def core_in(state: State) -> Core:
    """A machine that came to `state` by legal steps, at time 0, with last revision 5 where there can be one."""
    core = Core(Backoff(random.Random(1)), page_size=500)
    core.start(0.0)
    ways: dict[State, list[Input]] = {
        State.LISTING: [],
        State.WATCHING: [Listed("5"), Opened()],
        State.RESUMING: [Listed("5"), Disconnected(LOST)],
        State.RELISTING: [Listed("5"), Gone(GONE)],
        State.STOPPED: [Stop()],
    }
    for happened in ways[state]:
        core.step(happened, 0.0)
    assert core.state is state
    return core


# ---- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("happened", INPUTS, ids=lambda happened: type(happened).__name__)
def test_every_pair_is_a_row_of_the_table_or_raises(state: State, happened: Input) -> None:
    core = core_in(state)
    expected = TRANSITIONS.get((state, type(happened)))
    if expected is None:
        with pytest.raises(IllegalTransitionError, match=state.name):
            core.step(happened, 0.0)
        assert core.state is state
    else:
        core.step(happened, 0.0)
        assert core.state is expected


def test_the_diagram_in_the_guide_is_that_of_the_table() -> None:
    guide = Path(__file__).parents[2] / "docs" / "informer.md"
    assert f"```mermaid\n{state_diagram()}\n```" in guide.read_text()


def short(core: Core, happened: Input, now: float) -> list[Action]:
    return list(core.step(happened, now))


def test_first_list_then_watch_from_its_revision() -> None:
    core = Core(Backoff(random.Random(1)), page_size=7)
    assert core.start(3.0) == (List(7),)
    assert short(core, Listed("9"), 4.0) == [Replace("9"), Watch("9")]


@pytest.mark.parametrize("state", [State.LISTING, State.RELISTING])
def test_a_failed_list_is_tried_again_after_a_wait(state: State) -> None:
    sleep, again = short(core_in(state), ListFailed(LOST), 0.0)
    assert isinstance(sleep, Sleep)
    assert again == List(500)
    assert 0.8 <= sleep.seconds < 3.2


def test_a_list_page_that_expired_is_followed_by_one_whole_list() -> None:
    core = core_in(State.LISTING)
    assert short(core, Gone(GONE), 0.0) == [List(0)]
    sleep, again = short(core, Gone(GONE), 0.0)  # cannot be, unless the store is at fault: no hot loop
    assert isinstance(sleep, Sleep)
    assert again == List(0)
    core.step(Listed("5"), 0.0)
    core.step(Opened(), 0.0)
    core.step(Events([Bookmark("6")]), 5.0)
    assert short(core, Gone(GONE), 5.0) == [List(500)]


def test_a_watch_that_worked_is_resumed_at_once_and_then_with_waits() -> None:
    core = core_in(State.WATCHING)
    core.step(Events([Item("a", b"{}", "7"), Bookmark("9")]), 0.1)
    assert short(core, Disconnected(LOST), 0.1) == [Watch("9")]
    waits = []
    for _ in range(8):
        sleep, watch = short(core, Disconnected(LOST), 0.1)
        assert watch == Watch("9")
        assert isinstance(sleep, Sleep)
        waits.append(sleep.seconds)
    for base, wait in zip([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0], waits, strict=True):
        assert base <= wait < 2 * base


@pytest.mark.parametrize(("lived", "at_once"), [(0.0, False), (HEALTHY_AFTER / 2, False), (HEALTHY_AFTER, True)])
@pytest.mark.parametrize("error", [None, LOST])
def test_a_very_short_watch_without_an_event_is_a_failure(lived: float, at_once: bool, error: ApiError | None) -> None:
    core = core_in(State.WATCHING)
    core.step(Events([Bookmark("6")]), lived)
    first = short(core, Disconnected(error), lived)[0]
    assert isinstance(first, Watch if at_once else Sleep)


def test_gone_relists_at_once_unless_it_comes_again_and_again() -> None:
    core = core_in(State.WATCHING)
    core.step(Events([Item("a", b"{}", "7")]), 0.0)
    assert short(core, Disconnected(LOST), 0.0) == [Watch("7")]
    assert short(core, Gone(GONE), 0.0) == [List(500)]
    core.step(Listed("9"), 0.0)
    core.step(Opened(), 0.0)
    assert isinstance(short(core, Gone(GONE), 0.0)[0], Sleep)


@pytest.mark.parametrize("state", [State.WATCHING, State.RESUMING])
def test_a_refused_watch_waits_and_relists(state: State) -> None:
    core = core_in(state)
    sleep, again = short(core, Refused(Invalid("", "no such prefix")), 0.0)
    assert isinstance(sleep, Sleep)
    assert again == List(500)
    assert core.state is State.RELISTING
    assert core.statistics(0.0).last_error == "Invalid: no such prefix"


def test_a_list_older_than_what_was_seen_is_refused() -> None:
    core = core_in(State.WATCHING)
    core.step(Events([Item("a", b"{}", "100")]), 0.0)
    core.step(Gone(GONE), 0.0)
    sleep, again = short(core, Listed("99"), 0.0)
    assert isinstance(sleep, Sleep)
    assert again == List(500)
    assert core.state is State.RELISTING
    statistics = core.statistics(0.0)
    assert (statistics.stale_lists, statistics.last_revision) == (1, "100")
    assert "99" in statistics.last_error
    assert "100" in statistics.last_error
    assert short(core, Listed("100"), 0.0) == [Replace("100"), Watch("100")]


def test_events_that_were_seen_are_not_applied_again() -> None:
    core = core_in(State.WATCHING)
    same: list[WatchEvent] = [Item("a", b"{}", "7"), Item("b", b"{}", "7")]
    assert short(core, Events(same), 0.0) == [Apply(same)]
    assert short(core, Events(same), 0.0) == []
    assert short(core, Events([*same, Removed("a", "10")]), 0.0) == [Apply([Removed("a", "10")])]
    assert core.statistics(0.0).duplicates == 4
    assert core.last_revision == "10"


def test_an_event_behind_an_early_bookmark_is_not_lost_and_moves_nothing_back() -> None:
    core = core_in(State.WATCHING)
    core.step(Events([Bookmark("20")]), 0.0)
    late = [Item("a", b"{}", "18")]
    assert short(core, Events(late), 0.0) == [Apply(late)]
    assert core.last_revision == "20"
    core.step(Events([Bookmark("19")]), 0.0)
    assert core.last_revision == "20"


def test_backoff_starts_again_after_two_healthy_minutes() -> None:
    backoff = Backoff(random.Random(3))
    wait = backoff.after_failure(0.0)
    now = wait
    for _ in range(10):
        wait = backoff.after_failure(now)
        now += wait
    assert wait >= 30.0
    assert backoff.after_failure(now + 119.0) >= 30.0
    late = now + 119.0 + 60.0 + 121.0
    assert backoff.after_failure(late) < 1.6


legal = st.lists(st.integers(0, 1_000), max_size=60)


@given(choices=legal, seed=st.integers(0, 100))
@settings(deadline=None, max_examples=200)
def test_any_legal_history_keeps_the_promises(choices: Sequence[int], seed: int) -> None:
    core = Core(Backoff(random.Random(seed)))
    wanted: list[Action] = list(core.start(0.0))
    now = 0.0
    rng = random.Random(seed)
    for choice in choices:
        now += rng.random() * 3
        revision = str(rng.randrange(1, 200))
        possible: list[Input] = [
            Listed(revision),
            ListFailed(LOST),
            Opened(),
            Events([Item("a", b"{}", revision)]),
            Events([Bookmark(revision)]),
            Events([]),
            Disconnected(None),
            Gone(GONE),
            Refused(LOST),
        ]
        happened = [each for each in possible if (core.state, type(each)) in TRANSITIONS][choice % 3]
        before = core.last_revision
        actions = core.step(happened, now)
        assert not is_newer(before, core.last_revision)
        wanted = [action for action in actions if isinstance(action, List | Watch)]
        # Whenever it is neither listing nor reading a watch, exactly one call is asked for, from where it was.
        if not isinstance(happened, Opened | Events):
            assert len(wanted) == 1
        if core.state in (State.LISTING, State.RELISTING):
            assert isinstance(wanted[0], List)
        for action in wanted:
            if isinstance(action, Watch):
                assert action.revision == core.last_revision
        for action in actions:
            if isinstance(action, Sleep):
                assert 0.8 <= action.seconds < 60.0


# ---- on a store -----------------------------------------------------------------------------------------------------


@pytest.fixture
def setup(client: EmbeddedClient) -> Setup:
    return Setup(client)


async def test_resume_makes_no_list_and_no_duplicate(setup: Setup) -> None:
    await setup.put("a/1")
    async with setup.informer:
        await setup.registration.wait_synced()
        last = await setup.put("a/2")
        await setup.caught_up(last)
        setup.source.cut(LOST, stay_away=True)
        await setup.transitions.until(State.RESUMING)
        for n in range(3):
            missed = await setup.put(f"a/missed-{n}")
        setup.source.connected.set()
        await setup.caught_up(missed)
        assert setup.source.watches == ["2", str(last)]
        assert setup.source.pages == 1
        assert [what for what, _, _ in setup.recorder.seen] == ["add"] * 5
        statistics = setup.informer.statistics().reflector
        assert (statistics.lists, statistics.relists, statistics.watches, statistics.resumes) == (1, 0, 2, 1)
        assert (statistics.events, statistics.duplicates) == (4, 0)
        assert setup.transitions.states == [State.WATCHING, State.RESUMING, State.WATCHING]
    assert setup.transitions.states[-1] is State.STOPPED


async def test_compaction_while_disconnected_relists_and_finds_deletes(setup: Setup) -> None:
    await setup.put("a/kept", b"1")
    await setup.put("a/changed", b"1")
    async with setup.informer:
        await setup.caught_up(await setup.put("a/gone", b"last known"))
        setup.source.cut(LOST, stay_away=True)
        await setup.transitions.until(State.RESUMING)
        await setup.put("a/changed", b"2")
        await setup.put("a/new", b"1")
        await setup.put("a/never-seen", b"1")
        await setup.delete("a/never-seen")
        head = await setup.delete("a/gone")
        await setup.client.compact(head)
        del setup.recorder.seen[:]
        setup.source.connected.set()
        await setup.caught_up(head)
        assert setup.transitions.states == [State.WATCHING, State.RESUMING, State.RELISTING, State.WATCHING]
        assert [(what, key) for what, key, _ in setup.recorder.seen] == [
            ("delete", "a/gone"),
            ("update", "a/changed"),
            ("add", "a/new"),
        ]
        assert [(each.key, each.data) for each in setup.recorder.tombstones] == [("a/gone", b"last known")]
        statistics = setup.informer.statistics().reflector
        assert (statistics.lists, statistics.relists, statistics.resumes) == (2, 1, 0)
        assert "compacted" in statistics.last_error
        await setup.caught_up(await setup.put("a/after"))


@pytest.mark.parametrize("bookmarked", [True, False])
async def test_a_bookmark_spares_a_quiet_prefix_the_relist(client: EmbeddedClient, bookmarked: bool) -> None:
    setup = Setup(client, quiet_after=0.01 if bookmarked else 1000.0)
    await setup.put("a/quiet")
    async with setup.informer:
        await setup.registration.wait_synced()
        await setup.transitions.until(State.WATCHING)
        for n in range(20):
            response = await client.put(b"/elsewhere", b"%d" % n)
        if bookmarked:
            async with asyncio.timeout(10):
                await setup.informer.cache.wait_for(str(response.header.revision))
        setup.source.cut(LOST, stay_away=True)
        await setup.transitions.until(State.RESUMING)
        await client.compact(response.header.revision)
        setup.source.connected.set()
        await setup.transitions.until(State.WATCHING, times=2)
        await setup.caught_up(await setup.put("a/after"))
        assert (State.RELISTING in setup.transitions.states) is not bookmarked
        assert setup.source.pages == (1 if bookmarked else 2)


async def test_failing_lists_and_watches_are_tried_until_they_work(setup: Setup) -> None:
    await setup.put("a/1")
    setup.source.fail_list.extend([LOST, ApiError("refused"), LOST])
    setup.source.fail_watch.extend([LOST, LOST, ApiError("odd"), GONE])
    async with setup.informer:
        await setup.caught_up(await setup.put("a/2"))
        await setup.transitions.until(State.RELISTING, times=2)
        await setup.caught_up(await setup.put("a/3"))
        assert len(setup.source.limits) == 6  # three failed, the first, one after each refusal
        statistics = setup.informer.statistics().reflector
        assert (statistics.lists, statistics.relists, statistics.failures) == (3, 2, 7)


async def test_a_watch_that_ends_in_good_order_is_opened_again(setup: Setup) -> None:
    async with setup.informer:
        last = await setup.put("a/1")
        await setup.caught_up(last)
        setup.source.cut(None)
        await setup.caught_up(await setup.put("a/2"))
        assert setup.source.pages == 1
        assert setup.source.watches[-1] == str(last)
        assert setup.informer.statistics().reflector.failures == 0


async def test_a_list_whose_history_goes_away_between_pages_starts_again(client: EmbeddedClient) -> None:
    setup = Setup(client, page_size=2)
    for n in range(5):
        await setup.put(f"a/{n}")

    async def compact_before_the_second(page: int) -> None:
        if page == 2:
            await client.compact(await setup.put("a/9"))

    setup.source.before_page = compact_before_the_second
    async with setup.informer:
        await setup.registration.wait_synced()
        assert setup.source.limits == [2, 2, 0]
        assert sorted(setup.recorder.initial) == ["a/0", "a/1", "a/2", "a/3", "a/4", "a/9"]
        assert State.RELISTING not in setup.transitions.states


async def test_an_error_that_is_not_of_the_store_ends_it(client: EmbeddedClient) -> None:
    source = FaultyListWatch(StoreListWatch(client, PREFIX))

    async def broken(page: int) -> None:
        raise LookupError("a bug")

    source.before_page = broken
    reflector = Reflector(source, Cache(), rng=random.Random(1))
    with pytest.raises(LookupError):
        await reflector.run()
    assert reflector.state is State.STOPPED
    with pytest.raises(RuntimeError, match="once"):
        await reflector.run()


class DeadStore:
    """A store that refuses everything, and notes when it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        self.asked.append(asyncio.get_running_loop().time())
        raise LOST

    def watch(self, revision: str) -> _Never:
        raise AssertionError("a watch without a list")


class _Never:
    async def __aenter__(self) -> _Never:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def __aiter__(self) -> _Never:
        return self

    async def __anext__(self) -> Batch:
        raise StopAsyncIteration


class AcceptsAndDrops(DeadStore):
    """Lists, but ends every watch as soon as it is opened: what a broken load balancer does."""

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        return ListPage([], "1")

    def watch(self, revision: str) -> _Never:
        self.asked.append(asyncio.get_running_loop().time())
        return _Never()


async def test_a_large_list_gives_way_to_others_and_shows_in_one_step() -> None:
    class AtOnce(DeadStore):
        async def list(self, *, limit: int, continue_: str = "") -> ListPage:
            return ListPage([Item(f"a/{n}", b"{}", "1") for n in range(20 * EVENTS_BETWEEN_YIELDS)], "1")

    cache = Cache()
    reading = asyncio.create_task(Reflector(AtOnce(), cache, rng=random.Random(1)).run())
    sizes = []
    while not cache.revision:
        sizes.append(len(cache))
        await asyncio.sleep(0)
    assert len(sizes) >= 20
    assert {*sizes} == {0}
    assert len(cache) == 20 * EVENTS_BETWEEN_YIELDS
    reading.cancel()
    await asyncio.wait([reading])


@pytest.mark.parametrize("store", [DeadStore(), AcceptsAndDrops()], ids=["lists", "watches"])
def test_an_hour_against_a_dead_store_costs_few_attempts(store: DeadStore) -> None:
    async def an_hour() -> None:
        reflector = Reflector(store, Cache(), rng=random.Random(7))
        try:
            async with asyncio.timeout(3600):
                await reflector.run()
        except TimeoutError:
            assert reflector.state is State.STOPPED

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(an_hour())
    gaps = [later - earlier for earlier, later in itertools.pairwise(store.asked)]
    assert min(gaps) >= 0.8
    assert max(gaps) < 60.0
    assert 60 <= len(store.asked) <= 130
