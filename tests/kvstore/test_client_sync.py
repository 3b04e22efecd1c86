"""The blocking client: over the network and embedded, from many threads, interrupted and closed at any time."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvstore import Compare, CompareResult, CompareTarget, NodeOptions, Put, Range, SyncClient, connect_sync, open_sync
from kvstore.api import prefix_end
from kvstore.errors import Compacted, DataDirInUse, LeaseNotFound, Unavailable
from tests.etcd_process import free_port

FAST = NodeOptions(fsync=False)
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["embedded", "etcd"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncClient]:
    if request.param == "embedded":
        made = open_sync(tmp_path / "data", FAST)
    else:
        made = connect_sync(f"http://{request.getfixturevalue('etcd')}")
    with made as client:
        client.delete(b"s/", prefix_end(b"s/"))
        yield client


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kvstore client"]


def test_every_call(client: SyncClient) -> None:
    first = client.put(b"s/a", b"1").header.revision
    assert client.put(b"s/a", b"2", prev_kv=True).prev_kv is not None
    found = client.get(b"s/a")
    assert found is not None
    assert (found.value, found.version) == (b"2", 2)
    assert client.range(Range(b"s/", prefix_end(b"s/"))).count == 1
    compare = Compare(b"s/a", CompareTarget.VALUE, CompareResult.EQUAL, b"2")
    assert client.txn([compare], [Put(b"s/b", b"3")]).succeeded
    lease = client.lease_grant(60)
    client.put(b"s/c", b"", lease=lease.id)
    assert lease.id in client.leases().leases
    assert client.lease_keep_alive(lease.id).ttl == 60
    assert client.lease_time_to_live(lease.id, keys=True).keys == [b"s/c"]
    client.lease_revoke(lease.id)
    with pytest.raises(LeaseNotFound):
        client.lease_revoke(lease.id)
    assert client.delete(b"s/", prefix_end(b"s/")).deleted == 2
    client.compact(first + 1)
    with pytest.raises(Compacted):
        client.get(b"s/a", revision=first)
    assert client.status().db_size > 0
    assert len(client.member_list().members) == 1
    assert client.put.__doc__ == "Write a key. Raises InvalidArgument, LeaseNotFound or NoSpace."


def test_watching(client: SyncClient) -> None:
    written = [client.put(b"s/k", b"%d" % number).header.revision for number in range(5)]
    with client.watch(b"s/k", start_revision=written[0], resume=True) as watch:
        assert watch.created_revision == written[-1]
        seen = [event.kv.mod_revision for response in watch.within(0.3) for event in response.events]
        assert seen == written
        with pytest.raises(TimeoutError):
            watch.next(0.01)
        last = client.put(b"s/k", b"last").header.revision
        assert watch.next(10).events[0].kv.mod_revision == last
        watch.request_progress()
        assert watch.next().events == []
        later = threading.Thread(target=client.put, args=(b"s/k", b"later"))
        later.start()
        for response in watch:
            assert response.events[0].kv.value == b"later"
            break
        later.join()
    with pytest.raises(Unavailable):
        watch.next()


def test_many_threads_share_a_client(client: SyncClient) -> None:
    with ThreadPoolExecutor(16) as pool, client.watch(b"s/", prefix_end(b"s/")) as watch:
        revisions = list(pool.map(lambda number: client.put(b"s/%d" % number, b"").header.revision, range(200)))
        seen: list[int] = []
        while len(seen) < 200:
            seen += [event.kv.mod_revision for event in watch.next(10).events]
    assert seen == sorted(revisions)
    assert len(set(seen)) == 200


def test_closing_ends_calls_in_other_threads_and_the_thread(client: SyncClient) -> None:
    before = len(client_threads())
    outcome: list[BaseException] = []
    with client.watch(b"s/never") as watch:

        def wait() -> None:
            try:
                watch.next()
            except Unavailable as error:
                outcome.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        client.put(b"s/a", b"")
        client.close()
        client.close()
        waiting.join(10)
        assert len(outcome) == 1
    assert len(client_threads()) == before - 1
    for call in (client.status, client.leases, lambda: client.get(b"s/a"), lambda: client.watch(b"s/a")):
        with pytest.raises(Unavailable):
            call()


def test_a_store_that_cannot_be_opened_leaves_nothing(tmp_path: Path) -> None:
    with open_sync(tmp_path, FAST) as first:
        with pytest.raises(DataDirInUse):
            open_sync(tmp_path, FAST)
        first.put(b"a", b"1")
    with open_sync(str(tmp_path), FAST) as again:
        assert again.get(b"a") is not None
    assert client_threads() == []
    with pytest.raises(ValueError, match="invalid endpoint"):
        connect_sync("nonsense")
    assert client_threads() == []


def test_nobody_there() -> None:
    with connect_sync(f"127.0.0.1:{free_port()}") as client, pytest.raises(Unavailable, match="cannot connect"):
        client.get(b"a")


async def test_beside_an_event_loop_of_the_program(tmp_path: Path, etcd: str) -> None:
    """grpc.aio on two loops of one process."""
    from kvstore.client import RemoteClient

    with connect_sync(etcd) as blocking:
        async with RemoteClient([etcd]) as client:
            puts = [client.put(b"s/loop", b"%d" % number) for number in range(50)]
            others = [asyncio.to_thread(blocking.put, b"s/thread", b"%d" % number) for number in range(50)]
            answers = await asyncio.gather(*puts, *others)
    assert len({answer.header.revision for answer in answers}) == 100


def test_calling_from_its_own_loop_is_an_error_not_a_deadlock(tmp_path: Path) -> None:
    with open_sync(tmp_path, FAST) as client:

        async def call() -> None:
            client.get(b"a")

        with pytest.raises(RuntimeError, match="would never end"):
            client._portal.run(call)


def test_after_a_fork_it_says_so(tmp_path: Path) -> None:
    with open_sync(tmp_path, FAST) as client:
        client.put(b"a", b"1")
        portal = client._portal
        portal._pid = os.getpid() + 1  # what a forked child finds
        with pytest.raises(RuntimeError, match="forked"):
            client.get(b"a")
        portal._pid = os.getpid()
    assert multiprocessing.active_children() == []


SCRIPT = """
import sys
from kvstore import open_sync, connect_sync
client = open_sync(sys.argv[2]) if sys.argv[1] == "embedded" else connect_sync(sys.argv[2])
client.put(b"k", b"v")
try:
    with client.watch(b"never") as watch:
        print("watching", flush=True)
        for _ in watch:
            pass
except KeyboardInterrupt:
    print("interrupted", client.get(b"k").value.decode(), flush=True)
"""


@pytest.mark.parametrize("store", ["embedded", "etcd"])
def test_ctrl_c_ends_what_blocks_and_the_client_goes_on(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = str(tmp_path / "data") if store == "embedded" else request.getfixturevalue("etcd")
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, store, where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "watching\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (out, child.returncode) == ("interrupted v\n", 0), err
    assert "Traceback" not in err, "it was not closed by the script, but at its exit"
