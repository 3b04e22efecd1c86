"""`listwatch serve` is killed under a live informer and started again on its data directory."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from informer.reflector import State
from kvstore.client import RemoteClient
from tests.cluster.load import History, Writer
from tests.cluster.survival import check, loaded, watcher
from tests.etcd_process import free_port
from tests.faults.leftovers import nothing_left

KILLS = 3
LOAD = 0.4  # seconds
PATIENCE = 20.0


class Served:
    """The server as a user starts it."""

    def __init__(self, data_dir: Path) -> None:
        self.endpoint = f"127.0.0.1:{free_port()}"
        self._data_dir = data_dir

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("listwatch")), "serve", f"--data-dir={self._data_dir}"]
        command.append(f"--listen-client-urls=http://{self.endpoint}")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def test_an_informer_outlives_kills_of_the_server(tmp_path: Path) -> None:
    rng = random.Random(1)
    served = Served(tmp_path)
    async with nothing_left(), AsyncExitStack() as stack:
        served.start()
        stack.callback(served.kill)
        one, two, three = [await stack.enter_async_context(RemoteClient([served.endpoint], rng=rng)) for _ in range(3)]
        history, writer, watched = History(one), Writer(two, "w", rng), watcher(three, rng)
        await stack.enter_async_context(watched.informer)
        async with asyncio.timeout(PATIENCE):
            await watched.informer.wait_synced()
        for number in range(1, KILLS + 1):
            async with loaded([writer], history, keep=50):
                await asyncio.sleep(LOAD)
                served.kill()
                async with asyncio.timeout(PATIENCE):
                    await watched.transitions.until(State.RESUMING, number)
                served.start()
            async with asyncio.timeout(PATIENCE):
                await check(watched, history)
            assert history.check_kept([writer])["writes"] > 0
        did = watched.informer.statistics().reflector
        assert did.resumes + did.relists >= KILLS
