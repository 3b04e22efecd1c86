"""The same generated users, roles, permissions and calls under them against a real etcd and against our server.

`python -m tests.kvstore.auth_differential --ops 20000 --seed 7` runs as long as you like. Compared: every field but
identities and tokens, and the code and text of every error. Not generated, or known to differ, because etcd 3.5.1
answers differently from later releases: see docs/differences.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import Message

from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.etcd_process import running_etcd
from tests.kvstore.differential import DifferenceError

USERS = ["root", "ann", "bob", "cy", ""]
ROLES = ["root", "r1", "r2", "r3", ""]
KEYS = [b"a", b"b", b"c", b"d", b"m", b"\xff"]
PASSWORDS = ["", "pw", "other"]
LEASES = [1, 2, 3]

Answer: TypeAlias = "Message | tuple[str, str] | str"


class Operation(NamedTuple):
    """A call, by a user (None = without a token, "?" = with one that is nobody's)."""

    user: str | None
    path: str
    request: Message
    answer: type[Message]


class Side:
    """One server, and the tokens that it gave out."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(target)
        self.tokens: dict[str, str] = {}

    def _metadata(self, user: str | None) -> tuple[tuple[str, str], ...]:
        if user is None:
            return ()
        return (("token", self.tokens.get(user, "nobodys.1")),)

    async def call(self, operation: Operation) -> Answer:
        if operation.path == WATCH:
            return await self._watch(operation)
        call = self.channel.unary_unary(operation.path, None, None)
        try:
            data = await call(operation.request.SerializeToString(), metadata=self._metadata(operation.user))
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        answer = operation.answer.FromString(data)
        if isinstance(answer, pb.AuthenticateResponse):
            assert isinstance(operation.request, pb.AuthenticateRequest)
            self.tokens[operation.request.name] = answer.token
        return masked(answer)

    async def _watch(self, operation: Operation) -> str:
        assert isinstance(operation.request, pb.WatchCreateRequest)
        stream = self.channel.stream_stream(WATCH, None, None)(None, metadata=self._metadata(operation.user))
        await stream.write(pb.WatchRequest(create_request=operation.request).SerializeToString())
        data = await stream.read()
        assert isinstance(data, bytes)
        response = pb.WatchResponse.FromString(data)
        stream.cancel()
        if not response.canceled:
            return "created"
        # etcd 3.5.1 words every refusal as PermissionDenied.
        return "refused" if response.cancel_reason.startswith("rpc error: ") else response.cancel_reason


def masked(answer: Message) -> Message:
    """Without what two servers cannot have in common."""
    header: Any = getattr(answer, "header", None)
    if header is not None:
        header.cluster_id = header.member_id = header.raft_term = 0
    if isinstance(answer, pb.AuthenticateResponse):
        answer.token = "a token"
    return answer


WATCH = "/etcdserverpb.Watch/Watch"


class Generator:
    """Operations. The same seed, the same sequence, as long as the answers are the same."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._passwords: dict[str, str] = {}
        self._locked_out: str | None = None

    def told(self, operation: Operation, answer: Answer) -> None:
        """Learn passwords, and who has to log in again, from an answer."""
        request = operation.request
        if answer == ("UNAUTHENTICATED", "etcdserver: invalid auth token"):
            self._locked_out = operation.user
        elif not isinstance(answer, tuple | str) and isinstance(
            request, pb.AuthUserAddRequest | pb.AuthUserChangePasswordRequest
        ):
            if isinstance(request, pb.AuthUserChangePasswordRequest) and not request.password:
                self._passwords.pop(request.name, None)  # nobody can log in with a hash that is none
            else:
                self._passwords[request.name] = request.password

    def next(self) -> Operation:
        rng = self.rng
        name, self._locked_out = self._locked_out, None
        if name in self._passwords and self._maybe(0.9):
            request = pb.AuthenticateRequest(name=name, password=self._passwords[name])
            return Operation(None, "/etcdserverpb.Auth/Authenticate", request, pb.AuthenticateResponse)
        make: Callable[[], Operation] = rng.choices(
            [self._user, self._role, self._switch, self._log_in, self._key, self._lease, self._watch],
            [20, 26, 1, 3, 36, 6, 8],
        )[0]
        return make()

    def _maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def _caller(self) -> str | None:
        return self.rng.choices(["root", "ann", "bob", "cy", None, "?"], [50, 16, 16, 8, 4, 2])[0]

    def _auth(self, method: str, **fields: Any) -> Operation:
        name = method if method.startswith("Auth") else f"Auth{method}"
        request, answer = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
        return Operation(self._caller(), f"/etcdserverpb.Auth/{method}", request(**fields), answer)

    def _some(self, names: list[str]) -> str:
        return self.rng.choices(names, [3, 6, 6, 3, 0.5])[0]

    def _user(self) -> Operation:
        rng, name, role = self.rng, self._some(USERS), self._some(ROLES)
        password = rng.choice(PASSWORDS)
        mortal = rng.choice(USERS[1:])  # root must be able to log in
        return rng.choices(
            [
                self._auth("UserAdd", name=name, password=password),
                self._auth("UserAdd", name=mortal, options=pb.UserAddOptions(no_password=True)),
                self._auth("UserGet", name=name),
                self._auth("UserList"),
                self._auth("UserDelete", name=name),
                self._auth("UserChangePassword", name=name, password=password or ("pw" if name == "root" else "")),
                self._auth("UserChangePassword", name=mortal, hashedPassword=rng.choice(["!", "QUJD"])),
                self._auth("UserGrantRole", user=name, role=role),
                self._auth("UserRevokeRole", name=name, role=role),
            ],
            [6, 0.4, 4, 1, 0.7, 1, 0.2, 10, 2],
        )[0]

    def _role(self) -> Operation:
        rng, role = self.rng, self._some(ROLES)
        key, end = self._interval(can_be_empty=False)
        permission = pb.Permission(permType=rng.randint(0, 2), key=key, range_end=end)
        return rng.choices(
            [
                self._auth("RoleAdd", name=role),
                self._auth("RoleGet", role=role),
                self._auth("RoleList"),
                self._auth("RoleDelete", role=role),
                self._auth("RoleGrantPermission", name=role, perm=permission),
                self._auth("RoleGrantPermission", name=role),
                self._auth("RoleRevokePermission", role=role, key=key, range_end=end),
            ],
            [4, 4, 1, 0.6, 10, 0.3, 5],
        )[0]

    def _switch(self) -> Operation:
        rng = self.rng
        return self._auth(rng.choices(["AuthEnable", "AuthDisable"], [3, 1])[0])

    def _log_in(self) -> Operation:
        request = pb.AuthenticateRequest(name=self._some(USERS), password=self.rng.choice(PASSWORDS))
        return Operation(None, "/etcdserverpb.Auth/Authenticate", request, pb.AuthenticateResponse)

    def _interval(self, *, can_be_empty: bool) -> tuple[bytes, bytes]:
        rng = self.rng
        key = rng.choice(KEYS)
        end = rng.choices([b"", b"\x00", rng.choice(KEYS)], [5, 1, 5])[0]
        if end not in (b"", b"\x00") and end <= key and not can_be_empty:
            key, end = (end, key) if end < key else (key, b"")
        return key, end

    def _put(self, *, plain: bool) -> pb.PutRequest:
        rng = self.rng
        request = pb.PutRequest(key=rng.choice(KEYS), value=b"v")
        if not plain:  # in a transaction, etcd 3.5.1 does not check these two
            request.prev_kv = self._maybe(0.3)
            request.lease = rng.choices([0, rng.choice(LEASES), 99], [8, 2, 0.5])[0]
        if self._maybe(0.03):
            request.key = b""
        return request

    def _range(self) -> pb.RangeRequest:
        key, end = self._interval(can_be_empty=False)
        return pb.RangeRequest(key=b"" if self._maybe(0.03) else key, range_end=end)

    def _delete(self) -> pb.DeleteRangeRequest:
        key, end = self._interval(can_be_empty=False)
        return pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=self._maybe(0.3))

    def _txn(self) -> pb.TxnRequest:
        def op() -> pb.RequestOp:
            return self.rng.choice(
                [
                    pb.RequestOp(request_put=self._put(plain=True)),
                    pb.RequestOp(request_range=self._range()),
                    pb.RequestOp(request_delete_range=self._delete()),
                ]
            )

        rng = self.rng
        compares = []
        for _ in range(rng.randint(0, 2)):
            key, end = self._interval(can_be_empty=False)
            compares.append(pb.Compare(key=key, range_end=end, target=0, result=1, version=0))
        return pb.TxnRequest(
            compare=compares,
            success=[op() for _ in range(rng.randint(0, 2))],
            failure=[op() for _ in range(rng.randint(0, 2))],
        )

    def _key(self) -> Operation:
        who = self._caller()
        return self.rng.choices(
            [
                Operation(who, "/etcdserverpb.KV/Put", self._put(plain=False), pb.PutResponse),
                Operation(who, "/etcdserverpb.KV/Range", self._range(), pb.RangeResponse),
                Operation(who, "/etcdserverpb.KV/DeleteRange", self._delete(), pb.DeleteRangeResponse),
                Operation(who, "/etcdserverpb.KV/Txn", self._txn(), pb.TxnResponse),
            ],
            [4, 4, 1, 3],
        )[0]

    def _lease(self) -> Operation:
        rng, lease = self.rng, self.rng.choice(LEASES)
        who = self._caller() or "root"  # etcd 3.5.1 lets anybody grant
        grant = Operation(
            who, "/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=5000, ID=lease), pb.LeaseGrantResponse
        )
        revoke = Operation(
            who, "/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse
        )
        return rng.choices([grant, revoke], [2, 1])[0]

    def _watch(self) -> Operation:
        key, end = self._interval(can_be_empty=False)
        if end == b"\x00":  # etcd 3.5.1 checks the first key alone
            end = b""
        return Operation(self._caller(), WATCH, pb.WatchCreateRequest(key=key, range_end=end), pb.WatchResponse)


class Known:
    """What is known of both servers, to leave out where etcd 3.5.1 differs from later releases."""

    def __init__(self) -> None:
        self.enabled = False
        self.granted: dict[str, list[tuple[bytes, bytes]]] = {}

    def differs(self, operation: Operation) -> bool:
        """Whether the answers are known to differ."""
        request = operation.request
        if not self.enabled and operation.user is not None:
            return True  # later releases look at no token while it is disabled
        if operation.user is None and self.enabled and request in (pb.TxnRequest(), pb.AuthUserGetRequest()):
            return True  # etcd lets nobody see itself, and finds nothing to check in an empty transaction
        if isinstance(request, pb.AuthRoleGrantPermissionRequest):
            # Of several permissions that begin with one key, etcd 3.5 replaces only the first.
            perm = request.perm
            ranges = self.granted.get(request.name, [])
            return any(key == perm.key and end != perm.range_end for key, end in ranges)
        return False

    def told(self, operation: Operation, answer: Answer) -> None:
        if isinstance(answer, tuple | str):
            return
        request = operation.request
        if isinstance(request, pb.AuthEnableRequest):
            self.enabled = True
        elif isinstance(request, pb.AuthDisableRequest):
            self.enabled = False
        elif isinstance(request, pb.AuthRoleGrantPermissionRequest):
            self.granted.setdefault(request.name, []).append((request.perm.key, request.perm.range_end))
        elif isinstance(request, pb.AuthRoleRevokePermissionRequest):
            gone = (request.key, request.range_end)
            self.granted[request.role] = [each for each in self.granted[request.role] if each != gone]
        elif isinstance(request, pb.AuthRoleDeleteRequest):
            self.granted.pop(request.role, None)


async def compare(real: str, ours: str, *, operations: int, seed: int) -> dict[str, int]:
    """Run the operations on both; how often each error (or "ok") was the answer of both. Raises DifferenceError."""
    rng = random.Random(seed)
    generator, known = Generator(rng), Known()
    sides = Side(real), Side(ours)
    seen: dict[str, int] = {}
    try:
        number = 0
        while number < operations:
            operation = generator.next()
            if not known.enabled:
                operation = operation._replace(user=None)
            if known.differs(operation):
                continue
            number += 1
            asked: list[Awaitable[Answer]] = [side.call(operation) for side in sides]
            theirs, mine = await asyncio.gather(*asked)
            if theirs != mine:
                raise DifferenceError(
                    f"operation {number} of seed {seed}, by {operation.user}: {operation.path} {operation.request}\n"
                    f"etcd: {theirs}\nours: {mine}"
                )
            known.told(operation, theirs)
            generator.told(operation, theirs)
            said = theirs if isinstance(theirs, str) else theirs[1] if isinstance(theirs, tuple) else "ok"
            seen[said] = seen.get(said, 0) + 1
    finally:
        for side in sides:
            await side.channel.close(None)
    return seen


async def run(directory: Path, *, operations: int, seed: int) -> dict[str, int]:
    """Both servers on empty directories below `directory`."""
    options = NodeOptions(fsync=False, bcrypt_cost=4)
    with running_etcd(directory, "--bcrypt-cost=4") as etcd:
        async with (
            Node.open(directory / "ours", options) as node,
            Server(node, ["http://127.0.0.1:0"]) as server,
        ):
            ours = server.client_urls[0].removeprefix("http://")
            return await compare(etcd, ours, operations=operations, seed=seed)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="listwatch-auth-") as directory:
        seen = asyncio.run(run(Path(directory), operations=arguments.ops, seed=arguments.seed))
    for said, times in sorted(seen.items(), key=lambda each: -each[1]):
        print(f"{times:8}  {said}")


if __name__ == "__main__":
    main()
