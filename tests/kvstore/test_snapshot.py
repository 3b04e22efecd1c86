"""Snapshots: whole, at one revision, readable again; and data carried between a real etcd and ours."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import sys
from contextlib import aclosing, suppress
from pathlib import Path

import grpc
import pytest

from kvstore import snapshot
from kvstore.api import DeleteRange, LeaseLeasesResponse, Put, Range, RangeResponse
from kvstore.bolt import Writer
from kvstore.carry import Carried, carry
from kvstore.client import EmbeddedClient, RemoteClient
from kvstore.errors import LeaseExists
from kvstore.maintenance import MAX_SNAPSHOTS
from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import Server
from kvstore.services import maintenance
from tests.etcd_process import running_etcd

OPTIONS = NodeOptions(fsync=False)
EVERYTHING = Range(b"\0", b"\0")
TIMEOUT = 30.0


async def fill(node: Node) -> None:
    await node.lease_grant(1000, 5)
    for number in range(300):
        await node.put(Put(b"k%03d" % (number % 90), b"v%d" % number, lease=5 if number % 7 == 0 else 0))
    await node.delete_range(DeleteRange(b"k005"))
    await node.compact(node.revision - 100, physical=True)


async def save(node: Node, path: Path) -> int:
    async with aclosing(EmbeddedClient(node).snapshot()) as pieces:
        return await snapshot.save(pieces, path)


async def test_the_stream_is_as_etcds(node: Node, endpoint: str) -> None:
    await fill(node)
    async with grpc.aio.insecure_channel(endpoint) as channel:
        stream = channel.unary_stream("/etcdserverpb.Maintenance/Snapshot", None, None)(b"")
        parts = [pb.SnapshotResponse.FromString(data) async for data in stream]
    *body, last = parts
    total = sum(len(part.blob) for part in body)
    assert total % 4096 == 0
    assert {len(part.blob) for part in body[:-1]} <= {32 << 10}
    sent = 0
    for part in body:
        sent += len(part.blob)
        assert part.remaining_bytes == total - sent
    assert (last.blob, last.remaining_bytes) == (hashlib.sha256(b"".join(part.blob for part in body)).digest(), 0)
    assert not any(part.HasField("header") for part in parts)


async def test_saved_and_restored(node: Node, tmp_path: Path) -> None:
    await fill(node)
    file, directory = tmp_path / "saved.db", tmp_path / "restored"
    size = await save(node, file)
    found = snapshot.status(file)
    assert (found.revision, found.size) == (node.revision, size - 32)
    snapshot.restore(file, directory)
    async with Node.open(directory, OPTIONS) as again:
        assert again.range(EVERYTHING) == node.range(EVERYTHING)
        at = node.revision - 50
        assert again.range(Range(b"\0", b"\0", revision=at)) == node.range(Range(b"\0", b"\0", revision=at))
        assert await again.maintenance.hash_kv() == await node.maintenance.hash_kv()
        assert again.compacted == node.compacted
        assert again.leases() == [5]
        assert again.lease_time_to_live(5, keys=True)[1:] == node.lease_time_to_live(5, keys=True)[1:]
        assert again.cluster_id != node.cluster_id
        assert again.member_id != node.member_id
        await again.put(Put(b"after"))
    assert snapshot.status(file) == found


async def test_a_snapshot_is_of_one_revision_while_writes_go_on(node: Node, tmp_path: Path) -> None:
    """Two keys always change together: no snapshot may have one without the other."""
    stop = asyncio.Event()

    async def write() -> None:
        from kvstore.api import Txn

        number = 0
        while not stop.is_set():
            number += 1
            await node.txn(Txn(success=(Put(b"a", b"%d" % number), Put(b"b", b"%d" % number))))

    writing = asyncio.create_task(write())
    for turn in range(5):
        before = node.revision
        await save(node, tmp_path / f"{turn}.db")
        snapshot.restore(tmp_path / f"{turn}.db", tmp_path / f"{turn}")
        async with Node.open(tmp_path / f"{turn}", OPTIONS) as again:
            client = EmbeddedClient(again)
            a, b = await client.get(b"a"), await client.get(b"b")
            assert (a and a.value) == (b and b.value)
            assert again.revision >= before
    stop.set()
    await writing


async def test_files_that_are_no_snapshots(node: Node, tmp_path: Path) -> None:
    await fill(node)
    whole = tmp_path / "whole.db"
    await save(node, whole)
    data = whole.read_bytes()
    for name, damaged in (
        ("empty", b""),
        ("short", data[:-100]),
        ("half", data[: len(data) // 2]),
        ("flipped", data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]),
        ("text", b"hello" * 100),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(snapshot.SnapshotError, match=name):
            snapshot.status(tmp_path / name)
        with pytest.raises(snapshot.SnapshotError, match="checksum"):
            snapshot.restore(tmp_path / name, tmp_path / "out")
    (tmp_path / "bare").write_bytes(data[:-32])
    with pytest.raises(snapshot.SnapshotError, match="bare: there is no checksum"):
        snapshot.restore(tmp_path / "bare", tmp_path / "out")
    assert snapshot.status(tmp_path / "bare") == snapshot.status(whole)
    summed = b"not a database!!" * 96
    (tmp_path / "summed").write_bytes(summed + hashlib.sha256(summed).digest())
    for verify in (True, False):
        with pytest.raises(snapshot.SnapshotError, match="summed: not a bbolt database"):
            snapshot.restore(tmp_path / "summed", tmp_path / "out", verify=verify)
    with (tmp_path / "foreign").open("wb") as file:
        writer = Writer(file)
        writer.bucket(b"somebody", [(b"else's", b"data")])
        writer.finish()
    with pytest.raises(snapshot.SnapshotError, match="foreign: a bbolt database, but not"):
        snapshot.status(tmp_path / "foreign")
    with pytest.raises(snapshot.SnapshotError, match="foreign: a bbolt database, but not"):
        snapshot.restore(tmp_path / "foreign", tmp_path / "out", verify=False)
    assert sorted(path.name for path in tmp_path.glob("out*")) == []
    snapshot.restore(tmp_path / "bare", tmp_path / "out", verify=False)
    with pytest.raises(snapshot.SnapshotError, match="not an empty directory"):
        snapshot.restore(whole, tmp_path / "out")


async def test_whatever_is_damaged_is_found_or_harmless(node: Node, tmp_path: Path) -> None:
    """Without a checksum each page is still checked: a restore ends, and either fails clearly or gives a store."""
    await fill(node)
    await node.auth.user_add("root", "secret")
    await node.put(Put(b"long", bytes(9000)))
    await save(node, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()[:-32]
    rng = random.Random(5)
    said: list[str] = []
    for turn in range(60):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 20))):
            at = rng.randrange(len(data)) if turn % 2 else rng.randrange(len(data) // 4096) * 4096 + rng.randrange(64)
            damaged[at] = rng.randrange(256)
        (tmp_path / "damaged").write_bytes(damaged[: rng.choice((len(data), rng.randrange(len(data))))])
        try:
            snapshot.restore(tmp_path / "damaged", tmp_path / "out", verify=False)
        except snapshot.SnapshotError as error:
            said.append(str(error))
            assert not list(tmp_path.glob("out*"))
        else:
            async with Node.open(tmp_path / "out", OPTIONS) as again:
                assert again.revision
            shutil.rmtree(tmp_path / "out")
    assert 20 < len(said) < 60
    assert not any("\n" in line for line in said)


def unnamed_files(directory: Path) -> list[str]:
    """Open files in a directory that have no name any more."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if link.startswith(str(directory)) and link.endswith("(deleted)")]


async def fill_with(node: Node, size: int) -> None:
    for number in range(size >> 20):
        await node.put(Put(b"big%d" % number, random.Random(number).randbytes(1 << 20)))


async def test_who_does_not_read_costs_little_and_not_for_ever(
    node: Node, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_with(node, 16 << 20)
    async with asyncio.timeout(TIMEOUT), grpc.aio.insecure_channel(endpoint) as channel:
        begin = channel.unary_stream("/etcdserverpb.Maintenance/Snapshot", None, None)
        stalled = [begin(b"") for _ in range(MAX_SNAPSHOTS)]
        for stream in stalled:
            assert await stream.read()
        assert len(unnamed_files(tmp_path)) == MAX_SNAPSHOTS
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await begin(b"").read()
        assert refused.value.details() == "etcdserver: too many requests"
        await node.put(Put(b"others", b"notice nothing"))
        for stream in stalled:
            stream.cancel()
        while unnamed_files(tmp_path):
            await asyncio.sleep(0.005)
        monkeypatch.setattr(maintenance, "READER_TIMEOUT", 0.2)
        stalled = [begin(b"") for _ in range(MAX_SNAPSHOTS)]
        for stream in stalled:
            assert await stream.read()
        while unnamed_files(tmp_path):
            await asyncio.sleep(0.005)
        for stream in stalled:
            with pytest.raises(grpc.aio.AioRpcError, match="timed out"):
                while await stream.read():
                    pass
        assert await save(node, tmp_path / "saved.db") > 16 << 20


async def test_a_snapshot_that_is_given_up_while_it_is_made(node: Node, tmp_path: Path) -> None:
    await fill_with(node, 4 << 20)
    asked = asyncio.create_task(save(node, tmp_path / "saved.db"))
    while not unnamed_files(tmp_path):
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not unnamed_files(tmp_path)
    assert not (tmp_path / "saved.db").exists()


async def test_a_save_that_fails_leaves_no_file(tmp_path: Path) -> None:
    async def pieces() -> object:
        yield b"some"
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        await snapshot.save(pieces(), tmp_path / "file")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# ---- between stores -------------------------------------------------------------------------------------------------


async def test_from_an_etcd_to_ours_and_back(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as address:
        async with RemoteClient([address]) as etcd, Node.open(tmp_path / "node", OPTIONS) as node:
            ours = EmbeddedClient(node)
            await etcd.lease_grant(5000, 7)
            for number in range(2500):
                await etcd.put(
                    b"k%04d" % number, bytes([number % 256]) * (number % 50), lease=7 if number % 9 == 0 else 0
                )
            await etcd.put(b"big", bytes(900_000))
            carried = await carry(etcd, ours)
            assert carried == Carried(2501, 1, 2502, node.revision)
            assert node.revision < 100
            theirs, mine = (await etcd.range(EVERYTHING)).kvs, (await ours.range(EVERYTHING)).kvs
            assert [(kv.key, kv.value, kv.lease) for kv in theirs] == [(kv.key, kv.value, kv.lease) for kv in mine]
            assert node.lease_time_to_live(7)[1] == 5000
            await ours.put(b"k0000", b"changed")
            await ours.put(b"new", b"1")
            with pytest.raises(snapshot.SnapshotError, match="not empty"):
                await carry(ours, etcd)
            back = await carry(ours, etcd, merge=True)
            assert (back.keys, back.source_revision) == (2502, node.revision)
            changed = await etcd.get(b"k0000")
            assert changed is not None
            assert changed.value == b"changed"
            assert (await etcd.range(EVERYTHING)).count == 2502


async def test_an_empty_store(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "a", OPTIONS) as one, Node.open(tmp_path / "b", OPTIONS) as two:
        carried = await carry(EmbeddedClient(one), EmbeddedClient(two))
        assert carried == Carried(0, 0, 1, 1)


async def test_a_lease_that_is_granted_while_the_store_is_read_does_not_lose_its_keys(tmp_path: Path) -> None:
    class Busy(EmbeddedClient):
        """Somebody else always comes between two calls."""

        async def range(self, request: Range) -> RangeResponse:
            await self.write(1)
            return await super().range(request)

        async def leases(self) -> LeaseLeasesResponse:
            found = await super().leases()
            await self.write(2)
            return found

        async def write(self, lease: int) -> None:
            with suppress(LeaseExists):
                await self.lease_grant(600, lease)
                await self.put(b"k%d" % lease, b"v", lease=lease)

    async with Node.open(tmp_path / "a", OPTIONS) as one, Node.open(tmp_path / "b", OPTIONS) as two:
        carried = await carry(Busy(one), EmbeddedClient(two))
        assert (carried.keys, carried.source_revision) == (1, 2)
        assert two.range(Range(b"k1")).count == 1
        assert two.lease_time_to_live(1, keys=True)[1:] == (600, [b"k1"])


# ---- the command ----------------------------------------------------------------------------------------------------


async def listwatch(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("listwatch")),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "LISTWATCH_STORE": ""},
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_the_command(tmp_path: Path, etcd: str) -> None:
    saved, restored, other = str(tmp_path / "s.db"), str(tmp_path / "restored"), str(tmp_path / "other")
    async with Node.open(tmp_path / "node", OPTIONS) as node, Server(node, ["http://127.0.0.1:0"]) as server:
        await fill(node)
        rows = node.range(EVERYTHING).rows
        store = server.client_urls[0].replace("http", "etcd")
        code, out = await listwatch("snapshot", "save", saved, "--store", store)
        assert (code, out) == (0, f"snapshot of {Path(saved).stat().st_size} bytes saved at {saved}\n")
        assert (await listwatch("snapshot", "import", store, "--store", other))[0] == 0
        revision = node.revision
    code, out = await listwatch("snapshot", "status", saved)
    assert code == 0
    assert out.splitlines()[0].split() == ["HASH", "REVISION", "RECORDS", "BYTES"]
    assert out.splitlines()[1].split()[1] == str(revision)
    assert await listwatch("snapshot", "restore", saved, "--data-dir", restored) == (
        0,
        f"snapshot {saved} restored into {restored}\n",
    )
    code, out = await listwatch("snapshot", "restore", saved, "--data-dir", restored)
    assert (code, out) == (
        1,
        f"error: {restored} is not an empty directory; a snapshot is restored into a new one\n",
    )
    async with Node.open(Path(restored), OPTIONS) as node:
        assert node.range(EVERYTHING).rows == rows
    raised = str(tmp_path / "raised")
    code, out = await listwatch("snapshot", "restore", saved, "--data-dir", raised, "--bump-revision", "9")
    assert (code, "go together" in out) == (2, True)
    raise_it = ("--bump-revision", "9", "--mark-compacted")
    assert (await listwatch("snapshot", "restore", saved, "--data-dir", raised, *raise_it))[0] == 0
    async with Node.open(Path(raised), OPTIONS) as node:
        assert node.revision == revision + 9
    Path(saved).write_bytes(b"something else" * 1000)
    assert await listwatch("snapshot", "status", saved) == (1, f"error: {saved}: not a bbolt database\n")
    async with Node.open(Path(other), OPTIONS) as node:
        assert node.range(EVERYTHING).count == len(rows)
        assert node.leases() == [5]
    code, out = await listwatch("snapshot", "export", f"etcd://{etcd}", "--merge", "--store", other)
    assert code == 0
    assert out.startswith(f"carried {len(rows)} keys and 1 leases, read at revision ")
    async with RemoteClient([etcd]) as client:
        assert (await client.lease_time_to_live(5)).granted_ttl == 1000
        await client.lease_revoke(5)
        await client.delete(b"k0", b"k1")
