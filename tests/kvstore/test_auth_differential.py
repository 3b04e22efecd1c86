"""A short differential run of authentication; `python -m tests.kvstore.auth_differential` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from kvstore.node import Node, NodeOptions
from kvstore.permissions import Permission
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.etcd_process import running_etcd
from tests.kvstore.auth_differential import Operation, Side, run

OFTEN = {
    "ok",
    "created",
    "refused",
    "etcdserver: permission denied",
    "etcdserver: invalid auth token",
    "etcdserver: user name is empty",
    "etcdserver: user name not found",
    "etcdserver: user name already exists",
    "etcdserver: role name not found",
    "etcdserver: role name already exists",
    "etcdserver: role is not granted to the user",
    "etcdserver: permission is not granted to the role",
    "etcdserver: authentication failed, invalid user ID or password",
    "etcdserver: authentication is not enabled",
}


@pytest.mark.parametrize("seed", [4])
async def test_our_server_answers_as_etcd_does(tmp_path: Path, seed: int) -> None:
    seen = await run(tmp_path, operations=2500, seed=seed)
    assert seen.keys() >= OFTEN


def auth(method: str, by: str | None = None, /, **fields: object) -> Operation:
    name = method if method.startswith("Auth") else f"Auth{method}"  # Authenticate, too, begins with that
    request, answer = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
    return Operation(by, f"/etcdserverpb.Auth/{method}", request(**fields), answer)


def put(key: bytes, user: str | None = None) -> Operation:
    return Operation(user, "/etcdserverpb.KV/Put", pb.PutRequest(key=key), pb.PutResponse)


EVERY_ERROR = [
    (auth("AuthEnable"), "root user does not exist"),
    (auth("UserAdd", name="root", password="pw"), ""),
    (auth("AuthEnable"), "root user does not have root role"),
    (auth("UserGrantRole", user="root", role="root"), ""),
    (auth("Authenticate", name="root", password="pw"), "authentication is not enabled"),
    (auth("UserAdd", name=""), "user name is empty"),
    (auth("UserAdd", name="root"), "user name already exists"),
    (auth("UserGet", name="none"), "user name not found"),
    (auth("UserDelete", name="none"), "user name not found"),
    (auth("UserChangePassword", name="none", password="x"), "user name not found"),
    (auth("UserGrantRole", user="none", role="root"), "user name not found"),
    (auth("UserGrantRole", user="root", role="none"), "role name not found"),
    (auth("UserRevokeRole", name="none", role="none"), "user name not found"),
    (auth("UserRevokeRole", name="root", role="none"), "role is not granted to the user"),
    (auth("RoleAdd", name=""), "role name is empty"),
    (auth("RoleAdd", name="r"), ""),
    (auth("RoleAdd", name="r"), "role name already exists"),
    (auth("RoleGet", role="none"), "role name not found"),
    (auth("RoleDelete", role="none"), "role name not found"),
    (auth("RoleGrantPermission", name="none", perm=pb.Permission(key=b"a")), "role name not found"),
    (auth("RoleGrantPermission", name="r"), "permission not given"),
    (auth("RoleRevokePermission", role="r", key=b"a"), "permission is not granted to the role"),
    (auth("RoleRevokePermission", role="none", key=b"a"), "role name not found"),
    (auth("AuthDisable"), ""),
    (auth("AuthEnable"), ""),
    (auth("Authenticate", name="root", password="no"), "authentication failed, invalid user ID or password"),
    (auth("Authenticate", name="none", password="pw"), "authentication failed, invalid user ID or password"),
    (put(b"a"), "user name is empty"),
    (put(b""), "key is not provided"),
    (put(b"a", "?"), "invalid auth token"),
    (auth("Authenticate", name="root", password="pw"), ""),
    (auth("AuthEnable", "root"), ""),
    (auth("AuthStatus", "root"), ""),
    (auth("UserDelete", "root", name="root"), "invalid auth management"),
    (auth("UserRevokeRole", "root", name="root", role="root"), "invalid auth management"),
    (auth("RoleDelete", "root", role="root"), "invalid auth management"),
    (auth("UserAdd", "root", name="ann", password="a"), ""),
    (auth("Authenticate", name="ann", password="a"), ""),
    (put(b"a", "ann"), "permission denied"),
    (auth("UserAdd", "ann", name="bob"), "permission denied"),
    (auth("UserGet", "ann", name="root"), "permission denied"),
    (auth("UserGet", "ann", name="ann"), ""),
    (auth("RoleGet", "ann", role="r"), "permission denied"),
    (auth("UserGrantRole", "root", user="ann", role="r"), ""),
    (auth("RoleGet", "ann", role="r"), ""),
    (auth("AuthDisable", "ann"), "permission denied"),
    (auth("UserList", "ann"), "permission denied"),
    (auth("UserDelete", "root", name="ann"), ""),
    (put(b"a", "ann"), "invalid auth token"),
    (auth("UserList", "root"), ""),
    (auth("RoleList", "root"), ""),
    (auth("AuthDisable", "root"), ""),
]


async def test_every_error_is_etcds(tmp_path: Path) -> None:
    options = NodeOptions(fsync=False, bcrypt_cost=4)
    with running_etcd(tmp_path, "--bcrypt-cost=4") as etcd:
        async with (
            Node.open(tmp_path / "ours", options) as node,
            Server(node, ["http://127.0.0.1:0"]) as server,
        ):
            ours, real = Side(server.client_urls[0].removeprefix("http://")), Side(etcd)
            try:
                for operation, says in EVERY_ERROR:
                    mine, theirs = await ours.call(operation), await real.call(operation)
                    assert mine == theirs, operation
                    said = mine[1].removeprefix("etcdserver: ") if isinstance(mine, tuple) else ""
                    assert said == says, operation
            finally:
                await ours.channel.close(None)
                await real.channel.close(None)


async def test_what_we_refuse_and_etcd_3_5_1_does_not(tmp_path: Path) -> None:
    """The deliberate differences of docs/differences.md."""
    options = NodeOptions(fsync=False, bcrypt_cost=4)
    async with (
        Node.open(tmp_path / "ours", options) as node,
        Server(node, ["http://127.0.0.1:0"]) as server,
    ):
        side = Side(server.client_urls[0].removeprefix("http://"))
        try:
            changes: list[tuple[str, dict[str, object]]] = [
                ("UserAdd", {"name": "root", "password": "pw"}),
                ("UserGrantRole", {"user": "root", "role": "root"}),
                ("RoleAdd", {"name": "r"}),
                ("RoleGrantPermission", {"name": "r", "perm": pb.Permission(permType=2, key=b"k")}),
                ("UserAdd", {"name": "ann", "password": "a"}),
                ("UserGrantRole", {"user": "ann", "role": "r"}),
                ("AuthEnable", {}),
                ("Authenticate", {"name": "ann", "password": "a"}),
            ]
            for method, fields in changes:
                answer = await side.call(auth(method, **fields))
                assert not isinstance(answer, tuple), answer
            secret = pb.PutRequest(key=b"secret")
            nested = pb.TxnRequest(
                success=[pb.RequestOp(request_txn=pb.TxnRequest(success=[pb.RequestOp(request_put=secret)]))]
            )
            empty = "etcdserver: user name is empty"
            denied = "etcdserver: permission denied"
            calls = [
                ("ann", "/etcdserverpb.KV/Txn", nested, denied),
                (None, "/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=1), empty),
                ("ann", "/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=1), denied),
                (None, "/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=9), empty),
                (None, "/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1), empty),
                (None, "/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesRequest(), empty),
                (None, "/etcdserverpb.Cluster/MemberList", pb.MemberListRequest(), empty),
                ("ann", "/etcdserverpb.Maintenance/HashKV", pb.HashKVRequest(), denied),
                ("ann", "/etcdserverpb.Maintenance/Defragment", pb.DefragmentRequest(), denied),
                ("ann", "/etcdserverpb.Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE), denied),
                ("ann", "/etcdserverpb.Maintenance/MoveLeader", pb.MoveLeaderRequest(), denied),
            ]
            for user, path, request, says in calls:
                answer = await side.call(Operation(user, path, request, pb.PutResponse))
                assert isinstance(answer, tuple), path
                assert answer[1] == says, path
            for path in ("/etcdserverpb.Auth/AuthStatus", "/etcdserverpb.Maintenance/Status"):
                anybody = Operation(None, path, pb.AuthStatusRequest(), pb.AuthStatusResponse)
                assert not isinstance(await side.call(anybody), tuple), path
        finally:
            await side.channel.close(None)


async def test_watches_are_refused_in_full_words(tmp_path: Path) -> None:
    options = NodeOptions(fsync=False, bcrypt_cost=4)
    async with (
        Node.open(tmp_path / "ours", options) as node,
        Server(node, ["http://127.0.0.1:0"]) as server,
    ):
        await node.auth.user_add("root", "pw")
        await node.auth.user_grant_role("root", "root")
        await node.auth.user_add("ann", "a")
        await node.auth.role_add("r")
        await node.auth.role_grant_permission("r", Permission(0, b"k"))
        await node.auth.user_grant_role("ann", "r")
        async with grpc.aio.insecure_channel(server.client_urls[0].removeprefix("http://")) as channel:

            async def refused(token: str | None, **create: object) -> str:
                metadata = () if token is None else (("token", token),)
                stream = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(None, metadata=metadata)
                request = pb.WatchRequest(create_request=pb.WatchCreateRequest(**create))  # type: ignore[arg-type]
                await stream.write(request.SerializeToString())
                data = await stream.read()
                assert isinstance(data, bytes)
                response = pb.WatchResponse.FromString(data)
                stream.cancel()
                assert response.created
                assert response.canceled == bool(response.cancel_reason)
                assert response.watch_id == (-1 if response.canceled else 0)
                return response.cancel_reason

            assert await refused(None, key=b"any", range_end=b"\0") == ""
            await node.auth.enable()
            ann = await node.auth.authenticate("ann", "a")
            denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
            assert await refused(ann, key=b"k") == ""
            assert await refused(ann, key=b"k", range_end=b"\0") == denied
            assert await refused(ann, key=b"k", range_end=b"l") == denied
            assert await refused(ann, key=b"", range_end=b"\0") == denied
            assert await refused(ann, key=b"z") == denied
            assert await refused(None, key=b"k") == (
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
            )
            assert await refused("x.1", key=b"k") == (
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
            )
