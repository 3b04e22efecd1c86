"""Who a caller is, over every way in: metadata, the JSON gateway, a certificate; and a client that logs in."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from controllers.errors import StoreError
from controllers.stores import open_store
from kvstore.api import Put, Range
from kvstore.auth import Caller
from kvstore.client import TLS, RemoteClient
from kvstore.client.login import Credentials
from kvstore.errors import AuthFailed, InvalidAuthToken, PermissionDenied, UserEmpty
from kvstore.node import Node, NodeOptions
from kvstore.permissions import Permission, PermissionType
from kvstore.proto import messages as pb
from kvstore.server import Server, ServerTLS
from kvstore.services import CALLER, Stream, caller_from
from kvstore.services.access import RULES, anybody
from tests.etcd_process import running_etcd
from tests.kvstore.certificates import Authority

OPTIONS = NodeOptions(fsync=False, bcrypt_cost=4)
ANYTHING = Permission(PermissionType.READWRITE, b"\x00", b"\x00")
WRITE_FOREVER = """
import asyncio, sys
from pathlib import Path
from kvstore.node import Node, NodeOptions
from kvstore.permissions import Permission

async def main():
    async with Node.open(Path(sys.argv[1]), NodeOptions(bcrypt_cost=4)) as node:
        auth = node.auth
        number = len(await auth.roles())
        while True:
            name = f"r{number:05}"
            await auth.role_add(name)
            await auth.role_grant_permission(name, Permission(0, name.encode()))
            await auth.user_add(name, "pw")
            await auth.user_grant_role(name, name)
            print(number, flush=True)
            number += 1

asyncio.run(main())
"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """With the users root and ann; ann may do anything with keys that begin with a."""
    async with Node.open(tmp_path / "node", OPTIONS) as node:
        auth = node.auth
        await auth.user_add("root", "pw")
        await auth.user_grant_role("root", "root")
        await auth.user_add("ann", "a")
        await auth.role_add("as")
        await auth.role_grant_permission("as", Permission(PermissionType.READWRITE, b"a", b"b"))
        await auth.user_grant_role("ann", "as")
        await auth.enable()
        yield node


@pytest.fixture
async def server(node: Node) -> AsyncIterator[Server]:
    async with Server(node, ["http://127.0.0.1:0"]) as server:
        yield server


@pytest.fixture
def endpoint(server: Server) -> str:
    return server.client_urls[0].removeprefix("http://")


# ---- who calls ------------------------------------------------------------------------------------------------------


def test_headers() -> None:
    assert caller_from({}) == Caller()
    assert caller_from({"token": "t"}) == Caller("t")
    assert caller_from({"authorization": "t"}) == Caller("t")
    assert caller_from({"authorization": "Bearer t"}) == Caller("t")
    assert caller_from({"token": "t", "authorization": "other"}, "ann") == Caller("t", "ann")


async def test_metadata(node: Node, endpoint: str) -> None:
    token = await node.auth.authenticate("ann", "a")
    request = pb.PutRequest(key=b"a").SerializeToString()
    async with grpc.aio.insecure_channel(endpoint) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put", None, None)
        for name, value in ("token", token), ("authorization", token), ("authorization", f"Bearer {token}"):
            await put(request, metadata=((name, value),))
        for bad in [("token", "x.1")], [("token", "")], [("token", "x.1"), ("token", token)]:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await put(request, metadata=tuple(bad))
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_every_method_needs_a_user_but_those_for_anybody(node: Node, server: Server) -> None:
    """Called as by a transport that says nothing of the caller."""

    async def one(request: Message) -> AsyncIterator[Message]:
        yield request

    async def send(data: bytes) -> None:
        raise AssertionError("it was answered")

    assert CALLER.get() == Caller()
    told_otherwise = {"/etcdserverpb.Maintenance/Alarm", "/etcdserverpb.Watch/Watch"}
    for path, route in server.routes.items():
        if RULES[path] is anybody or path in told_otherwise:
            continue
        filled: Any = route.request()
        if "key" in filled.DESCRIPTOR.fields_by_name and "KV" in path:
            filled.key = b"a"  # or that would be refused first
        async with asyncio.timeout(5):
            with pytest.raises(UserEmpty):
                if isinstance(route, Stream):
                    await route.call(one(filled), send)
                else:
                    await route.call(filled)
                pytest.fail(f"{path} was answered")


def test_every_method_served_has_a_rule(server: Server) -> None:
    assert set(server.routes) <= set(RULES)


# ---- a client that logs in ------------------------------------------------------------------------------------------


async def test_logging_in(endpoint: str) -> None:
    async with RemoteClient([endpoint], user="ann", password="a") as client:
        await client.put(b"a", b"1")
        assert (await client.range(Range(b"a"))).count == 1
        await client.txn((), [Put(b"a", b"2")])
        with pytest.raises(PermissionDenied):
            await client.put(b"b", b"")
        with pytest.raises(PermissionDenied):
            async with client.watch(b"a", b"\x00"):
                pass
        async with client.watch(b"a") as watch:
            await client.put(b"a", b"3")
            assert (await anext(watch)).events[0].kv.value == b"3"
        lease = await client.lease_grant(100)
        await client.put(b"a", b"4", lease=lease.id)
        assert (await client.lease_keep_alive(lease.id)).ttl == 100
        await client.lease_revoke(lease.id)
    async with RemoteClient([endpoint]) as client:
        with pytest.raises(UserEmpty):
            await client.get(b"a")
        with pytest.raises(UserEmpty):
            async with client.watch(b"a"):
                pass
    for user, password in ("ann", "wrong"), ("nobody", "a"):
        async with RemoteClient([endpoint], user=user, password=password) as client:
            with pytest.raises(AuthFailed):
                await client.get(b"a")


async def test_a_token_that_is_no_longer_good_is_renewed(node: Node, endpoint: str) -> None:
    async with RemoteClient([endpoint], user="ann", password="a") as client:
        await client.put(b"a", b"1")
        lease = await client.lease_grant(100)
        for use in ("put", "range", "watch", "keep alive", "many"):
            node.auth._tokens.clear()
            if use == "put":
                await client.put(b"a", b"2")
            elif use == "range":
                await client.range(Range(b"a"))
            elif use == "watch":
                async with client.watch(b"a", start_revision=1) as watch:
                    assert (await anext(watch)).events
            elif use == "keep alive":
                await client.lease_keep_alive(lease.id)
            else:
                await asyncio.gather(*(client.put(b"a%d" % number, b"") for number in range(20)))
                assert len(node.auth._tokens) == 1, "one renewal for all"
        # Refused before and after: that is the answer, not another renewal.
        node.auth._tokens.clear()
        with pytest.raises(PermissionDenied):
            await client.put(b"b", b"")
        with pytest.raises(PermissionDenied):
            async with client.watch(b"b"):
                pass
        await node.auth.user_change_password("ann", "new")
        with pytest.raises(AuthFailed):
            await client.get(b"a")


async def test_authentication_comes_and_goes(node: Node, endpoint: str) -> None:
    await node.auth.disable()
    async with RemoteClient([endpoint], user="ann", password="a") as client:
        await client.put(b"b", b"everybody may")
        await node.auth.enable()
        await client.put(b"a", b"1")
        with pytest.raises(PermissionDenied):
            await client.put(b"b", b"2")
        await node.auth.disable()
        await client.put(b"b", b"3")


@pytest.fixture
def real(tmp_path: Path) -> Iterator[str]:
    with running_etcd(tmp_path, "--bcrypt-cost=4", "--auth-token-ttl=1") as endpoint:
        yield endpoint


async def test_a_real_etcds_token_is_renewed_for_a_watch_too(real: str) -> None:
    """It does not say that the token has expired, only that permission is denied."""
    async with RemoteClient([real]) as client:

        async def auth(method: str, request: object) -> None:
            await client._write(f"/etcdserverpb.Auth/{method}", request, pb.AuthEnableResponse)  # type: ignore[arg-type]

        await auth("UserAdd", pb.AuthUserAddRequest(name="root", password="pw"))
        await auth("UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root"))
        await auth("AuthEnable", pb.AuthEnableRequest())
    async with RemoteClient([real], user="root", password="pw") as client:
        revision = (await client.put(b"a", b"1")).header.revision
        async with asyncio.timeout(20):
            old = await client._login.token()  # type: ignore[union-attr]
            async with RemoteClient([real]) as other:
                while True:  # until that token has expired; asking by a watch does not keep it alive once it is gone
                    try:
                        await other._call(
                            await other._connected(),
                            "/etcdserverpb.Auth/UserList",
                            pb.AuthUserListRequest(),
                            pb.AuthUserListResponse,
                            (("token", old),),
                        )
                    except InvalidAuthToken:
                        break
                    await asyncio.sleep(1.5)
            async with client.watch(b"a", start_revision=revision) as watch:
                assert (await anext(watch)).events[0].kv.value == b"1"


def test_the_password_is_for_no_log() -> None:
    assert "secret" not in repr(Credentials("ann", "secret"))


# ---- kill -9 --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    acknowledged = -1
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_FOREVER, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                acknowledged = int(line)
                if acknowledged >= 15 * (round_ + 1):
                    child.send_signal(signal.SIGKILL)
                    break
            for line in child.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
        async with Node.open(tmp_path / "data", OPTIONS) as node:
            auth = node.auth
            for number in range(acknowledged + 1):
                name = f"r{number:05}"
                assert await auth.user_get(name) == (name,)
                assert await auth.role_get(name) == (Permission(0, name.encode()),)
            users, roles = await auth.users(), await auth.roles()
            assert len(roles) - 1 <= acknowledged + 1 <= len(roles)
            whole = sum([bool(await auth.user_get(name)) for name in users])
            granted = sum([bool(await auth.role_get(name)) for name in roles])
            # The revision counts every change that is there: nothing came by half.
            assert auth.revision == 1 + len(users) + len(roles) + whole + granted
            if len(roles) > acknowledged + 1:  # finish what was cut short, so that the next round goes on after it
                last = roles[-1]
                # Granting again what is granted already would count as a change, too.
                if not await auth.role_get(last):
                    await auth.role_grant_permission(last, Permission(0, last.encode()))
                if last not in users:
                    await auth.user_add(last, "pw")
                if not await auth.user_get(last):
                    await auth.user_grant_role(last, last)
                acknowledged += 1


# ---- the JSON gateway -----------------------------------------------------------------------------------------------


async def test_the_gateway(node: Node, server: Server) -> None:
    from kvstore.server.http import HttpServer

    async with HttpServer(node, server, client_urls=["http://127.0.0.1:0"]) as http:
        port = int(http.client_urls[0].rpartition(":")[2])

        async def ask(line: str, data: bytes, headers: str) -> tuple[int, dict[str, object]]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{headers}\r\n"
            writer.write(head.encode() + data)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            status, _, rest = answer.partition(b"\r\n\r\n")
            return int(status.split()[1]), json.loads(rest)

        async def get(path: str) -> tuple[int, dict[str, object]]:
            return await ask(f"GET /{path}", b"", "")

        async def post(path: str, body: object, token: str = "") -> tuple[int, dict[str, object]]:
            headers = f"Authorization: {token}\r\n" if token else ""
            return await ask(f"POST /v3/{path}", json.dumps(body).encode(), headers)

        status, answer = await post("kv/put", {"key": "YQ==", "value": "YQ=="})
        assert (status, answer["message"]) == (400, "etcdserver: user name is empty")
        status, answer = await post("auth/authenticate", {"name": "ann", "password": "a"})
        assert status == 200
        token = str(answer["token"])
        assert (await post("kv/put", {"key": "YQ==", "value": "YQ=="}, token))[0] == 200
        status, answer = await post("kv/put", {"key": "Yg==", "value": "YQ=="}, token)
        assert (status, answer["message"]) == (403, "etcdserver: permission denied")
        status, answer = await post("kv/put", {"key": "YQ==", "value": "YQ=="}, "x.1")
        assert (status, answer["message"]) == (401, "etcdserver: invalid auth token")
        assert await get("health") == (200, {"health": "true", "reason": ""}), "a probe has no user"


# ---- certificates ---------------------------------------------------------------------------------------------------


async def test_the_common_name_of_a_certificate(node: Node, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    await node.auth.user_add("cert", no_password=True)
    await node.auth.user_grant_role("cert", "as")
    tls = ServerTLS(*authority.server(), authority.file, client_cert_auth=True)
    async with Server(node, ["https://127.0.0.1:0"], tls=tls) as server:

        def client(common_name: str, user: str | None = None, password: str = "") -> RemoteClient:
            files = TLS(authority.file, *authority.client(common_name))
            return RemoteClient(server.client_urls, tls=files, user=user, password=password)

        async with client("cert") as cert:
            await cert.put(b"a", b"1")
            async with cert.watch(b"a", start_revision=1) as watch:
                assert (await anext(watch)).events[0].kv.value == b"1"
            with pytest.raises(PermissionDenied):
                await cert.put(b"b", b"1")
        async with client("cert", user="root", password="pw") as root:
            await root.put(b"b", b"a token counts more")
        async with client("stranger") as stranger:
            with pytest.raises(PermissionDenied):
                await stranger.get(b"a")
    # A certificate that the server does not ask for as a proof of who calls proves nothing.
    lenient = ServerTLS(*authority.server(), authority.file)
    files = TLS(authority.file, *authority.client("cert"))
    async with (
        Server(node, ["https://127.0.0.1:0"], tls=lenient) as server,
        RemoteClient(server.client_urls, tls=files) as cert,
    ):
        with pytest.raises(UserEmpty):
            await cert.get(b"a")


# ---- the command line's store ---------------------------------------------------------------------------------------


def test_credentials_from_the_environment() -> None:
    assert Credentials.from_environ({}) is None
    assert Credentials.from_environ({"ETCDCTL_USER": "ann:a:b"}) == Credentials("ann", "a:b")
    both = {"ETCDCTL_USER": "ann", "ETCDCTL_PASSWORD": "a:b"}
    assert Credentials.from_environ(both) == Credentials("ann", "a:b")
    with pytest.raises(ValueError, match="NAME:PASSWORD"):
        Credentials.from_environ({"ETCDCTL_USER": "ann"})


async def test_a_store_that_needs_a_user(endpoint: str) -> None:
    url = f"etcd://{endpoint}"
    async with open_store(url, environ={"ETCDCTL_USER": "ann:a"}) as client:
        await client.put(b"a", b"1")
    with pytest.raises(StoreError, match="authentication failed"):
        async with open_store(url, environ={"ETCDCTL_USER": "ann:wrong"}):
            pass
    with pytest.raises(StoreError, match="NAME:PASSWORD"):
        async with open_store(url, environ={"ETCDCTL_USER": "ann"}):
            pass


async def test_what_is_too_large(endpoint: str, node: Node) -> None:
    token = await node.auth.authenticate("root", "pw")
    async with grpc.aio.insecure_channel(endpoint) as channel:
        add = channel.unary_unary("/etcdserverpb.Auth/RoleAdd", None, None)
        request = pb.AuthRoleAddRequest(name="x" * node.options.max_request_bytes)
        with pytest.raises(grpc.aio.AioRpcError, match="etcdserver: request is too large"):
            await add(request.SerializeToString(), metadata=(("token", token),))


async def test_locks_and_elections_need_what_their_keys_need(node: Node, endpoint: str) -> None:
    token = await node.auth.authenticate("ann", "a")
    await node.lease_grant(100, 7)
    await node.lease_grant(100, 8)
    await node.put(Put(b"roots", lease=8))
    async with grpc.aio.insecure_channel(endpoint) as channel:

        async def call(path: str, request: Message) -> bytes:
            made = channel.unary_unary(path, None, None)(request.SerializeToString(), metadata=(("token", token),))
            return bytes(await made)

        lock, unlock, campaign = "/v3lockpb.Lock/Lock", "/v3lockpb.Lock/Unlock", "/v3electionpb.Election/Campaign"
        proclaim, resign = "/v3electionpb.Election/Proclaim", "/v3electionpb.Election/Resign"
        for denied, request in (
            (lock, pb.LockRequest(name=b"roots", lease=7)),
            (lock, pb.LockRequest(name=b"roots")),
            (lock, pb.LockRequest(name=b"a-lock", lease=8)),  # the end of that lease deletes a key of root's
            (unlock, pb.UnlockRequest(key=b"roots/7")),
            (campaign, pb.CampaignRequest(name=b"roots", lease=7)),
            (proclaim, pb.ProclaimRequest(leader=pb.LeaderKey(name=b"roots", key=b"roots/7", lease=7))),
            (resign, pb.ResignRequest(leader=pb.LeaderKey(name=b"roots", key=b"roots/7", lease=7))),
            ("/v3electionpb.Election/Leader", pb.LeaderRequest(name=b"roots")),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="etcdserver: permission denied"):
                await call(denied, request)
        held = pb.LockResponse.FromString(await call(lock, pb.LockRequest(name=b"a-lock", lease=7)))
        assert held.key == b"a-lock/7"
        await call(unlock, pb.UnlockRequest(key=held.key))
        won = pb.CampaignResponse.FromString(await call(campaign, pb.CampaignRequest(name=b"a-vote", value=b"me")))
        await call(proclaim, pb.ProclaimRequest(leader=won.leader, value=b"still me"))
        await call("/v3electionpb.Election/Leader", pb.LeaderRequest(name=b"a-vote"))
        await call(resign, pb.ResignRequest(leader=won.leader))


async def test_statistics(node: Node) -> None:
    await node.auth.authenticate("ann", "a")
    numbers = node.statistics().auth
    assert (numbers.enabled, numbers.users, numbers.roles, numbers.tokens) == (True, 2, 1, 1)
    assert numbers.revision == node.auth.revision
