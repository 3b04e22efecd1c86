"""A session of python-etcd3, unmodified: `python -m tests.clients.python_etcd3_session PORT`.

A process of its own, because its messages were generated for a protobuf runtime of long ago and work only with the
pure-Python one. It has no session with a user: today's gRPC refuses to send its tokens without TLS.
"""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import etcd3
import pytest

TIMEOUT = 10.0


def keys(client: Any) -> None:
    client.put("/a/1", "one")
    client.put("/a/2", "two")
    client.put("/b", "other")
    value, meta = client.get("/a/1")
    assert (value, meta.key, meta.version) == (b"one", b"/a/1", 1)
    assert client.get("/none") == (None, None)
    assert [meta.key for _, meta in client.get_prefix("/a/")] == [b"/a/1", b"/a/2"]
    assert [meta.key for _, meta in client.get_prefix("/a/", sort_order="descend")] == [b"/a/2", b"/a/1"]
    assert [meta.key for _, meta in client.get_range("/a/2", "/c")] == [b"/a/2", b"/b"]
    assert client.get_prefix_response("/a/", keys_only=True).count == 2
    assert client.put("/a/1", "uno", prev_kv=True).prev_kv.value == b"one"
    assert client.put_if_not_exists("/c", "1")
    assert not client.put_if_not_exists("/c", "2")
    assert client.replace("/c", "1", "3")
    assert not client.replace("/c", "1", "4")
    assert client.delete("/c")
    assert not client.delete("/c")
    assert client.delete_prefix("/a/").deleted == 2


def transactions(client: Any) -> None:
    t = client.transactions
    client.put("t", "1")
    succeeded, answers = client.transaction(
        compare=[t.value("t") == "1", t.version("t") > 0, t.create("none") == 0],
        success=[t.put("t", "2"), t.get("t")],
        failure=[t.delete("t")],
    )
    assert succeeded
    assert answers[1][0][0] == b"2"
    nested = t.txn(compare=[t.version("inner") == 0], success=[t.put("inner", "1")], failure=[])
    succeeded, _ = client.transaction(compare=[t.value("t") == "1"], success=[], failure=[nested])
    assert not succeeded
    assert client.get("inner")[0] == b"1"


def leases_and_locks(client: Any) -> None:
    lease = client.lease(300)
    client.put("leased", "1", lease=lease)
    assert lease.granted_ttl == 300
    assert list(lease.keys) == [b"leased"]
    (renewed,) = lease.refresh()
    assert renewed.TTL == 300
    lease.revoke()
    assert client.get("leased") == (None, None)
    first, second = client.lock("the lock", ttl=60), client.lock("the lock", ttl=60)
    assert first.acquire(timeout=TIMEOUT)
    assert first.is_acquired()
    # Waiting for a lock fails inside the client, whose retries do not fit the tenacity of today.
    assert first.release()
    assert second.acquire(timeout=TIMEOUT)
    assert second.is_acquired()
    assert second.release()


def watches(client: Any) -> None:
    events, cancel = client.watch_prefix("/w/", prev_kv=True)
    client.put("/w/1", "a")
    client.put("/w/1", "b")
    client.delete("/w/1")
    put, second, delete = (next(events) for _ in range(3))
    assert isinstance(put, etcd3.events.PutEvent)
    assert (put.key, put.value, second.prev_value) == (b"/w/1", b"a", b"a")
    assert isinstance(delete, etcd3.events.DeleteEvent)
    cancel()
    assert list(events) == []
    first = client.put("/h", "1").header.revision
    last = client.put("/h", "2").header.revision
    history, cancel = client.watch("/h", start_revision=first)
    assert [next(history).value for _ in range(2)] == [b"1", b"2"]
    cancel()
    client.compact(last, physical=True)
    late, cancel = client.watch("/h", start_revision=first)
    with pytest.raises(etcd3.exceptions.RevisionCompactedError) as refused:
        next(late)
    assert refused.value.compacted_revision == last
    client.put("/once", "0")
    threading.Timer(0.1, client.put, ("/once", "1")).start()
    assert client.watch_once("/once", timeout=TIMEOUT).value == b"1"


def maintenance(client: Any) -> None:
    status = client.status()
    (member,) = client.members
    assert status.leader.id == member.id
    assert list(client.list_alarms()) == []
    (alarm,) = client.create_alarm(member.id)
    assert alarm.member_id == member.id
    assert list(client.disarm_alarm(member.id))
    client.defragment()
    assert client.hash()
    blob = io.BytesIO()
    client.snapshot(blob)
    assert blob.tell() % 512 == 32


def main(port: int) -> None:
    client = etcd3.client("127.0.0.1", port, timeout=TIMEOUT)
    for part in (keys, transactions, leases_and_locks, watches, maintenance):
        part(client)
    client.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
    print("done")
