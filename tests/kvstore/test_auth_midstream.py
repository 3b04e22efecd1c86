"""What becomes of streams that are open when permissions, users or authentication itself change, as in a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.etcd_process import running_etcd

PATH = "/etcdserverpb."
PREFIX, END = b"/a/", b"/a0"
A = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=PREFIX, range_end=END))
Answer = TypeVar("Answer", bound=Message)


class Ann:
    """A server with a user `ann` who may read and write below /a/, and who can also be root."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._tokens: dict[str, str] = {}

    async def call(self, method: str, request: Message, answer: type[Answer], user: str = "") -> Answer:
        call: Any = self._channel.unary_unary(PATH + method, None, None)
        return answer.FromString(await call(request.SerializeToString(), metadata=self.metadata(user)))

    def metadata(self, user: str) -> tuple[tuple[str, str], ...]:
        return (("token", self._tokens[user]),) if user else ()

    async def do(self, method: str, **fields: Any) -> None:
        """As root, once there is one."""
        request: type[Message] = getattr(pb, method + "Request")
        await self.call(
            "Auth/" + method.replace("Auth", "", method != "AuthEnable"),
            request(**fields),
            pb.ResponseHeader,
            "root" if self._tokens else "",
        )

    async def set_up(self) -> None:
        for name in ("root", "ann"):
            await self.do("AuthUserAdd", name=name, password="pw")
        await self.do("AuthUserGrantRole", user="root", role="root")
        await self.do("AuthRoleAdd", name="a")
        permission = pb.Permission(permType=pb.Permission.READWRITE, key=PREFIX, range_end=END)
        await self.do("AuthRoleGrantPermission", name="a", perm=permission)
        await self.do("AuthUserGrantRole", user="ann", role="a")

    async def enable(self) -> None:
        await self.do("AuthEnable")
        for name in ("ann", "root"):
            request = pb.AuthenticateRequest(name=name, password="pw")
            self._tokens[name] = (await self.call("Auth/Authenticate", request, pb.AuthenticateResponse)).token

    async def put(self, key: bytes, user: str = "root", lease: int = 0) -> int:
        answer = await self.call("KV/Put", pb.PutRequest(key=key, lease=lease), pb.PutResponse, user)
        return answer.header.revision

    def stream(self, method: str, user: str = "") -> Any:
        call: Any = self._channel.stream_stream(PATH + method, None, None)
        return call(metadata=self.metadata(user))


async def said(stream: Any, request: Message | None = None) -> pb.WatchResponse:
    """The next response, after `request`."""
    if request is not None:
        await stream.write(request.SerializeToString())
    async with asyncio.timeout(10):
        return pb.WatchResponse.FromString(await stream.read())


async def goes_on(ann: Ann, stream: Any) -> None:
    revision = await ann.put(PREFIX + b"key")
    heard = await said(stream)
    assert [event.kv.mod_revision for event in heard.events] == [revision]


async def refuses(stream: Any, reason: str = "permission denied") -> None:
    # With an id of its own: etcd 3.5.1 refuses the id asked for, and without one that is the first watch's.
    create = pb.WatchCreateRequest(key=PREFIX, range_end=END, watch_id=7)
    refused = await said(stream, pb.WatchRequest(create_request=create))
    assert refused.canceled
    assert "permission denied" in refused.cancel_reason or reason in refused.cancel_reason


@pytest.fixture(params=["ours", "etcd"])
async def ann(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ann]:
    async with AsyncExitStack() as stack:
        if request.param == "etcd":
            endpoint = stack.enter_context(running_etcd(tmp_path, "--bcrypt-cost=4"))
        else:
            node = await stack.enter_async_context(
                Node.open(tmp_path / "node", NodeOptions(fsync=False, bcrypt_cost=4))
            )
            server = await stack.enter_async_context(Server(node, ["http://127.0.0.1:0"]))
            endpoint = server.client_urls[0].removeprefix("http://")
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(endpoint))
        ann = Ann(channel)
        await ann.set_up()
        yield ann


async def test_a_watch_is_judged_when_it_is_created(ann: Ann) -> None:
    await ann.enable()
    stream = ann.stream("Watch/Watch", "ann")
    assert (await said(stream, A)).created
    await goes_on(ann, stream)
    await ann.do("AuthRoleRevokePermission", role="a", key=PREFIX, range_end=END)
    await goes_on(ann, stream)
    await refuses(stream)
    await goes_on(ann, stream)
    permission = pb.Permission(permType=pb.Permission.READ, key=PREFIX, range_end=END)
    await ann.do("AuthRoleGrantPermission", name="a", perm=permission)
    again = await said(stream, A)
    assert again.created
    assert not again.canceled
    stream.cancel()


async def test_a_watch_outlives_its_user(ann: Ann) -> None:
    await ann.enable()
    stream = ann.stream("Watch/Watch", "ann")
    assert (await said(stream, A)).created
    await ann.do("AuthUserDelete", name="ann")
    await goes_on(ann, stream)
    await refuses(stream, "invalid auth token")
    stream.cancel()


async def test_a_watch_of_nobody_outlives_that_authentication_is_enabled(ann: Ann) -> None:
    stream = ann.stream("Watch/Watch")
    assert (await said(stream, A)).created
    await ann.enable()
    await goes_on(ann, stream)
    await refuses(stream, "user name is empty")
    stream.cancel()


@pytest.mark.parametrize("ann", ["ours"], indirect=True)
async def test_each_renewal_of_a_lease_is_judged(ann: Ann) -> None:
    """As in later versions of etcd; 3.5.1 judges none."""
    await ann.enable()
    granted = await ann.call("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60), pb.LeaseGrantResponse, "ann")
    await ann.put(PREFIX + b"leased", "ann", granted.ID)
    stream = ann.stream("Lease/LeaseKeepAlive", "ann")
    renewal = pb.LeaseKeepAliveRequest(ID=granted.ID).SerializeToString()
    await stream.write(renewal)
    assert pb.LeaseKeepAliveResponse.FromString(await stream.read()).TTL == 60
    await ann.do("AuthRoleRevokePermission", role="a", key=PREFIX, range_end=END)
    await stream.write(renewal)
    assert await stream.code() == grpc.StatusCode.PERMISSION_DENIED
