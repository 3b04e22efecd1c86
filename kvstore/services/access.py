"""Who may call what, while authentication is enabled: one rule for each method.

A transport says who calls by setting `CALLER` in the task that serves the call; not setting it is calling without a
user. What is done in this process, without a service between, is trusted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from kvstore.api import prefix_end
from kvstore.auth import Auth, Caller
from kvstore.proto import messages as pb

CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039  # it is immutable

Rule: TypeAlias = Callable[[Auth, Caller, Any], None]
"""Raises if the caller may not make the request."""

AskedByUser: TypeAlias = Callable[[Auth, str, Any], None]


def caller_from(headers: Mapping[str, str], common_name: str = "") -> Caller:
    """The caller that the headers of a request, or its gRPC metadata, tell of.

    common_name: of the client's certificate, if that was verified.
    """
    token = headers.get("token")
    if token is None:
        token = headers.get("authorization")
        if token is not None and token[:7].lower() == "bearer ":
            token = token[7:]
    return Caller(token, common_name)


# ---- rules ----------------------------------------------------------------------------------------------------------


def anybody(auth: Auth, caller: Caller, request: Any) -> None:
    """No user is needed."""


def itself(auth: Auth, caller: Caller, request: Any) -> None:
    """The service checks, in the request's turn: its method takes the caller as its last argument.

    None says that authentication is disabled. A stream is always told; it asks `Auth.enabled` for each request.
    """


def any_user(auth: Auth, caller: Caller, request: Any) -> None:
    """Every user."""
    auth.check_user(auth.user_of(caller))


def root(auth: Auth, caller: Caller, request: Any) -> None:
    """Users with the role root."""
    auth.check_root(auth.user_of(caller))


def _user(check: AskedByUser) -> Rule:
    """Every user for whom the check passes."""
    return lambda auth, caller, request: check(auth, auth.user_of(caller), request)


def _alarm(auth: Auth, caller: Caller, request: pb.AlarmRequest) -> None:
    if request.action != pb.AlarmRequest.GET:  # which are raised is no secret: /health tells it, too
        root(auth, caller, request)


def _range_stream(auth: Auth, user: str, request: pb.RangeRequest) -> None:
    auth.check_read(user, request.key, request.range_end)


def _keep_alive(auth: Auth, user: str, request: pb.LeaseKeepAliveRequest) -> None:
    auth.check_user(user)
    auth.check_lease_write(user, request.ID)


def _time_to_live(auth: Auth, user: str, request: pb.LeaseTimeToLiveRequest) -> None:
    auth.check_user(user)
    if request.keys:
        auth.check_lease_read(user, request.ID)


def _user_get(auth: Auth, user: str, request: pb.AuthUserGetRequest) -> None:
    if request.name != user:
        auth.check_root(user)


def _role_get(auth: Auth, user: str, request: pb.AuthRoleGetRequest) -> None:
    if not auth.has_role(user, request.role):
        auth.check_root(user)


# What the recipes of v3lock and v3election do with keys.


def _queue(auth: Auth, user: str, name: bytes, lease_id: int) -> None:
    prefix = name + b"/"
    auth.check_read(user, prefix, prefix_end(prefix))
    if lease_id:
        auth.check_write(user, prefix + f"{lease_id:x}".encode())
        auth.check_lease_write(user, lease_id)
    else:  # the server makes a lease, so the key can be any
        auth.check_write(user, prefix, prefix_end(prefix))


def _lock(auth: Auth, user: str, request: pb.LockRequest) -> None:
    _queue(auth, user, request.name, request.lease)


def _unlock(auth: Auth, user: str, request: pb.UnlockRequest) -> None:
    auth.check_write(user, request.key)


def _campaign(auth: Auth, user: str, request: pb.CampaignRequest) -> None:
    _queue(auth, user, request.name, request.lease)


def _leading(auth: Auth, user: str, request: pb.ProclaimRequest | pb.ResignRequest) -> None:
    auth.check_read(user, request.leader.key)
    auth.check_write(user, request.leader.key)


def _leader(auth: Auth, user: str, request: pb.LeaderRequest) -> None:
    prefix = request.name + b"/"
    auth.check_read(user, prefix, prefix_end(prefix))


RULES: dict[str, Rule] = {
    "/etcdserverpb.KV/Range": itself,
    "/etcdserverpb.KV/RangeStream": _user(_range_stream),
    "/etcdserverpb.KV/Put": itself,
    "/etcdserverpb.KV/DeleteRange": itself,
    "/etcdserverpb.KV/Txn": itself,
    "/etcdserverpb.KV/Compact": root,
    "/etcdserverpb.Watch/Watch": itself,
    "/etcdserverpb.Lease/LeaseGrant": any_user,
    "/etcdserverpb.Lease/LeaseRevoke": itself,
    "/etcdserverpb.Lease/LeaseKeepAlive": _user(_keep_alive),
    "/etcdserverpb.Lease/LeaseTimeToLive": _user(_time_to_live),
    "/etcdserverpb.Lease/LeaseLeases": any_user,
    "/etcdserverpb.Cluster/MemberList": any_user,
    "/etcdserverpb.Cluster/MemberAdd": root,
    "/etcdserverpb.Cluster/MemberRemove": root,
    "/etcdserverpb.Cluster/MemberUpdate": root,
    "/etcdserverpb.Cluster/MemberPromote": root,
    "/etcdserverpb.Maintenance/Status": anybody,
    "/etcdserverpb.Maintenance/Alarm": _alarm,
    "/etcdserverpb.Maintenance/Defragment": root,
    "/etcdserverpb.Maintenance/Hash": root,
    "/etcdserverpb.Maintenance/HashKV": root,
    "/etcdserverpb.Maintenance/Snapshot": root,
    "/etcdserverpb.Maintenance/MoveLeader": root,
    "/etcdserverpb.Maintenance/Downgrade": root,
    "/etcdserverpb.Auth/AuthEnable": root,
    "/etcdserverpb.Auth/AuthDisable": root,
    "/etcdserverpb.Auth/AuthStatus": anybody,
    "/etcdserverpb.Auth/Authenticate": anybody,
    "/etcdserverpb.Auth/UserAdd": root,
    "/etcdserverpb.Auth/UserGet": _user(_user_get),
    "/etcdserverpb.Auth/UserList": root,
    "/etcdserverpb.Auth/UserDelete": root,
    "/etcdserverpb.Auth/UserChangePassword": root,
    "/etcdserverpb.Auth/UserGrantRole": root,
    "/etcdserverpb.Auth/UserRevokeRole": root,
    "/etcdserverpb.Auth/RoleAdd": root,
    "/etcdserverpb.Auth/RoleGet": _user(_role_get),
    "/etcdserverpb.Auth/RoleList": root,
    "/etcdserverpb.Auth/RoleDelete": root,
    "/etcdserverpb.Auth/RoleGrantPermission": root,
    "/etcdserverpb.Auth/RoleRevokePermission": root,
    "/v3lockpb.Lock/Lock": _user(_lock),
    "/v3lockpb.Lock/Unlock": _user(_unlock),
    "/v3electionpb.Election/Campaign": _user(_campaign),
    "/v3electionpb.Election/Proclaim": _user(_leading),
    "/v3electionpb.Election/Leader": _user(_leader),
    "/v3electionpb.Election/Observe": _user(_leader),
    "/v3electionpb.Election/Resign": _user(_leading),
    "/grpc.health.v1.Health/Check": anybody,
    "/grpc.health.v1.Health/Watch": anybody,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": anybody,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": anybody,
}
"""By the method's full name. A method that is not here is for root."""


# ---- enforcing them -------------------------------------------------------------------------------------------------


def enforced(
    path: str, call: Callable[..., Awaitable[Any]], auth: Auth, *, streams: bool
) -> Callable[..., Awaitable[Any]]:
    """The method `call` of a service, behind its rule.

    Its first argument is a request or, if it `streams`, an async iterator of requests, each of which the rule is for.
    While authentication is disabled this costs a look at a flag.
    """
    rule = RULES.get(path, root)
    if rule is anybody:
        return call
    if rule is itself:
        if streams:  # authentication may be enabled while it goes on
            return lambda requests, *rest: call(requests, *rest, CALLER.get())
        return lambda request: call(request, CALLER.get() if auth.enabled else None)
    if streams:
        return lambda requests, *rest: call(_each(requests, rule, auth, CALLER.get()), *rest)

    def checked(request: Any, *rest: Any) -> Awaitable[Any]:
        if auth.enabled:
            rule(auth, CALLER.get(), request)
        return call(request, *rest)

    return checked


async def _each(requests: AsyncIterator[Any], rule: Rule, auth: Auth, caller: Caller) -> AsyncIterator[Any]:
    async for request in requests:
        if auth.enabled:
            rule(auth, caller, request)
        yield request
