"""How long nobody leads: from the end of a leader to the first write of the next one, each a process of its own.

The baseline of a kill, in the same run, is the lease's length: before it has passed nobody may take over; the store
counts from the last renewal, so that it is the most, not the least, of what the leases take. That of a clean stop is
one round trip to the store.

    python -m benchmarks.hand_over
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.servers import ours
from benchmarks.table import Row, quiet, show
from controllers.stores import open_store
from kvstore.api import Client
from tests.controllers.candidates import candidate, first_write
from tests.etcd_process import running_etcd

ROUNDS = 3
SHORT, LONG = 3, 15  # seconds: a lease for the impatient, and client-go's


@contextlib.asynccontextmanager
async def store(kind: str, directory: Path) -> AsyncIterator[str]:
    if kind == "etcd":
        with running_etcd(directory, fsync=True) as address:
            yield f"etcd://{address}"
    else:
        with ours(directory) as (_, address):
            yield f"etcd://{address}"


async def hand_over(client: Client, address: str, lease: int, number: signal.Signals) -> float:
    """Seconds from the signal to the first write of the next leader."""
    async with candidate(address, "first", lease) as first:
        await first.tells("leader")
        async with candidate(address, "second", lease) as second:
            last = await first_write(client, "first", (await client.status()).header.revision)
            began = time.perf_counter()
            first.send(number)
            await first_write(client, "second", last)
            took = time.perf_counter() - began
            second.send(signal.SIGTERM)
            await second.ended()
    return took


async def round_trip(client: Client) -> float:
    began = time.perf_counter()
    await client.put(b"bench", b"")
    return time.perf_counter() - began


async def measure(kind: str, directory: Path) -> None:
    async with store(kind, directory) as address, open_store(address, connect_timeout=10) as client:
        trip = statistics.median([await round_trip(client) for _ in range(50)])
        rows = [Row("baseline: one put", trip, "s")]
        for name, lease, number in (
            ("released", LONG, signal.SIGTERM),
            (f"killed, lease of {SHORT} s", SHORT, signal.SIGKILL),
            (f"killed, lease of {LONG} s", LONG, signal.SIGKILL),
        ):
            took = statistics.median([await hand_over(client, address, lease, number) for _ in range(ROUNDS)])
            if number is signal.SIGTERM:
                rows.append(Row(name, took, "s", "one put", took / trip, "<= 0.5 s", took <= 0.5))
            else:
                goal = f"<= {lease + 1} s"
                rows.append(Row(name, took, "s", "the lease", took / lease, goal, took <= lease + 1))
        show(f"{kind}: from a leader's end to the first write of the next; median of {ROUNDS}", rows)


def main() -> None:
    quiet()
    for kind in ("listwatch serve", "etcd"):
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(measure(kind, Path(directory)))


if __name__ == "__main__":
    main()
