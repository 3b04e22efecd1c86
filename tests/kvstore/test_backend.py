"""The data directory: who may open it, and what opening tells."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from kvstore.alarms import AlarmType
from kvstore.api import Put, Range
from kvstore.backend import FORMAT_VERSION, Backend
from kvstore.errors import DataDirError, DataDirInUse, DataDirTooNew, NoSpace
from kvstore.node import Node, NodeOptions

FAST = NodeOptions(fsync=False)


async def test_a_directory_in_use_by_another_process_is_refused_and_unharmed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import asyncio, sys, pathlib\n"
            "from kvstore.node import Node\n"
            "from kvstore.api import Put\n"
            "async def main():\n"
            f"    async with Node.open(pathlib.Path({str(tmp_path)!r})) as node:\n"
            "        await node.put(Put(b'k', b'v'))\n"
            "        print('open', flush=True)\n"
            "        await asyncio.to_thread(sys.stdin.read)\n"
            "asyncio.run(main())\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(DataDirInUse, match=f"in use by process {holder.pid}"):
            async with Node.open(tmp_path, FAST):
                raise AssertionError("opened twice")
        holder.stdin.close()
        assert holder.wait(10) == 0
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
    async with Node.open(tmp_path, FAST) as node:
        assert node.range(Range(b"k")).count == 1


async def test_a_directory_is_refused_twice_in_one_process_too(tmp_path: Path) -> None:
    async with Node.open(tmp_path, FAST):
        with pytest.raises(DataDirInUse):
            async with Node.open(tmp_path, FAST):
                raise AssertionError("opened twice")


async def test_a_newer_format_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    async with Node.open(tmp_path, FAST) as node:
        await node.put(Put(b"k", b"v"))
    _set_format(tmp_path, FORMAT_VERSION + 1)
    before = (tmp_path / "data.mdb").read_bytes()
    with pytest.raises(DataDirTooNew, match=f"has format {FORMAT_VERSION + 1}"):
        async with Node.open(tmp_path, FAST):
            raise AssertionError("opened")
    assert (tmp_path / "data.mdb").read_bytes() == before
    _set_format(tmp_path, FORMAT_VERSION)
    async with Node.open(tmp_path, FAST) as node:
        assert node.range(Range(b"k")).count == 1


def _set_format(directory: Path, version: int) -> None:
    with lmdb.open(str(directory), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(b"format_version", str(version).encode(), db=env.open_db(b"meta", txn=txn))


async def test_what_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else entirely" * 1000)
    with pytest.raises(DataDirError, match="not a usable database"):
        async with Node.open(tmp_path, FAST):
            raise AssertionError("opened")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataDirError, match="file"):
        async with Node.open(blocked / "data", FAST):
            raise AssertionError("opened")


async def test_another_programs_lmdb_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"b", db=env.open_db(b"theirs", txn=txn))
    with pytest.raises(DataDirError, match="not one of listwatch's"):
        async with Node.open(tmp_path, FAST):
            raise AssertionError("opened")


async def test_identity_stays_and_the_term_rises_over_restarts(tmp_path: Path) -> None:
    async with Node.open(tmp_path, FAST) as node:
        first = node.header()
    async with Node.open(tmp_path, FAST) as node:
        second = node.header()
    assert (first.cluster_id, first.member_id) == (second.cluster_id, second.member_id)
    assert second.raft_term == first.raft_term + 1


async def test_at_the_quota_puts_fail_and_reads_deletes_and_compaction_go_on(tmp_path: Path) -> None:
    options = NodeOptions(fsync=False, quota_bytes=1 << 20)
    async with Node.open(tmp_path, options) as node:
        written = 0
        with pytest.raises(NoSpace):
            for _ in range(2000):
                await node.put(Put(b"key", bytes(1000)))
                written += 1
        assert 500 < written < 1100
        assert node.range(Range(b"key")).count == 1
        await node.compact(node.revision, physical=True)
        await disarmed(node)
        await node.put(Put(b"key", bytes(1000)))


async def disarmed(node: Node) -> None:
    ended = await node.maintenance.alarms.deactivate(AlarmType.NOSPACE, node.member_id)
    assert ended is not None


ON_A_FULL_DISK = """
import asyncio, sys
from pathlib import Path
from kvstore.alarms import AlarmType
from kvstore.api import DeleteRange, Put, Range
from kvstore.errors import NoSpace
from kvstore.node import Node

async def main():
    directory = Path(sys.argv[1])
    written = 0
    async with Node.open(directory / "data") as node:
        try:
            while True:
                await node.put(Put(b"k%d" % written, bytes(100_000)))
                written += 1
        except NoSpace:
            print("full")
        try:
            async with node.maintenance.snapshot():
                pass
        except NoSpace:
            print("no room for a snapshot")
    with open(directory / "rest", "wb", buffering=0) as rest:
        try:
            while rest.write(bytes(4096)):
                continue
        except OSError:
            print("not a byte left")
    async with Node.open(directory / "data") as node:
        assert node.range(Range(b"k", b"l", count_only=True)).count == written
        (directory / "rest").unlink()
        assert (await node.delete_range(DeleteRange(b"k", b"l"))).deleted == written
        await node.compact(node.revision, physical=True)
        # Of a disk without a byte left not even the alarm may have been saved.
        await node.maintenance.alarms.deactivate(AlarmType.NOSPACE, node.member_id)
        await node.put(Put(b"k", bytes(100_000)))
        print("usable again")

asyncio.run(main())
"""


TOLD = ["full", "no room for a snapshot", "not a byte left", "usable again"]


def test_a_full_disk_is_told_survived_and_left_by_deleting(tmp_path: Path) -> None:
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"']
    if subprocess.run([*mounted, tmp_path, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    done = subprocess.run(
        [*mounted, tmp_path, sys.executable, "-c", ON_A_FULL_DISK, tmp_path], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line in TOLD]
    assert told == TOLD


def test_backend_closes_everything_when_it_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"x" * 10_000)
    for _ in range(2):  # the lock of the first try must be free again
        with pytest.raises(DataDirError, match="usable"):
            Backend(tmp_path, quota_bytes=1 << 20, fsync=False, inline=True, rng=random.Random(1))
