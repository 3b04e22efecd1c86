"""Every method served, by its full name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.message import Message

from kvstore.auth import Auth
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.access import enforced
from kvstore.services.auth import AuthService
from kvstore.services.cluster import ClusterService
from kvstore.services.election import ElectionService
from kvstore.services.health import HealthService
from kvstore.services.kv import KVService
from kvstore.services.lease import LeaseService
from kvstore.services.lock import LockService
from kvstore.services.maintenance import MaintenanceService
from kvstore.services.range_stream import RangeStreamService
from kvstore.services.reflection import ReflectionService
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
    lock = LockService(node, headers)
    election = ElectionService(node, headers)
    range_stream = RangeStreamService(node, headers)
    auth = AuthService(node.auth, headers, node.options.max_request_bytes)
    table: dict[str, Route] = {
        "/etcdserverpb.KV/Range": Unary(pb.RangeRequest, kv.range),
        "/etcdserverpb.KV/Put": Unary(pb.PutRequest, kv.put),
        "/etcdserverpb.KV/DeleteRange": Unary(pb.DeleteRangeRequest, kv.delete_range),
        "/etcdserverpb.KV/Txn": Unary(pb.TxnRequest, kv.txn),
        "/etcdserverpb.KV/Compact": Unary(pb.CompactionRequest, kv.compact),
        "/etcdserverpb.KV/RangeStream": Stream(pb.RangeRequest, range_stream.range_stream),
        "/etcdserverpb.Watch/Watch": Stream(pb.WatchRequest, watch.watch),
        "/etcdserverpb.Lease/LeaseGrant": Unary(pb.LeaseGrantRequest, lease.grant),
        "/etcdserverpb.Lease/LeaseRevoke": Unary(pb.LeaseRevokeRequest, lease.revoke),
        "/etcdserverpb.Lease/LeaseKeepAlive": Stream(pb.LeaseKeepAliveRequest, lease.keep_alive),
        "/etcdserverpb.Lease/LeaseTimeToLive": Unary(pb.LeaseTimeToLiveRequest, lease.time_to_live),
        "/etcdserverpb.Lease/LeaseLeases": Unary(pb.LeaseLeasesRequest, lease.leases),
        "/etcdserverpb.Maintenance/Status": Unary(pb.StatusRequest, maintenance.status),
        "/etcdserverpb.Maintenance/Alarm": Unary(pb.AlarmRequest, maintenance.alarm),
        "/etcdserverpb.Maintenance/Defragment": Unary(pb.DefragmentRequest, maintenance.defragment),
        "/etcdserverpb.Maintenance/Hash": Unary(pb.HashRequest, maintenance.hash),
        "/etcdserverpb.Maintenance/HashKV": Unary(pb.HashKVRequest, maintenance.hash_kv),
        "/etcdserverpb.Maintenance/Snapshot": Stream(pb.SnapshotRequest, maintenance.snapshot),
        "/etcdserverpb.Maintenance/MoveLeader": Unary(pb.MoveLeaderRequest, maintenance.move_leader),
        "/etcdserverpb.Maintenance/Downgrade": Unary(pb.DowngradeRequest, maintenance.downgrade),
        "/etcdserverpb.Cluster/MemberList": Unary(pb.MemberListRequest, cluster.member_list),
        "/etcdserverpb.Cluster/MemberAdd": Unary(pb.MemberAddRequest, cluster.member_add),
        "/etcdserverpb.Cluster/MemberRemove": Unary(pb.MemberRemoveRequest, cluster.member_remove),
        "/etcdserverpb.Cluster/MemberUpdate": Unary(pb.MemberUpdateRequest, cluster.member_update),
        "/etcdserverpb.Cluster/MemberPromote": Unary(pb.MemberPromoteRequest, cluster.member_promote),
        "/etcdserverpb.Auth/AuthEnable": Unary(pb.AuthEnableRequest, auth.enable),
        "/etcdserverpb.Auth/AuthDisable": Unary(pb.AuthDisableRequest, auth.disable),
        "/etcdserverpb.Auth/AuthStatus": Unary(pb.AuthStatusRequest, auth.status),
        "/etcdserverpb.Auth/Authenticate": Unary(pb.AuthenticateRequest, auth.authenticate),
        "/etcdserverpb.Auth/UserAdd": Unary(pb.AuthUserAddRequest, auth.user_add),
        "/etcdserverpb.Auth/UserGet": Unary(pb.AuthUserGetRequest, auth.user_get),
        "/etcdserverpb.Auth/UserList": Unary(pb.AuthUserListRequest, auth.user_list),
        "/etcdserverpb.Auth/UserDelete": Unary(pb.AuthUserDeleteRequest, auth.user_delete),
        "/etcdserverpb.Auth/UserChangePassword": Unary(pb.AuthUserChangePasswordRequest, auth.user_change_password),
        "/etcdserverpb.Auth/UserGrantRole": Unary(pb.AuthUserGrantRoleRequest, auth.user_grant_role),
        "/etcdserverpb.Auth/UserRevokeRole": Unary(pb.AuthUserRevokeRoleRequest, auth.user_revoke_role),
        "/etcdserverpb.Auth/RoleAdd": Unary(pb.AuthRoleAddRequest, auth.role_add),
        "/etcdserverpb.Auth/RoleGet": Unary(pb.AuthRoleGetRequest, auth.role_get),
        "/etcdserverpb.Auth/RoleList": Unary(pb.AuthRoleListRequest, auth.role_list),
        "/etcdserverpb.Auth/RoleDelete": Unary(pb.AuthRoleDeleteRequest, auth.role_delete),
        "/etcdserverpb.Auth/RoleGrantPermission": Unary(pb.AuthRoleGrantPermissionRequest, auth.role_grant_permission),
        "/etcdserverpb.Auth/RoleRevokePermission": Unary(
            pb.AuthRoleRevokePermissionRequest, auth.role_revoke_permission
        ),
        "/v3lockpb.Lock/Lock": Unary(pb.LockRequest, lock.lock),
        "/v3lockpb.Lock/Unlock": Unary(pb.UnlockRequest, lock.unlock),
        "/v3electionpb.Election/Campaign": Unary(pb.CampaignRequest, election.campaign),
        "/v3electionpb.Election/Proclaim": Unary(pb.ProclaimRequest, election.proclaim),
        "/v3electionpb.Election/Leader": Unary(pb.LeaderRequest, election.leader),
        "/v3electionpb.Election/Observe": Stream(pb.LeaderRequest, election.observe),
        "/v3electionpb.Election/Resign": Unary(pb.ResignRequest, election.resign),
        "/grpc.health.v1.Health/Check": Unary(pb.HealthCheckRequest, health.check),
        "/grpc.health.v1.Health/Watch": Stream(pb.HealthCheckRequest, health.watch),
    }
    reflection = ReflectionService({path.split("/")[1] for path in table})
    for version in reflection.versions:
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        table[method] = Stream(pb.ServerReflectionRequest, reflection.info)
    return {path: _behind_its_rule(path, route, node.auth) for path, route in table.items()}


def _behind_its_rule(path: str, route: Route, auth: Auth) -> Route:
    return route._replace(call=enforced(path, route.call, auth, streams=isinstance(route, Stream)))
