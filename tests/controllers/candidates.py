"""Candidates for one office as processes: started, killed, stopped and continued."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

from controllers.core.types import ConfigMap
from kvstore.api import Client

COUNTER = ConfigMap.TYPE.key("default", "counter")
PATIENCE = 50.0


class Candidate:
    """One process, and what it has told."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.told: list[str] = []

    async def tells(self, word: str) -> None:
        """Wait until a line begins with that word."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while not any(line.startswith(word) for line in self.told):
                line = await self.process.stdout.readline()
                assert line, f"{self.name} ended: {await self.errors()}"
                self.told.append(line.decode().strip())

    async def errors(self) -> str:
        """What it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            self.told += (await self.process.stdout.read()).decode().splitlines()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def candidate(store: str, name: str, lease_seconds: int) -> AsyncIterator[Candidate]:
    """Start one and wait until it stands by; killed at the end."""
    command = (sys.executable, "-m", "tests.controllers.candidate", store, name, str(lease_seconds))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        started = Candidate(name, process)
        await started.tells("standby")
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def first_write(client: Client, name: str, after: int) -> int:
    """Wait until that candidate has written the counter after a revision; the revision of that."""
    async with asyncio.timeout(PATIENCE), client.watch(COUNTER, start_revision=after + 1) as watch:
        async for response in watch:
            for event in response.events:
                if writer(event.kv.value) == name:
                    return event.kv.mod_revision
    raise AssertionError("the watch does not end by itself")


def writer(value: bytes) -> str:
    """Which candidate wrote the counter."""
    return ConfigMap.decode(value, "1").data["by"]
