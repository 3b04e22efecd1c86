from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Sequence

import pytest
import structlog

from informer.cache import InformerStopped, Stored
from informer.errors import Unreachable
from informer.listwatch import StoreListWatch
from informer.reflector import Backoff, State
from informer.shared import Handler, Registration, SharedInformer
from informer.transforms import TRANSFORMED, drop_fields
from kvstore.client.embedded import EmbeddedClient
from tests.informer.faulty import FaultyListWatch
from tests.informer.recorder import Recorder

PREFIX = b"/registry/core/pods/"


async def put(client: EmbeddedClient, name: str, data: bytes = b"{}") -> str:
    response = await client.put(PREFIX + name.encode(), data)
    return str(response.header.revision)


async def delete(client: EmbeddedClient, name: str) -> str:
    response = await client.delete(PREFIX + name.encode())
    return str(response.header.revision)


@pytest.fixture
def source(client: EmbeddedClient) -> FaultyListWatch:
    return FaultyListWatch(StoreListWatch(client, PREFIX))


@pytest.fixture
def informer(source: FaultyListWatch) -> SharedInformer:
    return SharedInformer(
        source,
        name="pods",
        rng=random.Random(1),
        queue_limit=8,
        backoff=Backoff(random.Random(1), initial=0.001, maximum=0.01),
    )


def is_synced(registration: Registration) -> bool:
    return registration.has_synced


async def test_each_handler_gets_what_is_there_and_then_every_change(
    client: EmbeddedClient, informer: SharedInformer
) -> None:
    await put(client, "a/1")
    early, late = Recorder(), Recorder()
    first = informer.add_handler(early)
    assert not is_synced(first)
    async with informer:
        await first.wait_synced()
        assert informer.has_synced
        assert early.initial == ["a/1"]
        await put(client, "a/2")
        await early.until(lambda: len(early.seen) == 2)
        assert early.initial == ["a/1"]
        second = informer.add_handler(late)
        assert not is_synced(second)
        await second.wait_synced()
        assert late.initial == ["a/1", "a/2"]
        await put(client, "a/1", b"2")
        await delete(client, "a/2")
        for recorder in (early, late):
            await recorder.until_known({"a/1": b"2"})
            assert [what for what, _, _ in recorder.seen] == ["add", "add", "update", "delete"]
            assert recorder.tombstones == []
            recorder.check()


async def test_changes_are_told_in_the_order_in_which_they_came(
    client: EmbeddedClient, source: FaultyListWatch
) -> None:
    informer = SharedInformer(source, rng=random.Random(1))
    recorder = Recorder()
    informer.add_handler(recorder)
    rng, there, expected = random.Random(3), set[str](), list[tuple[str, str]]()
    async with informer:
        await informer.wait_synced()
        for n in range(300):
            name = f"a/{rng.randrange(5)}"
            if name in there and rng.random() < 0.4:
                await delete(client, name)
                there.discard(name)
                expected.append(("delete", name))
            else:
                await put(client, name, b"%d" % n)
                expected.append(("update" if name in there else "add", name))
                there.add(name)
        await recorder.until(lambda: len(recorder.seen) == 300)
    assert [(what, key) for what, key, _ in recorder.seen] == expected


async def test_an_empty_store_syncs_too(informer: SharedInformer) -> None:
    registration = informer.add_handler(Recorder())
    async with informer:
        await registration.wait_synced()
        await informer.wait_synced()
    assert informer.cache.revision == "1"


async def test_the_cache_is_never_behind_what_a_handler_is_told(
    client: EmbeddedClient, informer: SharedInformer
) -> None:
    behind: list[str] = []
    told = asyncio.Event()

    class Reader(Handler):
        def on_add(self, new: Stored, initial: bool) -> None:
            if informer.cache.get(new.key) is not new:
                behind.append(new.key)

        def on_delete(self, old: Stored, final_state_known: bool) -> None:
            if informer.cache.get(old.key) is not None:
                behind.append(old.key)
            told.set()

    registration = informer.add_handler(Reader())
    async with informer:
        await registration.wait_synced()
        await put(client, "a/1")
        await delete(client, "a/1")
        await told.wait()
    assert behind == []


async def test_a_slow_handler_delays_no_other_and_its_queue_is_bounded(
    client: EmbeddedClient, informer: SharedInformer
) -> None:
    gate = asyncio.Event()

    class Slow(Recorder):
        async def on_add(self, new: Stored, initial: bool) -> None:  # type: ignore[override]
            await gate.wait()
            super().on_add(new, initial)

    slow, quick = Slow(), Recorder()
    behind = informer.add_handler(slow, name="slow")
    informer.add_handler(quick, name="quick")
    informer.add_handler(Handler(), name="quick")
    async with informer:
        await behind.wait_synced()
        for n in range(300):
            await put(client, f"a/{n % 3}", b"%d" % n)
            if n % 50 == 49:
                await delete(client, "a/0")
        await quick.until(lambda: len(quick.seen) == 306)
        statistics = behind.statistics()
        assert statistics.pending <= 6
        assert statistics.coalesced > 250
        assert 6 <= statistics.high_water <= 8
        assert statistics.delivered == 1
        gate.set()
        await slow.until_known({stored.key: stored.data for stored in informer.cache.list()})
        assert len(slow.seen) < 20
        slow.check()
        quick.check()
        assert [(each.name, each.pending) for each in informer.statistics().handlers] == [
            ("slow", 0),
            ("quick", 0),
            ("quick-3", 0),
        ]


async def test_a_handler_far_behind_still_syncs_after_its_initial_objects(
    client: EmbeddedClient, informer: SharedInformer
) -> None:
    for n in range(20):  # more than its queue holds
        await put(client, f"a/{n:02}")
    recorder = Recorder()
    registration = informer.add_handler(recorder)
    async with informer:
        await registration.wait_synced()
        assert recorder.initial == [f"a/{n:02}" for n in range(20)]
        recorder.check()


async def test_a_failing_handler_is_counted_and_goes_on(
    client: EmbeddedClient, informer: SharedInformer, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(Recorder):
        def on_add(self, new: Stored, initial: bool) -> None:
            super().on_add(new, initial)
            raise ValueError("broken on add")

        def on_delete(self, old: Stored, final_state_known: bool) -> None:
            super().on_delete(old, final_state_known)
            raise asyncio.CancelledError

        async def on_update(self, old: Stored, new: Stored) -> None:  # type: ignore[override]
            super().on_update(old, new)
            if new.data == b"cancel":
                never = asyncio.ensure_future(asyncio.Event().wait())
                never.cancel()
                await never
            raise ValueError("broken on update")

    failing, other = Failing(), Recorder()
    registration = informer.add_handler(failing, name="failing")
    informer.add_handler(other)
    async with informer:
        await put(client, "a/1")
        await put(client, "a/1", b"cancel")
        await put(client, "a/1", b"3")
        await delete(client, "a/1")
        await put(client, "a/2")
        for recorder in (failing, other):
            await recorder.until(lambda recorder=recorder: len(recorder.seen) == 5)  # type: ignore[misc]
            recorder.check()
        statistics = registration.statistics()
        assert (statistics.delivered, statistics.failed) == (5, 5)
    logged = capsys.readouterr().out
    assert "broken on add" in logged
    assert "failing" in logged


@pytest.mark.virtual_time
async def test_how_far_a_handler_is_behind_is_measured_and_told(
    client: EmbeddedClient, source: FaultyListWatch
) -> None:
    class Slow(Handler):
        async def on_add(self, new: Stored, initial: bool) -> None:
            await asyncio.sleep(10)

        def on_update(self, old: Stored, new: Stored) -> None:
            raise SystemExit("not the handler's to decide")

    informer = SharedInformer(source, name="pods", rng=random.Random(1), queue_limit=2)
    registration = informer.add_handler(Slow(), name="slow")
    assert registration.statistics().oldest == 0
    with structlog.testing.capture_logs() as logs:
        async with informer:
            await registration.wait_synced()
            for n in range(5):
                await informer.cache.wait_for(await put(client, f"a/{n}"))
                await asyncio.sleep(1)
            statistics = registration.statistics()
            assert (statistics.pending, statistics.high_water, statistics.delivered) == (4, 4, 1)
            assert statistics.oldest == pytest.approx(5, abs=0.1)  # the one that it is busy with
            await asyncio.sleep(10)
            statistics = registration.statistics()
            assert (statistics.pending, statistics.delivered) == (3, 2)
            assert statistics.oldest == pytest.approx(14, abs=0.1)
            await asyncio.sleep(40)
            await put(client, "a/0", b"2")
            await asyncio.sleep(1)
            statistics = registration.statistics()
            assert (statistics.pending, statistics.oldest, statistics.delivered) == (0, 0, 6)
            assert statistics.handling == pytest.approx(50, abs=0.1)
            assert (statistics.failed, "SystemExit" in statistics.last_error) == (1, True)
    told = [entry for entry in logs if entry["event"].startswith("handler_")]
    assert [(entry["event"], entry["informer"], entry["handler"]) for entry in told] == [
        ("handler_behind", "pods", "slow"),
        ("handler_caught_up", "pods", "slow"),
        ("handler_failed", "pods", "slow"),
    ]


class Updates(Handler):
    """Remembers which updates were none, and when all objects had one."""

    def __init__(self) -> None:
        self.same: list[tuple[float, str]] = []
        self.changed: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def on_update(self, old: Stored, new: Stored) -> None:
        if old is new:
            self.same.append((asyncio.get_running_loop().time(), new.key))
        else:
            self.changed.append(new.key)
        await self.gate.wait()


@pytest.mark.virtual_time
async def test_a_resync_tells_of_every_object_again_from_the_cache(
    client: EmbeddedClient, source: FaultyListWatch, informer: SharedInformer
) -> None:
    for n in range(20):  # more than a queue holds
        await put(client, f"a/{n:02}")
    asked, other = Updates(), Updates()
    registration = informer.add_handler(asked, resync=100)
    informer.add_handler(other)
    for period in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="resync"):
            informer.add_handler(Updates(), resync=period)
    async with informer:
        await registration.wait_synced()
        pages = source.pages
        await asyncio.sleep(1000)
        assert source.pages == pages
        assert registration.statistics().resyncs == len(asked.same) / 20
        assert 9 <= len(asked.same) / 20 <= 11
        rounds = [when for when, key in asked.same if key == "a/00"]
        waits = [later - earlier for earlier, later in itertools.pairwise(rounds)]
        assert all(89 < wait < 111 for wait in waits)
        assert len(set(waits)) == len(waits)
        asked.gate.clear()
        await asyncio.sleep(350)  # a handler that is busy is not given the same once more for each round
        assert registration.statistics().pending == 20
        await put(client, "a/19", b"2")
        await asyncio.sleep(0.1)
        assert registration.statistics().pending == 20
        asked.gate.set()
        await asyncio.sleep(1)
        assert asked.changed == ["a/19"]
        registration.remove()
        seen = len(asked.same)
        await asyncio.sleep(500)
        assert len(asked.same) == seen
    assert other.same == []
    assert other.changed == ["a/19"]


@pytest.mark.virtual_time
async def test_lag_counts_while_the_store_is_away(
    client: EmbeddedClient, source: FaultyListWatch, informer: SharedInformer
) -> None:
    async with informer:
        await informer.wait_synced()
        await asyncio.wait_for(_watching(source), 10)
        await asyncio.sleep(5)
        assert informer.statistics().lag == 0
        source.cut(Unreachable("cut"), stay_away=True)
        await asyncio.sleep(20)
        assert informer.statistics().lag == pytest.approx(25, abs=0.1)
        source.connected.set()
        await asyncio.sleep(1)
        assert informer.statistics().lag == 0


async def test_a_selector_and_a_transform_show_in_what_handlers_are_told(
    client: EmbeddedClient, source: FaultyListWatch
) -> None:
    informer = SharedInformer(source, selector="app=web", transform=drop_fields("spec"))
    recorder = Recorder()
    informer.add_handler(recorder)

    async def label(name: str, app: str) -> str:
        return await put(client, name, b'{"metadata":{"labels":{"app":"%s"}},"spec":{"a":1}}' % app.encode())

    await label("a/1", "web")
    await label("a/2", "db")
    async with informer:
        await recorder.until(lambda: len(recorder.seen) == 1)
        assert b"spec" in await source_data(client, "a/1")
        assert json.loads(recorder.known["a/1"].data).keys() == {"metadata", TRANSFORMED}
        await label("a/2", "web")
        await label("a/1", "db")
        last = await label("a/1", "web")
        await informer.cache.wait_for(last)
        await recorder.until(lambda: len(recorder.seen) == 4)
    assert [(what, key) for what, key, _ in recorder.seen] == [
        ("add", "a/1"),
        ("add", "a/2"),
        ("delete", "a/1"),
        ("add", "a/1"),
    ]
    assert recorder.tombstones == []
    recorder.check()


async def source_data(client: EmbeddedClient, name: str) -> bytes:
    found = await client.get(PREFIX + name.encode())
    assert found is not None
    return found.value


async def test_a_removed_handler_is_told_nothing_more(client: EmbeddedClient, informer: SharedInformer) -> None:
    class Once(Recorder):
        registration: Registration

        def on_add(self, new: Stored, initial: bool) -> None:
            super().on_add(new, initial)
            self.registration.remove()

    once, other = Once(), Recorder()
    once.registration = informer.add_handler(once)
    informer.add_handler(other)
    never_synced = informer.add_handler(Recorder())
    never_synced.remove()
    never_synced.remove()
    async with informer:
        with pytest.raises(InformerStopped):
            await never_synced.wait_synced()
        await put(client, "a/1")
        await put(client, "a/2")
        await other.until(lambda: len(other.seen) == 2)
        assert len(once.seen) == 1
        assert len(informer.statistics().handlers) == 1


async def test_a_handler_may_add_handlers_and_stop_the_informer(
    client: EmbeddedClient, informer: SharedInformer
) -> None:
    inner = Recorder()
    stopped = asyncio.Event()

    class Outer(Handler):
        async def on_add(self, new: Stored, initial: bool) -> None:
            await informer.add_handler(inner).wait_synced()
            try:
                await informer.stop()
            finally:
                stopped.set()

    informer.add_handler(Outer())
    informer.start()
    await put(client, "a/1")
    async with asyncio.timeout(10):
        await stopped.wait()
        await informer.stop()
    assert inner.initial == ["a/1"]
    assert informer.state is State.STOPPED


async def test_deletes_that_were_missed_are_told_with_the_last_known_state(
    client: EmbeddedClient, source: FaultyListWatch, informer: SharedInformer
) -> None:
    recorder = Recorder()
    registration = informer.add_handler(recorder)
    await put(client, "a/1", b'{"metadata":{"uid":"first"}}')
    await put(client, "a/2", b"last seen")
    async with informer:
        await registration.wait_synced()
        await asyncio.wait_for(_watching(source), 10)
        source.cut(Unreachable("cut"), stay_away=True)
        await delete(client, "a/1")
        await put(client, "a/1", b'{"metadata":{"uid":"second"}}')
        await put(client, "a/2", b"never seen")
        head = await delete(client, "a/2")
        await client.compact(int(head))
        source.connected.set()
        await recorder.until_known({"a/1": b'{"metadata":{"uid":"second"}}'})
        assert sorted((each.key, each.data) for each in recorder.tombstones) == [
            ("a/1", b'{"metadata":{"uid":"first"}}'),
            ("a/2", b"last seen"),
        ]
        assert [what for what, key, _ in recorder.seen if key == "a/1"] == ["add", "delete", "add"]
        recorder.check()


async def _watching(source: FaultyListWatch) -> None:
    while source._cut is None:
        await asyncio.sleep(0)


async def test_stopping_releases_everyone_who_waits(source: FaultyListWatch, informer: SharedInformer) -> None:
    source.fail_list.extend([Unreachable("down")] * 1000)
    registration = informer.add_handler(Recorder())
    informer.start()
    waits = [informer.wait_synced(), registration.wait_synced(), informer.cache.wait_for("5")]
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.sleep(0)
    await informer.stop()
    await informer.stop()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, InformerStopped)
    with pytest.raises(InformerStopped):
        informer.add_handler(Recorder())
    with pytest.raises(RuntimeError, match="once"):
        informer.start()
    with pytest.raises(RuntimeError, match="once"):
        await informer.run()


async def test_stopping_before_the_first_step_releases_them_too(informer: SharedInformer) -> None:
    before = asyncio.all_tasks()
    informer.start()
    await informer.stop()
    with pytest.raises(InformerStopped):
        await informer.wait_synced()
    assert asyncio.all_tasks() == before


async def test_a_handler_that_keeps_its_cancellation_to_itself_does_not_hold_up_the_stop(
    client: EmbeddedClient, informer: SharedInformer
) -> None:
    entered, told = asyncio.Event(), asyncio.Event()

    class Stubborn(Handler):
        async def on_add(self, new: Stored, initial: bool) -> None:
            entered.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            with pytest.raises(InformerStopped):
                informer.add_handler(Handler())
            told.set()

    await put(client, "a/1")
    informer.add_handler(Stubborn())
    async with asyncio.timeout(10), informer:
        await entered.wait()
    assert told.is_set()


async def test_a_bug_in_the_source_ends_it_and_is_raised(source: FaultyListWatch, informer: SharedInformer) -> None:
    async def broken(page: int) -> None:
        raise LookupError("a bug")

    source.before_page = broken
    informer.start()
    with pytest.raises(InformerStopped):
        await informer.wait_synced()
    with pytest.raises(ExceptionGroup) as caught:
        await informer.stop()
    assert caught.group_contains(LookupError)


async def test_many_writers_and_handlers_that_come_and_go(client: EmbeddedClient, informer: SharedInformer) -> None:
    rng = random.Random(5)
    recorders: list[Recorder] = []
    guests: list[tuple[Recorder, Registration]] = []

    async def write(names: Sequence[str]) -> None:
        for n in range(200):
            name = rng.choice(names)
            if rng.random() < 0.3:
                await delete(client, name)
            else:
                await put(client, name, b'{"n":%d}' % n)
            if rng.random() < 0.05:
                recorder = Recorder()
                registration = informer.add_handler(recorder)
                if rng.random() < 0.5:
                    recorders.append(recorder)
                else:
                    guests.append((recorder, registration))
            if guests and rng.random() < 0.05:
                guests.pop(rng.randrange(len(guests)))[1].remove()

    async with informer:
        async with asyncio.TaskGroup() as writers:
            for writer in range(4):
                writers.create_task(write([f"{writer}/{n}" for n in range(6)]))
        await informer.cache.wait_for(await put(client, "end/1"))
        expected = {stored.key: stored.data for stored in informer.cache.list()}
        assert recorders
        for recorder in recorders + [recorder for recorder, _ in guests]:
            await recorder.until_known(expected)
            recorder.check()
        informer.cache._check()
    listed = await StoreListWatch(client, PREFIX).list(limit=0)
    assert {item.key: item.data for item in listed.items} == expected
