"""The same faults where there are TLS and users: tokens expire while the informer is cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from informer.reflector import State
from tests.faults.leftovers import nothing_left
from tests.faults.network import TOKEN_TTL, Guard, Network, network
from tests.faults.soak import lives

SEEDS = 15


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path)


def logins(net: Network) -> int:
    return sum(each.started for each in net.server.statistics() if each.method == "Authenticate")


async def test_a_token_that_expires_while_cut_off(tmp_path: Path, guard: Guard) -> None:
    async with nothing_left(), network(tmp_path / "node", seed=1, guard=guard) as net:
        await net.writer.write(20)
        await net.check()
        for number in range(1, 4):
            before = logins(net)
            net.proxy.refusing = True
            net.proxy.cut()
            async with asyncio.timeout(10):
                await net.transitions.until(State.RESUMING, number)
            await net.writer.write(20)
            await asyncio.sleep(2 * TOKEN_TTL)
            net.proxy.refusing = False
            await net.check()
            assert logins(net) > before
        assert net.informer.statistics().reflector.lists == 1


async def test_any_mix_of_faults_ends_in_the_truth(tmp_path: Path, guard: Guard) -> None:
    async with nothing_left():
        total = await lives(tmp_path, range(SEEDS), guard=guard)
    assert total["resumes"] >= SEEDS
