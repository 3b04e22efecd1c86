"""Snapshots go between a real etcd and ours, with everything in them: etcd's own tools judge ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from kvstore import schema, snapshot
from kvstore.alarms import Alarm, AlarmType
from kvstore.api import Client, DeleteRange, KeyValue, Put, Range, Txn
from kvstore.bolt import Reader
from kvstore.client import EmbeddedClient, RemoteClient
from kvstore.errors import AuthFailed, Compacted, NoSpace, PermissionDenied
from kvstore.node import Node, NodeOptions
from kvstore.permissions import Permission, PermissionType
from kvstore.proto import messages as pb
from kvstore.record import encode, encode_tombstone
from kvstore.revision import pack, to_key
from kvstore.server import Server
from tests.etcd_process import ETCDCTL, ETCDUTL, running_etcd
from tests.kvstore.differential import compare

OPTIONS = NodeOptions(fsync=False, bcrypt_cost=4)
EVERYTHING = Range(b"\0", b"\0")
TIMEOUT = 30.0


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """One whose passwords are quick to check, here and in the etcd that gets them."""
    async with Node.open(tmp_path / "node", OPTIONS) as node:
        yield node


async def run(program: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and standard output; what etcd's tools log is in the text of a failure."""
    process = await asyncio.create_subprocess_exec(
        str(program), *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode() if process.returncode == 0 else (out + err).decode()


async def fill(node: Node) -> int:
    """Several levels of pages, large values, history, a compaction, tombstones, leases; the compacted revision."""
    await node.lease_grant(1000, 5)
    await node.lease_grant(2000, 0x7FFF_0000_0000_0001)
    for start in range(0, 20_000, 100):
        keys = [b"k%05d" % (number % 15_000) for number in range(start, start + 100)]
        await node.txn(Txn(success=tuple(Put(key, b"v" * (start % 300)) for key in keys)))
    await node.delete_range(DeleteRange(b"k00100", b"k00120"))
    compacted = node.revision - 20
    await node.compact(compacted, physical=True)
    await node.put(Put(b"leased", b"1", lease=5))
    await node.put(Put(b"k00105", b"again"))
    await node.put(Put(b"big", bytes(range(256)) * 4000))
    await node.put(Put(b"big", bytes(5000)))
    await node.put(Put(b"empty", b""))
    await node.delete_range(DeleteRange(b"k00007"))
    return compacted


async def add_users(node: Node) -> None:
    auth = node.auth
    await auth.user_add("root", "secret")
    await auth.user_grant_role("root", "root")
    await auth.user_add("ann", "pass")
    await auth.user_add("Zoë", no_password=True)
    await auth.role_add("reader")
    await auth.role_add("nothing")
    await auth.role_grant_permission("reader", Permission(PermissionType.READ, b"k00010", b"k00020"))
    await auth.role_grant_permission("reader", Permission(PermissionType.READWRITE, b"open", b"\0"))
    await auth.user_grant_role("ann", "reader")
    await auth.user_grant_role("Zoë", "reader")


async def etcdctl_hash(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await channel.unary_unary("/etcdserverpb.Maintenance/HashKV", None, None)(b"")
    return int(pb.HashKVResponse.FromString(answer).hash)


async def test_etcd_goes_on_from_our_snapshot(node: Node, endpoint: str, tmp_path: Path) -> None:
    compacted = await fill(node)
    saved, restored = tmp_path / "saved.db", tmp_path / "restored"
    assert (await run(ETCDCTL, f"--endpoints={endpoint}", "snapshot", "save", saved))[0] == 0
    found = snapshot.status(saved)
    shown = {"hash": found.hash, "revision": found.revision, "totalKey": found.records, "totalSize": found.size}
    for tool in (ETCDCTL, ETCDUTL):
        code, out = await run(tool, "snapshot", "status", saved, "-w", "json")
        assert (code, json.loads(out)) == (0, shown)
        code, out = await run(tool, "snapshot", "status", saved, "-w", "table")
        assert (code, f"| {found.hash:x} | {node.revision:8} |" in out) == (0, True)
    assert (await run(ETCDCTL, "snapshot", "restore", saved, "--data-dir", restored))[0] == 0
    with running_etcd(tmp_path, restored=restored) as address:
        async with RemoteClient([address]) as etcd:
            ours = EmbeddedClient(node)
            for revision in (0, node.revision - 3, compacted + 7, compacted):
                page = Range(b"\0", b"\0", revision=revision)
                assert (await etcd.range(page)).kvs == (await ours.range(page)).kvs
            with pytest.raises(Compacted):
                await etcd.range(Range(b"a", revision=compacted - 1))
            assert await etcdctl_hash(address) == (await node.maintenance.hash_kv()).hash
            assert set((await etcd.leases()).leases) == set(node.leases()) == {5, 0x7FFF_0000_0000_0001}
            lease = await etcd.lease_time_to_live(5, keys=True)
            assert (lease.granted_ttl, list(lease.keys)) == (1000, [b"leased"])
            await etcd.lease_revoke(5)
            assert await etcd.get(b"leased") is None
            # It moves, empties and joins the pages that we wrote.
            written = await etcd.put(b"k00500", bytes(30_000))
            assert written.header.revision == node.revision + 2
            for first in range(0, 15_000, 3000):
                await etcd.txn(success=[DeleteRange(b"k%05d" % first, b"k%05d" % (first + 2500))])
            revision = (await etcd.put(b"last", b"1")).header.revision
            await etcd.compact(revision, physical=True)
            left = await etcd.range(Range(b"\0", b"\0", count_only=True))
            assert left.count == 2500 + 3
        code, out = await run(ETCDCTL, f"--endpoints={address}", "snapshot", "save", tmp_path / "again.db")
        assert code == 0, out
    code, out = await run(ETCDUTL, "snapshot", "status", tmp_path / "again.db", "-w", "json")
    assert (code, json.loads(out)["revision"]) == (0, revision), out


async def test_users_alarms_and_an_empty_store(node: Node, endpoint: str, tmp_path: Path) -> None:
    await add_users(node)
    await node.auth.enable()
    await node.maintenance.alarms.activate(AlarmType.NOSPACE, 77)
    saved, restored = tmp_path / "saved.db", tmp_path / "restored"
    code, out = await run(ETCDCTL, f"--endpoints={endpoint}", "--user=root:secret", "snapshot", "save", saved)
    assert code == 0, out
    assert (await run(ETCDUTL, "snapshot", "status", saved))[0] == 0
    assert (await run(ETCDUTL, "snapshot", "restore", saved, "--data-dir", restored))[0] == 0
    shows = (
        ["role", "get", "reader"],
        ["user", "list"],
        ["user", "get", "Zoë"],
        ["auth", "status"],
        ["alarm", "list"],
    )
    with running_etcd(tmp_path, restored=restored) as address:
        for show in shows:
            ours, theirs = [
                await run(ETCDCTL, f"--endpoints={each}", "--user=root:secret", *show) for each in (endpoint, address)
            ]
            assert ours == theirs
            assert ours[0] == 0
        async with RemoteClient([address], user="ann", password="pass") as ann:
            assert await ann.get(b"k00011") is None
            with pytest.raises(PermissionDenied):
                await ann.get(b"k00020")
            with pytest.raises(NoSpace):
                await ann.put(b"open", b"1")
        async with RemoteClient([address], user="ann", password="wrong") as nobody:
            with pytest.raises(AuthFailed):
                await nobody.get(b"k00011")
    snapshot.restore(saved, tmp_path / "ours")
    async with Node.open(tmp_path / "ours", OPTIONS) as again:
        assert again.auth._state == node.auth._state
        assert again.maintenance.alarms.raised() == [Alarm(AlarmType.NOSPACE, 77)]


def contents(file: Path) -> dict[bytes, dict[bytes, bytes]]:
    with file.open("rb") as database:
        reader = Reader(database, file.stat().st_size - 32)
        return {name: dict(reader.bucket(name)) for name in reader.names()}


async def test_what_was_done_alike_is_saved_alike(node: Node, endpoint: str, tmp_path: Path) -> None:
    """After many random operations the buckets are etcd's, row for row, but for ids and the log that we do not have."""
    with running_etcd(tmp_path) as address:
        await compare(address, endpoint, operations=500, seed=3)
        for name, each in (("etcd", address), ("ours", endpoint)):
            async with RemoteClient([each]) as client, aclosing(client.snapshot()) as pieces:
                await snapshot.save(pieces, tmp_path / name)
    etcd, ours = contents(tmp_path / "etcd"), contents(tmp_path / "ours")
    for buckets in (etcd, ours):
        del buckets[b"members"]
        for logged in (b"consistent_index", b"term", b"confState"):
            del buckets[b"meta"][logged]
    assert ours == etcd
    assert len(ours[b"key"]) > 20
    assert ours[b"meta"]


async def test_ours_goes_on_from_etcds_snapshot(tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    with running_etcd(tmp_path) as address:

        async def ctl(*arguments: object) -> str:
            code, out = await run(ETCDCTL, f"--endpoints={address}", *arguments)
            assert code == 0, out
            return out

        async with RemoteClient([address]) as etcd:
            await etcd.lease_grant(1000, 5)
            for number in range(400):
                await etcd.put(b"k%03d" % (number % 150), b"v" * number, lease=5 if number == 399 else 0)
            await etcd.txn(success=[Put(b"one", b"1"), DeleteRange(b"k000", b"k004"), Put(b"big", bytes(700_000))])
            revision = (await etcd.delete(b"k010")).header.revision
            await etcd.compact(300, physical=True)
            asked = [Range(b"\0", b"\0", revision=each) for each in (revision, revision - 1, 350, 300)]
            kvs = [(await etcd.range(each)).kvs for each in asked]
            hashed = await etcdctl_hash(address)
        for arguments in (
            ["user", "add", "root:secret"],
            ["user", "grant-role", "root", "root"],
            ["user", "add", "ann:pass"],
            ["user", "add", "cert", "--no-password"],
            ["role", "add", "reader"],
            ["role", "grant-permission", "reader", "read", "k010", "k020"],
            ["role", "grant-permission", "reader", "readwrite", "open", "--from-key"],
            ["user", "grant-role", "ann", "reader"],
            ["auth", "enable"],
        ):
            await ctl(*arguments)
        await ctl("--user=root:secret", "snapshot", "save", saved)
        users = await ctl("--user=root:secret", "role", "get", "reader")
    found = snapshot.status(saved)
    code, out = await run(ETCDCTL, "snapshot", "status", saved, "-w", "json")
    shown = {"hash": found.hash, "revision": found.revision, "totalKey": found.records, "totalSize": found.size}
    assert (code, json.loads(out)) == (0, shown)
    snapshot.restore(saved, tmp_path / "ours")
    async with Node.open(tmp_path / "ours", OPTIONS) as node:
        assert (node.revision, node.compacted) == (revision, 300)
        ours = EmbeddedClient(node)
        assert [(await ours.range(each)).kvs for each in asked] == kvs
        assert (await node.maintenance.hash_kv()).hash == hashed
        with pytest.raises(Compacted):
            await ours.range(Range(b"a", revision=299))
        assert node.lease_time_to_live(5, keys=True)[1:] == (1000, [b"k099"])
        async with Server(node, ["http://127.0.0.1:0"]) as server:
            address = server.client_urls[0].removeprefix("http://")
            code, out = await run(ETCDCTL, f"--endpoints={address}", "--user=root:secret", "role", "get", "reader")
            assert (code, out) == (0, users)
            async with RemoteClient([address], user="ann", password="pass") as ann:
                assert (await ann.get(b"k011")) is not None
                assert (await ann.put(b"open", b"1")).header.revision == revision + 1
                with pytest.raises(PermissionDenied):
                    await ann.get(b"one")
        async with aclosing(EmbeddedClient(node).snapshot()) as pieces:
            await snapshot.save(pieces, tmp_path / "again.db")
    assert (await run(ETCDUTL, "snapshot", "status", tmp_path / "again.db"))[0] == 0


async def test_a_copied_database_of_a_stopped_etcd(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as address:
        async with RemoteClient([address]) as etcd:
            for number in range(200):
                await etcd.put(b"k%d" % number, b"v")
            async with grpc.aio.insecure_channel(address) as channel:
                # Makes the database durable, which a killed etcd would have done from its log.
                await channel.unary_unary("/etcdserverpb.Maintenance/Defragment", None, None)(b"")
    copied = tmp_path / "etcd-0" / "member" / "snap" / "db"
    assert snapshot.status(copied).revision == 201
    with pytest.raises(snapshot.SnapshotError, match="no checksum"):
        snapshot.restore(copied, tmp_path / "ours")
    snapshot.restore(copied, tmp_path / "ours", verify=False)
    async with Node.open(tmp_path / "ours", OPTIONS) as node:
        assert node.range(EVERYTHING).count == 200


async def test_a_compaction_that_was_under_way(tmp_path: Path) -> None:
    """Nothing below the compacted revision was removed yet, nor a deletion exactly there: an etcd removes it."""
    records = {
        pack(2, 0): encode(b"a", b"1", 2, 2, 1, 0),
        pack(3, 0): encode(b"a", b"2", 2, 3, 2, 0),
        pack(3, 1): encode(b"b", b"1", 3, 3, 1, 0),
        pack(4, 0, tombstone=True): encode_tombstone(b"b", 4),
        pack(5, 0): encode(b"b", b"2", 5, 5, 1, 0),
    }
    tables: dict[str, list[tuple[bytes, bytes]]] = {
        "meta": [(b"finished_compact_revision", b"2"), (b"raft_term", b"3"), (b"scheduled_compact_revision", b"4")],
        "revisions": [(to_key(revision), record) for revision, record in records.items()],
    }
    saved = tmp_path / "saved.db"
    with saved.open("wb+") as file:
        schema.write(file, lambda name: tables.get(name, []), schema.Member(1, "default", []))
        data = b"".join(blob for blob, _ in snapshot.blobs(file))
    saved.write_bytes(data)
    snapshot.restore(saved, tmp_path / "ours")
    assert (await run(ETCDUTL, "snapshot", "restore", saved, "--data-dir", tmp_path / "restored"))[0] == 0
    with running_etcd(tmp_path, restored=tmp_path / "restored") as address:
        async with RemoteClient([address]) as etcd, Node.open(tmp_path / "ours", OPTIONS) as node:
            ours = EmbeddedClient(node)
            for revision in (0, 4):
                page = Range(b"\0", b"\0", revision=revision)
                assert await kvs_of(etcd, page) == await kvs_of(ours, page)
            for client in (etcd, ours):
                with pytest.raises(Compacted):
                    await client.range(Range(b"a", revision=3))
            assert await etcdctl_hash(address) == (await node.maintenance.hash_kv()).hash


async def kvs_of(client: Client, page: Range) -> tuple[int, list[KeyValue]]:
    answer = await client.range(page)
    return answer.header.revision, list(answer.kvs)


async def test_a_raised_revision(node: Node, tmp_path: Path) -> None:
    """Nobody who watched the lost store may take the restored one for it: what they have seen is compacted."""
    for number in range(10):
        await node.put(Put(b"k%d" % number, b"v"))
    async with aclosing(EmbeddedClient(node).snapshot()) as pieces:
        await snapshot.save(pieces, tmp_path / "saved.db")
    snapshot.restore(tmp_path / "saved.db", tmp_path / "raised", bump_revision=1_000_000)
    async with Node.open(tmp_path / "raised", OPTIONS) as raised:
        assert raised.revision == raised.compacted == 1_000_011
        assert raised.range(EVERYTHING).rows == node.range(EVERYTHING).rows
        with pytest.raises(Compacted):
            raised.range(Range(b"a", revision=1_000_010))
        async with aclosing(EmbeddedClient(raised).snapshot()) as pieces:
            await snapshot.save(pieces, tmp_path / "again.db")
    assert snapshot.status(tmp_path / "again.db").revision == 1_000_011
    restored = tmp_path / "restored"
    assert (await run(ETCDUTL, "snapshot", "restore", tmp_path / "again.db", "--data-dir", restored))[0] == 0
    with running_etcd(tmp_path, restored=restored) as address:
        async with RemoteClient([address]) as etcd:
            assert len((await etcd.range(EVERYTHING)).kvs) == 10
            assert (await etcd.put(b"new", b"1")).header.revision == 1_000_012
