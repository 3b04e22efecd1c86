"""The same generated operations against a real etcd and against our server, compared field by field.

`python -m tests.kvstore.differential --ops 100000 --seed 7` runs as long as you like; the first difference ends it
with the operation, both answers, and the seed and number of operations that show it again.

Masked: cluster, member and term of headers, and seconds left of a lease. Not generated, because etcd 3.5.1 answers
differently from later releases: see docs/differences.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import Message

from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.etcd_process import running_etcd

KEYS = [b"a", b"a\x00", b"aa", b"ab", b"b", b"b/1", b"b/2", b"c", b"d", b"\x00", b"\xff", b"\xff\xff"]
LEASES = [1, 2, 3, 77, -9]
WATCH_TIMEOUT = 10.0

ANSWERS: dict[str, type[Message]] = {
    "/etcdserverpb.KV/Range": pb.RangeResponse,
    "/etcdserverpb.KV/Put": pb.PutResponse,
    "/etcdserverpb.KV/DeleteRange": pb.DeleteRangeResponse,
    "/etcdserverpb.KV/Txn": pb.TxnResponse,
    "/etcdserverpb.KV/Compact": pb.CompactionResponse,
    "/etcdserverpb.Lease/LeaseGrant": pb.LeaseGrantResponse,
    "/etcdserverpb.Lease/LeaseRevoke": pb.LeaseRevokeResponse,
    "/etcdserverpb.Lease/LeaseTimeToLive": pb.LeaseTimeToLiveResponse,
    "/etcdserverpb.Lease/LeaseLeases": pb.LeaseLeasesResponse,
    "/etcdserverpb.Lease/LeaseKeepAlive": pb.LeaseKeepAliveResponse,
    "/etcdserverpb.Maintenance/Alarm": pb.AlarmResponse,
    "/etcdserverpb.Maintenance/Status": pb.StatusResponse,
    "/etcdserverpb.Maintenance/Defragment": pb.DefragmentResponse,
    "/etcdserverpb.Maintenance/Hash": pb.HashResponse,
    "/etcdserverpb.Maintenance/HashKV": pb.HashKVResponse,
    "/etcdserverpb.Maintenance/MoveLeader": pb.MoveLeaderResponse,
    "/etcdserverpb.Maintenance/Downgrade": pb.DowngradeResponse,
    "/etcdserverpb.Cluster/MemberList": pb.MemberListResponse,
    "/etcdserverpb.Cluster/MemberAdd": pb.MemberAddResponse,
    "/etcdserverpb.Cluster/MemberRemove": pb.MemberRemoveResponse,
    "/etcdserverpb.Cluster/MemberUpdate": pb.MemberUpdateResponse,
    "/etcdserverpb.Cluster/MemberPromote": pb.MemberPromoteResponse,
    "/v3lockpb.Lock/Lock": pb.LockResponse,
    "/v3lockpb.Lock/Unlock": pb.UnlockResponse,
    "/v3electionpb.Election/Campaign": pb.CampaignResponse,
    "/v3electionpb.Election/Proclaim": pb.ProclaimResponse,
    "/v3electionpb.Election/Leader": pb.LeaderResponse,
    "/v3electionpb.Election/Resign": pb.ResignResponse,
}
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
WATCH = "/etcdserverpb.Watch/Watch"
HASH_KV = "/etcdserverpb.Maintenance/HashKV"

Answer: TypeAlias = "Message | tuple[grpc.StatusCode, str] | str"


class DifferenceError(AssertionError):
    """The two servers disagree."""


class Operation(NamedTuple):
    """One call."""

    path: str
    request: Message


# ---- what is asked --------------------------------------------------------------------------------------------------


class Generator:
    """Operations on few keys, with revisions and leases near the interesting ones. The same seed, the same sequence,
    as long as the answers that it is told of are the same."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.revision = 1
        self.compacted = 0
        self.compactions: set[int] = set()

    def next(self) -> Operation:
        make: Callable[[], Operation] = self._weighted(
            (30, self._put),
            (10, self._delete),
            (25, self._range),
            (25, self._txn),
            (2, self._compact),
            (2, self._grant),
            (1, self._revoke),
            (1, self._keep_alive),
            (2, self._time_to_live),
            (0.5, self._leases),
            (1, self._watch),
            (0.5, self._hash_kv),
            (0.2, self._alarms),
            (0.2, self._status),
        )
        return make()

    def next_of(self, *kinds: str) -> Operation:
        """An operation of one of these kinds, by the names of the methods that make them."""
        make: Callable[[], Operation] = getattr(self, f"_{self._rng.choice(kinds)}")
        return make()

    def told(self, operation: Operation, answer: Answer) -> None:
        """Learn the state from an answer."""
        header = getattr(answer, "header", None)
        if header is not None:
            self.revision = max(self.revision, header.revision)
        if isinstance(answer, pb.CompactionResponse):
            assert isinstance(operation.request, pb.CompactionRequest)
            self.compacted = operation.request.revision
            self.compactions.add(self.compacted)

    def _weighted(self, *choices: tuple[float, Any]) -> Any:
        return self._rng.choices([choice for _, choice in choices], [weight for weight, _ in choices])[0]

    def _maybe(self, chance: float) -> bool:
        return self._rng.random() < chance

    def _key(self) -> bytes:
        return b"" if self._maybe(0.005) else self._rng.choice(KEYS)

    def _end(self) -> bytes:
        return bytes(self._weighted((6, b""), (1, b"\x00"), (3, self._rng.choice(KEYS))))

    def _value(self) -> bytes:
        return bytes(self._weighted((1, b""), (8, self._rng.choice([b"x", b"y", b"z"])), (1, self._rng.randbytes(300))))

    def _lease_id(self) -> int:
        return int(self._weighted((10, self._rng.choice(LEASES)), (1, 12345)))

    def _some_revision(self) -> int:
        near = self._rng.choice([self.revision, self.compacted]) + self._rng.randint(-2, 2)
        between = self._rng.randint(min(self.compacted, self.revision), self.revision)
        return int(self._weighted((2, near), (3, between), (0.2, -1), (0.2, 1 << 50)))

    def _range_request(self, *, sorted_by_anything: bool) -> pb.RangeRequest:
        rng = self._rng
        request = pb.RangeRequest(key=self._key(), range_end=self._end())
        if self._maybe(0.4):
            request.limit = rng.choice([-1, 1, 2, 3, 5, 100])
        if self._maybe(0.3):
            request.revision = self._some_revision()
        if self._maybe(0.4):
            request.sort_order = rng.randint(0, 2)
            request.sort_target = rng.randint(0, 4) if sorted_by_anything else 0
        request.serializable = self._maybe(0.1)
        request.keys_only = self._maybe(0.1)
        request.count_only = self._maybe(0.1)
        for bound in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if self._maybe(0.07):
                setattr(request, bound, self._some_revision())
        return request

    def _put_request(self) -> pb.PutRequest:
        request = pb.PutRequest(key=self._key(), value=self._value(), prev_kv=self._maybe(0.3))
        if self._maybe(0.2):
            request.lease = self._lease_id()
        if self._maybe(0.08):
            request.ignore_value = True
            request.value = b"" if self._maybe(0.9) else b"v"
        if self._maybe(0.08):
            request.ignore_lease = True
            request.lease = 0 if self._maybe(0.9) else 1
        return request

    def _delete_request(self) -> pb.DeleteRangeRequest:
        end = self._end() if self._maybe(0.5) else b""
        return pb.DeleteRangeRequest(key=self._key(), range_end=end, prev_kv=self._maybe(0.3))

    def _compare(self) -> pb.Compare:
        rng = self._rng
        compare = pb.Compare(key=self._key(), result=rng.randint(0, 3), target=rng.randint(0, 4))
        if self._maybe(0.2):
            compare.range_end = self._end()
        arm = ("version", "create_revision", "mod_revision", "value", "lease")[compare.target]
        if self._maybe(0.05):
            arm = rng.choice(["version", "create_revision", "mod_revision", "value", "lease", ""])
        if arm == "value":
            compare.value = self._value()
        elif arm == "version":
            compare.version = rng.randint(0, 3)
        elif arm == "lease":
            compare.lease = self._lease_id()
        elif arm:
            setattr(compare, arm, self._some_revision())
        return compare

    def _op(self, depth: int) -> pb.RequestOp:
        if self._maybe(0.003):
            return pb.RequestOp()
        kind = self._weighted((5, "put"), (3, "range"), (2, "delete"), (1.5 if depth < 3 else 0, "txn"))
        if kind == "put":
            return pb.RequestOp(request_put=self._put_request())
        if kind == "range":
            return pb.RequestOp(request_range=self._range_request(sorted_by_anything=False))
        if kind == "delete":
            return pb.RequestOp(request_delete_range=self._delete_request())
        return pb.RequestOp(request_txn=self._txn_request(depth + 1))

    def _txn_request(self, depth: int) -> pb.TxnRequest:
        rng = self._rng
        most = 3 if depth == 1 else 2
        request = pb.TxnRequest(
            compare=[self._compare() for _ in range(rng.randint(0, 2))],
            success=[self._op(depth) for _ in range(rng.randint(0, most))],
            failure=[self._op(depth) for _ in range(rng.randint(0, most))],
        )
        if depth == 1 and self._maybe(0.01):
            request.success.extend([pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))] * rng.randint(120, 130))
        return request

    def _put(self) -> Operation:
        return Operation("/etcdserverpb.KV/Put", self._put_request())

    def _delete(self) -> Operation:
        return Operation("/etcdserverpb.KV/DeleteRange", self._delete_request())

    def _range(self) -> Operation:
        return Operation("/etcdserverpb.KV/Range", self._range_request(sorted_by_anything=True))

    def _txn(self) -> Operation:
        request = self._txn_request(1)
        ops = list(_flat(request))
        if any(op.HasField("request_delete_range") for op in ops):
            # etcd dies of a put that keeps the value of a key which the same transaction has deleted.
            for op in ops:
                if op.HasField("request_put"):
                    op.request_put.ignore_value = op.request_put.ignore_lease = False
        return Operation("/etcdserverpb.KV/Txn", request)

    def _compact(self) -> Operation:
        request = pb.CompactionRequest(revision=self._some_revision(), physical=self._maybe(0.5))
        return Operation("/etcdserverpb.KV/Compact", request)

    def _grant(self) -> Operation:
        ttl = self._weighted((20, self._rng.randint(5_000, 9_000)), (1, 9_000_000_001))
        return Operation("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl, ID=self._rng.choice(LEASES)))

    def _revoke(self) -> Operation:
        return Operation("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=self._lease_id()))

    def _keep_alive(self) -> Operation:
        return Operation(KEEP_ALIVE, pb.LeaseKeepAliveRequest(ID=self._lease_id()))

    def _time_to_live(self) -> Operation:
        request = pb.LeaseTimeToLiveRequest(ID=self._lease_id(), keys=self._maybe(0.5))
        return Operation("/etcdserverpb.Lease/LeaseTimeToLive", request)

    def _leases(self) -> Operation:
        return Operation("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesRequest())

    def _hash_kv(self) -> Operation:
        # At a revision that was compacted etcd 3.5.1 refuses, later releases give the hash that the compaction left.
        request = pb.HashKVRequest(revision=self._weighted((1, 0), (3, self._some_revision()), (0.2, 1 << 50)))
        if request.revision in self.compactions:
            request.revision = 0
        return Operation(HASH_KV, request)

    def _alarms(self) -> Operation:
        return Operation("/etcdserverpb.Maintenance/Alarm", pb.AlarmRequest())

    def _status(self) -> Operation:
        return Operation("/etcdserverpb.Maintenance/Status", pb.StatusRequest())

    def _watch(self) -> Operation:
        """A watch of history: its answers are read until the present."""
        request = pb.WatchCreateRequest(
            key=self._key(),
            range_end=self._end(),
            start_revision=self._rng.randint(1, self.revision),
            prev_kv=self._maybe(0.5),
            filters=self._weighted((4, []), (1, [0]), (1, [1])),
            watch_id=self._weighted((3, 0), (1, 5)),
            fragment=self._maybe(0.2),
        )
        return Operation(WATCH, request)


def _flat(request: pb.TxnRequest) -> Iterator[pb.RequestOp]:
    for op in (*request.success, *request.failure):
        if op.HasField("request_txn"):
            yield from _flat(op.request_txn)
        else:
            yield op


# ---- what is answered -----------------------------------------------------------------------------------------------


class Side:
    """One of the two servers."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, options=(("grpc.max_receive_message_length", -1),))
        self._calls: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def close(self) -> None:
        await self._channel.close(None)

    async def call(self, operation: Operation) -> Answer:
        path, request = operation
        try:
            if path == KEEP_ALIVE:
                data = await self._one_of_stream(path, request)
            else:
                if path not in self._calls:
                    self._calls[path] = self._channel.unary_unary(path, None, None)
                data = await self._calls[path](request.SerializeToString())
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return ANSWERS[path].FromString(data)

    async def keys_at(self, request: Message) -> bool:
        """Whether there is any key at the revision of a HashKV request, or the revision cannot be read."""
        assert isinstance(request, pb.HashKVRequest)
        everything = pb.RangeRequest(key=b"\0", range_end=b"\0", revision=request.revision, count_only=True)
        answer = await self.call(Operation("/etcdserverpb.KV/Range", everything))
        return not isinstance(answer, pb.RangeResponse) or answer.count > 0

    async def _one_of_stream(self, path: str, request: Message) -> bytes:
        stream = self._channel.stream_stream(path, None, None)(None)
        await stream.write(request.SerializeToString())
        data = await stream.read()
        assert isinstance(data, bytes)
        stream.cancel()
        return data

    async def watch(self, create: pb.WatchCreateRequest, like: Watched | None = None) -> Watched:
        """What a watch gives until it answers a progress request, or as much as another one that it is like.

        etcd 3.5.1 answers a progress request before it has sent the history, hence the second way.
        """
        stream = self._channel.stream_stream(WATCH, None, None)(None)
        await stream.write(pb.WatchRequest(create_request=create).SerializeToString())
        created: pb.WatchResponse | None = None
        canceled: pb.WatchResponse | None = None
        events: list[pb.Event] = []
        try:
            async with asyncio.timeout(WATCH_TIMEOUT):
                while canceled is None and not (
                    like and like.canceled is None and created and len(events) >= len(like.events)
                ):
                    data = await stream.read()
                    assert isinstance(data, bytes)
                    response = pb.WatchResponse.FromString(data)
                    if response.created:
                        created = response
                        if like is None:
                            progress = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
                            await stream.write(progress.SerializeToString())
                    elif not response.events and not response.canceled:
                        break
                    if response.canceled:
                        canceled = response
                    events += response.events
        except TimeoutError:
            pass
        finally:
            stream.cancel()
        return Watched(created, canceled, events)


class Watched(NamedTuple):
    """All that a watch gave."""

    created: pb.WatchResponse | None
    canceled: pb.WatchResponse | None
    events: list[pb.Event]

    def text(self) -> str:
        lines = [f"created: {_masked_text(self.created)}", f"canceled: {_masked_text(self.canceled)}"]
        return "\n".join([*lines, *(f"event: {event}" for event in self.events)])


def _masked_text(message: Message | None) -> str:
    if message is None:
        return "no"
    _mask(message)
    return str(message)


def _mask(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.name == "ResponseHeader":
            value.cluster_id = int(value.cluster_id != 0)
            value.member_id = int(value.member_id != 0)
            value.raft_term = int(value.raft_term != 0)
        else:
            for each in [value] if isinstance(value, Message) else value:
                _mask(each)


def normal(request: Message, answer: Answer) -> str:
    """An answer as text, without what may differ."""
    if not isinstance(answer, Message):
        return repr(answer)
    _mask(answer)
    if isinstance(answer, pb.LeaseTimeToLiveResponse):
        answer.TTL = min(answer.TTL, 1)
        answer.keys.sort()
    elif isinstance(answer, pb.LeaseLeasesResponse):
        answer.leases.sort(key=lambda lease: lease.ID)
    elif isinstance(answer, pb.StatusResponse):
        leads = answer.leader != 0 and answer.raftTerm != 0 and answer.raftIndex >= answer.raftAppliedIndex > 0
        sized = answer.dbSize >= answer.dbSizeInUse > 0 and bool(answer.version)
        return f"{answer.header} {leads} {sized} {sorted(answer.errors)} {answer.isLearner}"
    elif isinstance(answer, pb.RangeResponse):
        assert isinstance(request, pb.RangeRequest)
        if request.sort_target != pb.RangeRequest.KEY:
            return _normal_sorted(request, answer)
    return str(answer)


def _normal_sorted(request: pb.RangeRequest, answer: pb.RangeResponse) -> str:
    # Neither sort says how it orders equals: which ones a limit keeps may differ, what they are sorted by may not.
    fields = {1: "version", 2: "create_revision", 3: "mod_revision", 4: "value"}
    measured = [getattr(kv, fields[request.sort_target]) for kv in answer.kvs]
    kvs = [] if request.limit > 0 else sorted(map(str, answer.kvs))
    return f"{answer.header} more {answer.more} count {answer.count} by {measured} {kvs}"


# ---- the run --------------------------------------------------------------------------------------------------------


async def compare(etcd: str, ours: str, operations: int, seed: int) -> None:
    """Run `operations` against both. Raises `DifferenceError` at the first one that is answered differently."""
    generator = Generator(random.Random(seed))
    sides = Side(etcd), Side(ours)
    try:
        for number in range(1, operations + 1):
            operation = generator.next()
            if isinstance(operation.request, pb.WatchCreateRequest):
                mine = await sides[1].watch(operation.request)
                theirs = await sides[0].watch(operation.request, mine)
                texts = [theirs.text(), mine.text()]
            else:
                if operation.path == HASH_KV and not await sides[0].keys_at(operation.request):
                    # Of an empty store etcd hashes what a compaction has not removed yet.
                    continue
                answers = [await side.call(operation) for side in sides]
                generator.told(operation, answers[0])
                texts = [normal(operation.request, answer) for answer in answers]
            if texts[0] != texts[1]:
                raise DifferenceError(
                    f"operation {number} of seed {seed}: {operation.path}\n{operation.request}"
                    f"--- etcd\n{texts[0]}\n--- ours\n{texts[1]}"
                )
    finally:
        for side in sides:
            await side.close()


async def run(directory: Path, operations: int, seed: int) -> None:
    """Compare a fresh etcd and a fresh server of ours."""
    (directory / "etcd").mkdir()
    with running_etcd(directory / "etcd") as etcd:
        async with (
            Node.open(directory / "ours", NodeOptions(fsync=False)) as node,
            Server(node, ["http://127.0.0.1:0"]) as server,
        ):
            await compare(etcd, server.client_urls[0].removeprefix("http://"), operations, seed)


def _seeds(first: int | None) -> Iterator[int]:
    if first is not None:
        yield first
        return
    while True:
        yield random.randrange(1 << 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", type=int, default=20_000, help="operations for each seed")
    parser.add_argument("--seed", type=int, help="one seed; without it, new ones until a difference is found")
    arguments = parser.parse_args()
    for seed in _seeds(arguments.seed):
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(run(Path(directory), arguments.ops, seed))
        print(f"seed {seed}: {arguments.ops} operations, no difference", flush=True)


if __name__ == "__main__":
    main()
