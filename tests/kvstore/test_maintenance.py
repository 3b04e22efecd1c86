"""What operators ask: hashes, defragmentation, members; beside a real etcd where it can be compared."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import google_crc32c
import grpc
import pytest
from google.protobuf.message import Message

from kvstore.api import DeleteRange, Put, Range
from kvstore.client import RemoteClient
from kvstore.errors import Compacted, FutureRevision, Unavailable
from kvstore.hash import MOST_REMEMBERED, Hash
from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.record import decode, key_of
from kvstore.revision import main_of, to_key
from kvstore.server import Server
from tests.etcd_process import running_etcd
from tests.kvstore.differential import Answer, Operation, Side, normal

MAINTENANCE, CLUSTER = "/etcdserverpb.Maintenance/", "/etcdserverpb.Cluster/"
Sides: TypeAlias = "tuple[Side, Side]"
EVERYTHING = Range(b"\0", b"\0")


@pytest.fixture
async def sides(tmp_path: Path, endpoint: str) -> AsyncIterator[Sides]:
    """A real etcd of this test alone, and ours."""
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd") as etcd:
        pair = Side(etcd), Side(endpoint)
        yield pair
        for side in pair:
            await side.close()


async def member_of(side: Side) -> int:
    answer = await side.call(Operation(CLUSTER + "MemberList", pb.MemberListRequest()))
    assert isinstance(answer, pb.MemberListResponse)
    return answer.members[0].ID


async def both(sides: Sides, path: str, make: Callable[[int], Message]) -> str:
    """The answer of both, which must be the same; `make` is given the member's id, shown as ME."""
    texts = []
    for side in sides:
        member = await member_of(side)
        request = make(member)
        texts.append(normal(request, await side.call(Operation(path, request))).replace(str(member), "ME"))
    assert texts[0] == texts[1]
    return texts[0]


async def test_move_leader(sides: Sides) -> None:
    path = MAINTENANCE + "MoveLeader"
    assert await both(sides, path, lambda me: pb.MoveLeaderRequest(targetID=me)) == ""
    for target in (0, 5):
        answer = await both(sides, path, lambda _, target=target: pb.MoveLeaderRequest(targetID=target))  # type: ignore[misc]
        assert "etcdserver: bad leader transferee" in answer


@pytest.mark.parametrize("version", ["3.4", "3.4.0", "3.5", "3.6", "3.3", "", "x", "3"])
async def test_downgrade_is_judged_as_etcd_judges_it(etcd: str, endpoint: str, version: str) -> None:
    pair = Side(etcd), Side(endpoint)
    for action in (pb.DowngradeRequest.VALIDATE, pb.DowngradeRequest.CANCEL, 5):
        request = pb.DowngradeRequest(action=action, version=version)
        answers = [await side.call(Operation(MAINTENANCE + "Downgrade", request)) for side in pair]
        for answer in answers:
            if isinstance(answer, pb.DowngradeResponse):
                answer.header.revision = 0  # the real etcd is shared with other tests
        assert normal(request, answers[0]) == normal(request, answers[1])
    for side in pair:
        await side.close()


async def test_members(sides: Sides) -> None:
    url = "http://127.0.0.1:1234"
    for path, make, says in (
        ("MemberRemove", lambda _: pb.MemberRemoveRequest(ID=5), "member not found"),
        ("MemberRemove", lambda me: pb.MemberRemoveRequest(ID=me), "not enough started members"),
        ("MemberPromote", lambda _: pb.MemberPromoteRequest(ID=5), "member not found"),
        ("MemberPromote", lambda me: pb.MemberPromoteRequest(ID=me), "can only promote a learner member"),
        ("MemberUpdate", lambda _: pb.MemberUpdateRequest(ID=5, peerURLs=[url]), "member not found"),
        ("MemberAdd", lambda _: pb.MemberAddRequest(peerURLs=["x"]), "given member URLs are invalid"),
        ("MemberAdd", lambda _: pb.MemberAddRequest(), "given member URLs are invalid"),
        ("MemberAdd", lambda _: pb.MemberAddRequest(peerURLs=["http://a:1/path"]), "given member URLs are invalid"),
    ):
        assert says in await both(sides, CLUSTER + path, make)
    for side in sides:
        me = await member_of(side)
        updated = await side.call(
            Operation(CLUSTER + "MemberUpdate", pb.MemberUpdateRequest(ID=me, peerURLs=[url, "x"]))
        )
        assert isinstance(updated, pb.MemberUpdateResponse)
        assert (updated.header.revision, list(updated.members[0].peerURLs)) == (0, [url, "x"])
    assert "Peer URLs already exists" in await both(
        sides, CLUSTER + "MemberAdd", lambda _: pb.MemberAddRequest(peerURLs=[url])
    )


async def test_a_second_member_is_refused_and_peer_urls_are_remembered(tmp_path: Path) -> None:
    for restart in range(2):
        async with (
            Node.open(tmp_path, NodeOptions(fsync=False)) as node,
            Server(node, ["http://127.0.0.1:0"]) as server,
        ):
            side = Side(server.client_urls[0].removeprefix("http://"))
            for learner, says in ((False, "not enough started members"), (True, "too many learner members")):
                add = pb.MemberAddRequest(peerURLs=["http://127.0.0.1:9999"], isLearner=learner)
                answer = await side.call(Operation(CLUSTER + "MemberAdd", add))
                assert isinstance(answer, tuple)
                assert (answer[0], says in answer[1]) == (grpc.StatusCode.FAILED_PRECONDITION, True)
            if restart:
                assert node.maintenance.peer_urls == ["http://127.0.0.1:1"]
            await node.maintenance.set_peer_urls(["http://127.0.0.1:1"])
            await side.close()


# ---- hashes ---------------------------------------------------------------------------------------------------------


async def test_a_hash_does_not_depend_on_how_far_a_compaction_has_come(node: Node) -> None:
    rng = random.Random(3)
    for _ in range(300):
        key = rng.choice([b"a", b"b", b"c", b"d"])
        if rng.random() < 0.3:
            await node.delete_range(DeleteRange(key))
        else:
            await node.put(Put(key, rng.randbytes(20)))
    now = node.revision
    before = await node.maintenance.hash_kv(now)
    assert (before.hash_revision, before.compact_revision) == (now, -1)
    await node.compact(now - 50)
    started = await node.maintenance.hash_kv(now)
    await node.compact(now - 40, physical=True)
    await node.compact(now - 30)
    unfinished = await node.maintenance.hash_kv(now)
    with pytest.raises(Compacted):
        await node.compact(now - 30, physical=True)  # waits for the removal all the same
    finished = await node.maintenance.hash_kv(now)
    assert unfinished == finished
    assert {started.compact_revision, finished.compact_revision} == {now - 50, now - 30}
    assert before.hash not in (started.hash, finished.hash)


async def test_hash_of_a_store_in_which_nothing_is_left(node: Node) -> None:
    # The numbers are etcd's: where a compaction would keep nothing, what the last one has kept counts.
    await node.put(Put(b"a", b"1"))
    await node.compact(2, physical=True)
    await node.delete_range(DeleteRange(b"a"))
    assert (await node.maintenance.hash_kv(3)).hash == 3520211144
    await node.put(Put(b"b", b"1"))
    assert (await node.maintenance.hash_kv()).hash == 20294999


async def test_a_compaction_leaves_the_hash_of_what_came_since_the_one_before(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "node", NodeOptions(fsync=False)) as node:
        rng = random.Random(4)
        left: list[Hash] = []
        for _ in range(MOST_REMEMBERED + 2):
            for _ in range(50):
                await node.put(Put(rng.choice([b"a", b"b", b"c", b"d"]), rng.randbytes(20)))
            at, before = node.revision - 10, max(node.compacted, 0)
            history = [(r, record) for r, record in node._backend.all_records() if main_of(r) <= at]
            kept = {key_of(record): r for r, record in history}
            counted = [to_key(r) + row for r, row in history if main_of(r) > before or kept[key_of(row)] == r]
            left.append(Hash(google_crc32c.value(b"key" + b"".join(counted)), at, node.compacted))
            await node.compact(at, physical=True)
            assert await node.maintenance.hash_kv(at) == left[-1]
        for hashed in left[-MOST_REMEMBERED:]:
            assert await node.maintenance.hash_kv(hashed.hash_revision) == hashed, "although it is compacted"
        with pytest.raises(Compacted):
            await node.maintenance.hash_kv(left[1].hash_revision)
        await node.compact(node.revision - 5)
        await node.compact(node.revision, physical=True)
        assert (await node.maintenance.hash_kv(node.revision)).compact_revision == node.revision, "the other interfered"
    async with Node.open(tmp_path / "node", NodeOptions(fsync=False)) as node:
        assert (await node.maintenance.hash_kv(node.compacted)).compact_revision == node.compacted
        with pytest.raises(Compacted):
            await node.maintenance.hash_kv(left[-1].hash_revision)


async def test_hash_of_revisions_that_cannot_be_read(node: Node) -> None:
    for number in range(5):
        await node.put(Put(b"k", b"%d" % number))
    await node.compact(4)
    with pytest.raises(Compacted):
        await node.maintenance.hash_kv(3)
    with pytest.raises(FutureRevision):
        await node.maintenance.hash_kv(7)
    assert (await node.maintenance.hash_kv(4)).compact_revision in (-1, 4), "whether or not the space is free yet"
    assert await node.maintenance.hash_kv(0) == await node.maintenance.hash_kv(6)
    nothing = await node.maintenance.hash_kv(-1)
    assert nothing.hash == google_crc32c.value(b"key")


async def test_hashes_of_the_same_history_are_equal_and_of_another_are_not(tmp_path: Path) -> None:
    hashes = []
    for name, value in (("one", b"x"), ("two", b"x"), ("three", b"y")):
        async with Node.open(tmp_path / name, NodeOptions(fsync=False)) as node:
            await node.put(Put(b"a", value))
            await node.delete_range(DeleteRange(b"a"))
            hashes.append((await node.maintenance.hash_kv()).hash)
            whole = await node.maintenance.hash()
            assert whole == await node.maintenance.hash()
            await node.put(Put(b"b"))
            assert whole != await node.maintenance.hash()
    assert hashes[0] == hashes[1] != hashes[2]


# ---- defragmentation ------------------------------------------------------------------------------------------------


def file_size(directory: Path) -> int:
    return (directory / "data.mdb").stat().st_size


async def grown(node: Node, rounds: int = 40) -> None:
    for _ in range(rounds):
        await asyncio.gather(*(node.put(Put(b"k%03d" % number, bytes(4000))) for number in range(100)))
    await node.compact(node.revision, physical=True)


async def contents(node: Node) -> list[bytes]:
    return node.range(EVERYTHING).rows


async def test_the_file_shrinks_and_everything_is_still_there(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        await node.lease_grant(1000, 5)
        await grown(node)
        await node.put(Put(b"leased", b"v", lease=5))
        rows, hashed, before = await contents(node), await node.maintenance.hash_kv(), file_size(tmp_path)
        await node.maintenance.defragment()
        assert file_size(tmp_path) < before / 5
        assert node.db_size()[0] == file_size(tmp_path)
        assert (await contents(node), await node.maintenance.hash_kv()) == (rows, hashed)
        await node.put(Put(b"after", b"1"))
        await node.maintenance.defragment()  # once more, on the copy
        rows = await contents(node)
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        assert await contents(node) == rows
        assert node.leases() == [5]
        assert node.lease_time_to_live(5, keys=True)[2] == [b"leased"]


async def test_reads_writes_watches_and_compactions_go_on_meanwhile(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        await grown(node)
        stream = node.watch_stream()
        stream.create(key=b"live")
        await stream.next()
        defragmenting = asyncio.create_task(node.maintenance.defragment())
        written = 0
        while not defragmenting.done():
            written += 1
            await node.put(Put(b"live", b"%d" % written))
            assert node.range(Range(b"live")).rows
            if written % 20 == 0:
                await node.compact(node.revision - 5)
        await defragmenting
        assert written > 3
        await node.put(Put(b"live", b"end"))
        seen = 0
        while seen <= written:
            seen += len((await stream.next()).events)
        stream.close()
        rows, hashed, revision = await contents(node), await node.maintenance.hash_kv(), node.revision
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        assert (await contents(node), await node.maintenance.hash_kv(), node.revision) == (rows, hashed, revision)


async def test_what_a_crash_in_a_defragmentation_left_is_removed(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        await node.put(Put(b"a", b"1"))
    (tmp_path / "defragment-0").mkdir()
    (tmp_path / "defragment-0" / "data.mdb").write_bytes(b"half a copy")
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        assert not (tmp_path / "defragment-0").exists()
        await node.maintenance.defragment()
        assert len(await contents(node)) == 1


async def test_a_defragmentation_that_cannot_be_done_changes_nothing(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        await node.put(Put(b"a", b"1"))
        (tmp_path / "defragment-0").write_bytes(b"in the way")
        with pytest.raises(Unavailable, match="File exists"):
            await node.maintenance.defragment()
        (tmp_path / "defragment-0").unlink()
        await node.put(Put(b"b", b"2"))
        await node.maintenance.defragment()
        assert len(await contents(node)) == 2


async def test_a_cancelled_caller_leaves_it_running_and_closing_waits_for_it(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        await grown(node, rounds=5)
        rows = await contents(node)
        asking = asyncio.create_task(node.maintenance.defragment())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        assert await contents(node) == rows


async def test_killed_while_it_defragments_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    rng = random.Random()
    for kill in range(6):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.kvstore.defragment_process", str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        acknowledged = (0, 0)
        left = rng.randrange(30, 200)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                async for line in process.stdout:
                    if line.startswith(b"done ") and line.endswith(b"\n"):
                        _, number, revision = line.split()
                        acknowledged = int(number), int(revision)
                        left -= 1
                        if left == 0:  # what it says in the moments until it dies is read, too
                            process.kill()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        async with Node.open(tmp_path) as node:
            assert node.revision >= acknowledged[1]
            newest = max(int(decode(row).value.split()[0]) for row in node.range(EVERYTHING).rows)
            assert newest >= acknowledged[0], f"kill {kill}"
            node._store.index._check()


async def test_status_has_sizes_that_defragmenting_changes(node: Node, endpoint: str) -> None:
    async with RemoteClient([endpoint]) as client:
        await grown(node, rounds=10)
        before = await client.status()
        side = Side(endpoint)
        answer: Answer = await side.call(Operation(MAINTENANCE + "Defragment", pb.DefragmentRequest()))
        await side.close()
        assert answer == pb.DefragmentResponse()
        after = await client.status()
        assert after.db_size < before.db_size
        assert before.errors == after.errors == []
