"""Every method served, by its full name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.message import Message

from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.cluster import ClusterService
from kvstore.services.health import HealthService
from kvstore.services.kv import KVService
from kvstore.services.lease import LeaseService
from kvstore.services.maintenance import MaintenanceService
from kvstore.services.watch import WatchService
from kvstore.services.wire import Headers

Send: TypeAlias = Callable[[bytes], Awaitable[None]]


class Unary(NamedTuple):
    """One request, one encoded answer."""

    request: type[Message]
    call: Callable[[Any], Awaitable[bytes]]


class Stream(NamedTuple):
    """A stream of requests, and a `send` for each encoded answer, which waits while the client does not read."""

    request: type[Message]
    call: Callable[[AsyncIterator[Any], Send], Awaitable[None]]


Route: TypeAlias = Unary | Stream


def routes(node: Node, client_urls: Sequence[str], max_message_bytes: int) -> dict[str, Route]:
    """The methods of a node: `"/package.Service/Method"` -> how to call it.

    `client_urls` is what the member list shows; it may be filled in later. Watches that ask for fragments get
    responses of up to `max_message_bytes`.
    """
    headers = Headers(node)
    kv = KVService(node, headers)
    watch = WatchService(node, headers, max_message_bytes)
    lease = LeaseService(node, headers)
    maintenance = MaintenanceService(node, headers)
    cluster = ClusterService(node, headers, client_urls)
    health = HealthService()
    return {
        "/etcdserverpb.KV/Range": Unary(pb.RangeRequest, kv.range),
        "/etcdserverpb.KV/Put": Unary(pb.PutRequest, kv.put),
        "/etcdserverpb.KV/DeleteRange": Unary(pb.DeleteRangeRequest, kv.delete_range),
        "/etcdserverpb.KV/Txn": Unary(pb.TxnRequest, kv.txn),
        "/etcdserverpb.KV/Compact": Unary(pb.CompactionRequest, kv.compact),
        "/etcdserverpb.Watch/Watch": Stream(pb.WatchRequest, watch.watch),
        "/etcdserverpb.Lease/LeaseGrant": Unary(pb.LeaseGrantRequest, lease.grant),
        "/etcdserverpb.Lease/LeaseRevoke": Unary(pb.LeaseRevokeRequest, lease.revoke),
        "/etcdserverpb.Lease/LeaseKeepAlive": Stream(pb.LeaseKeepAliveRequest, lease.keep_alive),
        "/etcdserverpb.Lease/LeaseTimeToLive": Unary(pb.LeaseTimeToLiveRequest, lease.time_to_live),
        "/etcdserverpb.Lease/LeaseLeases": Unary(pb.LeaseLeasesRequest, lease.leases),
        "/etcdserverpb.Maintenance/Status": Unary(pb.StatusRequest, maintenance.status),
        "/etcdserverpb.Maintenance/Alarm": Unary(pb.AlarmRequest, maintenance.alarm),
        "/etcdserverpb.Cluster/MemberList": Unary(pb.MemberListRequest, cluster.member_list),
        "/grpc.health.v1.Health/Check": Unary(pb.HealthCheckRequest, health.check),
        "/grpc.health.v1.Health/Watch": Stream(pb.HealthCheckRequest, health.watch),
    }
