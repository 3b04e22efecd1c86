"""A shared informer on the far side of a network that breaks, while the store is written to and compacted.

After every fault the cache has to become equal to the store at a revision, and what each handler was told has to be a
legal history of every object that ends there. `python -m tests.faults` is the long form.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from informer.reflector import State
from tests.faults.leftovers import nothing_left
from tests.faults.network import FAULTS, Network, network
from tests.faults.proxy import FaultProxy, To
from tests.faults.soak import lives
from tests.faults.writer import LAST

SEEDS, SEEDS_AT_ONCE = 100, 25

BREAKS: dict[str, Callable[[FaultProxy, random.Random], None]] = {
    "cut": lambda proxy, rng: proxy.cut(),
    "reset both": lambda proxy, rng: proxy.reset(To.BOTH),
    "reset the client": lambda proxy, rng: proxy.reset(To.CLIENT),
    "reset the server": lambda proxy, rng: proxy.reset(To.SERVER),
    "half-close to the client": lambda proxy, rng: proxy.half_close(To.CLIENT),
    "half-close to the server": lambda proxy, rng: proxy.half_close(To.SERVER),
    "torn message": lambda proxy, rng: proxy.tear(rng.randrange(1, 10)),
    "cut after some bytes": lambda proxy, rng: proxy.cut_after(rng.randrange(1, 400)),
}


async def until(net: Network, state: State, times: int = 1) -> None:
    async with asyncio.timeout(15):
        await net.transitions.until(state, times)


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_broken_connection_is_resumed_without_a_list(tmp_path: Path, fault: str) -> None:
    async with nothing_left(), network(tmp_path, seed=1) as net:
        await net.writer.write(20)
        await net.check()
        BREAKS[fault](net.proxy, net.rng)
        await net.writer.write(40)
        await until(net, State.RESUMING)
        await net.check()
        statistics = net.informer.statistics().reflector
        assert (statistics.lists, statistics.duplicates) == (1, 0)
        assert statistics.resumes >= 1


async def test_a_silent_connection_is_found_and_resumed(tmp_path: Path) -> None:
    async with nothing_left(), network(tmp_path, seed=2) as net:
        await net.writer.write(20)
        await net.check()
        net.proxy.stall()
        await net.writer.write(20)
        await until(net, State.RESUMING)
        assert "nothing heard on a watch for 0.25 s" in net.informer.statistics().reflector.last_error
        net.proxy.cut()
        await net.check()
        assert net.informer.statistics().reflector.lists == 1


async def test_a_connection_that_stays_silent_is_replaced(tmp_path: Path) -> None:
    probed = {"keepalive_time": 5.0, "keepalive_timeout": 0.5}
    async with nothing_left(), network(tmp_path, seed=8, client=probed) as net:
        await net.writer.write(20)
        await net.check()
        net.proxy.stall()  # for good: nobody tells the client, and only a new connection helps
        await net.writer.write(20)
        await net.check()
        assert net.proxy.accepted > 1
        assert net.informer.statistics().reflector.lists == 1


@pytest.mark.parametrize("to", [To.CLIENT, To.SERVER])
async def test_silence_in_one_direction_is_found_and_resumed(tmp_path: Path, to: To) -> None:
    async with nothing_left(), network(tmp_path, seed=3) as net:
        await net.writer.write(20)
        await net.check()
        net.proxy.stall(to)
        await until(net, State.RESUMING)
        await net.writer.write(20)
        net.proxy.reset()
        await net.check()
        assert net.informer.statistics().reflector.lists == 1


async def test_a_stall_that_ends_in_time_is_not_noticed(tmp_path: Path) -> None:
    async with nothing_left(), network(tmp_path, seed=4, quiet_after=30.0) as net:
        await net.writer.write(20)
        await net.check()
        net.proxy.stall()
        await net.writer.write(20)
        net.proxy.flow()
        await net.check()
        assert State.RESUMING not in net.transitions.states


async def test_slow_crumbs_are_whole_messages_in_the_end(tmp_path: Path) -> None:
    async with nothing_left(), network(tmp_path, seed=5, quiet_after=30.0) as net:
        await net.writer.write(5)
        await net.check()
        net.proxy.crumble(3)
        net.proxy.delay(0.001)
        await net.writer.write(20)
        await net.check()
        assert State.RESUMING not in net.transitions.states


async def test_compaction_behind_a_broken_connection_relists(tmp_path: Path) -> None:
    async with nothing_left(), network(tmp_path, seed=6, queue_limit=1000) as net:
        await net.writer.write(30)
        await net.check()
        known = dict(net.prompt.known)
        net.proxy.refusing = True
        net.proxy.cut()
        await until(net, State.RESUMING)
        await net.writer.clear()
        await net.writer.write(0)
        await net.compact()
        net.proxy.refusing = False
        await net.check()
        assert net.transitions.states[-2:] == [State.RELISTING, State.WATCHING]
        gone = {told.key: told for told in net.prompt.told if told.what == "delete" and not told.final_state_known}
        assert {key: told.old for key, told in gone.items()} == {
            key: int(stored.revision) for key, stored in known.items()
        }
        assert [told.what for told in net.prompt.told if told.key == LAST][-2:] == ["delete", "add"]


async def test_a_quiet_informer_outlives_the_compaction_of_everything_else(tmp_path: Path) -> None:
    async with nothing_left(), network(tmp_path, seed=7) as net:
        await net.writer.write(5)
        await net.check()
        for _ in range(3):
            elsewhere = await net.writer.elsewhere()
            await net.informer.cache.wait_for(str(elsewhere))  # a bookmark: the prefix itself is quiet
            await net.store.compact(elsewhere)
            resumed = net.transitions.states.count(State.RESUMING)
            net.proxy.cut()
            await until(net, State.RESUMING, resumed + 1)
        await net.writer.write(5)
        await net.check()
        assert net.informer.statistics().reflector.lists == 1


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_AT_ONCE))
async def test_any_mix_of_faults_ends_in_the_truth(tmp_path: Path, first: int) -> None:
    async with nothing_left():
        total = await lives(tmp_path, range(first, first + SEEDS_AT_ONCE))
    # A run in which little happens would prove little.
    assert total["resumes"] >= SEEDS_AT_ONCE
    assert sum(total[fault] > 0 for fault in FAULTS) >= len(FAULTS) * 2 // 3
