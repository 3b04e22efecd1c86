"""Snapshots of 100,000 keys with five versions of 200 bytes each: how long they take, what memory, what writers notice.

The baseline, in the same run, is a real etcd with the same data: our snapshot, restored by etcdutl.

    python -m benchmarks.snapshots
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc

from benchmarks import servers
from benchmarks.table import Row, show
from kvstore import snapshot
from kvstore.api import Put, Txn
from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from tests.etcd_process import ETCDUTL, running_etcd

KEYS, VERSIONS, SIZE = 100_000, 5, 200
TXN_KEYS = 100
MIB = 1 << 20


async def fill(directory: Path) -> None:
    rng = random.Random(1)
    async with Node.open(directory, NodeOptions(fsync=False)) as node:
        for _ in range(VERSIONS):
            for first in range(0, KEYS, TXN_KEYS):
                keys = range(first, first + TXN_KEYS)
                await node.txn(Txn(success=tuple(Put(b"/bench/%08d" % key, rng.randbytes(SIZE)) for key in keys)))


async def pieces(channel: grpc.aio.Channel) -> AsyncIterator[bytes]:
    async for data in channel.unary_stream("/etcdserverpb.Maintenance/Snapshot", None, None)(b""):
        yield pb.SnapshotResponse.FromString(data).blob


async def measure(endpoint: str, file: Path) -> tuple[float, float]:
    """Seconds of a snapshot, and the longest that one writer waited for a put meanwhile."""
    async with servers.channels(endpoint, 2) as (reading, writing):
        call = writing.unary_unary("/etcdserverpb.KV/Put", None, None)
        longest = 0.0

        async def write() -> None:
            nonlocal longest
            while True:
                began = time.perf_counter()
                await call(pb.PutRequest(key=b"probe", value=bytes(SIZE)).SerializeToString())
                longest = max(longest, time.perf_counter() - began)

        writer = asyncio.create_task(write())
        began = time.perf_counter()
        await snapshot.save(pieces(reading), file)
        took = time.perf_counter() - began
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer
        return took, longest


def resident(pid: int, name: str) -> float:
    """MiB: VmRSS is now, VmHWM at most."""
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def resident_of_etcd(endpoint: str) -> float:
    """MiB now; its database is mapped into it."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{endpoint}/metrics") as answer:
        found = re.search(r"^process_resident_memory_bytes (\S+)$", await answer.text(), re.MULTILINE)
    assert found is not None
    return float(found[1]) / MIB


def timed_restore(file: Path, directory: Path) -> tuple[float, float]:
    """Seconds: ours, etcdutl's."""
    began = time.perf_counter()
    snapshot.restore(file, directory / "restored")
    between = time.perf_counter()
    command = [str(ETCDUTL), "snapshot", "restore", str(file), "--data-dir", str(directory / "etcd")]
    subprocess.run(command, check=True, capture_output=True)
    return between - began, time.perf_counter() - between


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ours_file, etcd_file = directory / "ours.db", directory / "etcd.db"
        asyncio.run(fill(directory / "ours"))
        with servers.ours(directory) as (process, endpoint):
            before = resident(process.pid, "VmRSS")
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
            took, longest = asyncio.run(measure(endpoint, ours_file))
            most = resident(process.pid, "VmHWM")
        ours_restored, etcd_restored = timed_restore(ours_file, directory)
        with running_etcd(directory, fsync=True, restored=directory / "etcd") as endpoint:
            etcd_took, etcd_longest = asyncio.run(measure(endpoint, etcd_file))
            etcd_memory = asyncio.run(resident_of_etcd(endpoint))
        sizes = [file.stat().st_size / MIB for file in (ours_file, etcd_file)]
    show(
        f"snapshots of {KEYS:,} keys with {VERSIONS} versions of {SIZE} bytes, over gRPC to a file, beside one writer",
        [
            Row("etcd: time", etcd_took, "s"),
            Row("ours: time", took, "s", "etcd", took / etcd_took),
            Row("etcd: longest put meanwhile", etcd_longest * 1000, "ms"),
            Row("ours: longest put meanwhile", longest * 1000, "ms", "etcd", longest / etcd_longest),
            Row("etcd: size", sizes[1], "MiB"),
            Row("ours: size", sizes[0], "MiB", "etcd", sizes[0] / sizes[1]),
            Row("etcd: resident", etcd_memory, "MiB"),
            Row("ours: resident before", before, "MiB"),
            Row("ours: resident at most", most, "MiB", "etcd", most / etcd_memory),
            Row("etcdutl: restore", etcd_restored, "s"),
            Row("ours: restore", ours_restored, "s", "etcdutl", ours_restored / etcd_restored),
        ],
    )


if __name__ == "__main__":
    main()
