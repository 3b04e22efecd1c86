"""Users, roles and tokens on a node: what is durable, what is undone, who is let in."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from kvstore.api import Compare, DeleteRange, Op, Put, Range, Txn
from kvstore.auth import Auth, Caller
from kvstore.errors import (
    AuthFailed,
    AuthNotEnabled,
    InvalidAuthManagement,
    InvalidAuthToken,
    PasswordTooLong,
    PermissionDenied,
    RoleNotFound,
    TooManyRequests,
    Unavailable,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from kvstore.node import Node, NodeOptions
from kvstore.passwords import Passwords
from kvstore.permissions import Permission, PermissionType
from kvstore.tokens import MAX_TOKENS, Tokens

OPTIONS = NodeOptions(fsync=False, bcrypt_cost=4)
READ, WRITE, READWRITE = PermissionType.READ, PermissionType.WRITE, PermissionType.READWRITE


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path / "node", OPTIONS) as node:
        yield node


async def enable(auth: Auth) -> Caller:
    """Enable authentication; gives the caller root."""
    await auth.user_add("root", "secret")
    await auth.user_grant_role("root", "root")
    await auth.enable()
    return Caller(await auth.authenticate("root", "secret"))


async def add(auth: Auth, name: str, *permissions: Permission) -> Caller:
    """A user with a role of its own; authentication is enabled."""
    await auth.user_add(name, "pw")
    await auth.role_add(f"{name}s")
    for permission in permissions:
        await auth.role_grant_permission(f"{name}s", permission)
    await auth.user_grant_role(name, f"{name}s")
    return Caller(await auth.authenticate(name, "pw"))


# ---- durable, or undone ---------------------------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "data", OPTIONS) as node:
        await enable(node.auth)
        await add(node.auth, "eve", Permission(READ, b"a", b"b"), Permission(WRITE, b"c"))
        await node.auth.user_add("cert", no_password=True)
        await node.auth.user_add("x" * 5000, "long names are names")
        await node.auth.role_add("unused")
        await node.auth.role_delete("unused")
        before = await node.auth.status()
    async with Node.open(tmp_path / "data", OPTIONS) as node:
        auth = node.auth
        assert await auth.status() == before == (True, node.auth.revision)
        assert await auth.users() == ["cert", "eve", "root", "x" * 5000]
        assert await auth.roles() == ["eves"]
        assert await auth.role_get("eves") == (Permission(READ, b"a", b"b"), Permission(WRITE, b"c"))
        user = auth.user_of(Caller(await auth.authenticate("eve", "pw")))
        auth.check_read(user, b"a", b"b")
        with pytest.raises(PermissionDenied):
            auth.check_write(user, b"a")
        with pytest.raises(AuthFailed):
            await auth.authenticate("eve", "wrong")


async def test_a_commit_that_fails_is_undone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = node.auth
    root = await enable(auth)
    eve = await add(auth, "eve", Permission(READ, b"a"))
    before = await auth.status()

    def broken(batch: object) -> None:
        raise lmdb.Error("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(node._backend, "commit", broken)
        results = await asyncio.gather(
            auth.user_add("mallory", "pw"),
            auth.role_grant_permission("eves", Permission(READWRITE, b"\x00", b"\x00")),
            auth.user_revoke_role("eve", "eves"),
            auth.role_delete("eves"),
            auth.disable(),
            return_exceptions=True,
        )
    assert [type(each) for each in results] == [Unavailable] * 5
    assert await auth.status() == before
    assert await auth.users() == ["eve", "root"]
    assert await auth.role_get("eves") == (Permission(READ, b"a"),)
    fresh = Caller(await auth.authenticate("eve", "pw"))
    auth.check_read(auth.user_of(fresh), b"a")
    with pytest.raises(PermissionDenied):
        auth.check_read(auth.user_of(fresh), b"b")
    for caller in (root, eve):
        with pytest.raises(InvalidAuthToken):  # disabling had dropped them; logging in gives another
            auth.user_of(caller)
    await auth.user_add("mallory", "pw")
    assert "mallory" in await auth.users()


async def test_a_token_for_a_user_who_never_came_to_be_is_for_nobody(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = node.auth
    await enable(auth)
    logged_in = asyncio.Event()

    async def failing(job: object) -> None:
        await logged_in.wait()
        raise Unavailable()

    with monkeypatch.context() as patch:
        patch.setattr(node._backend, "write", failing)
        adding = asyncio.create_task(auth.user_add("eve", "first"))
        while "eve" not in auth._state.users:
            await asyncio.sleep(0)
        early = Caller(await auth.authenticate("eve", "first"))
        assert auth.user_of(early) == "eve"
        logged_in.set()
        with pytest.raises(Unavailable):
            await adding
    await auth.user_add("eve", "second")
    with pytest.raises(InvalidAuthToken):
        auth.user_of(early)


async def test_a_refused_change_leaves_the_others_of_its_batch_alone(node: Node) -> None:
    auth = node.auth
    results = await asyncio.gather(
        auth.role_add("a"), auth.role_add("a"), auth.role_add("b"), auth.role_delete("none"), return_exceptions=True
    )
    assert [type(each).__name__ for each in results] == ["NoneType", "RoleExists", "NoneType", "RoleNotFound"]
    assert await auth.roles() == ["a", "b"]
    assert auth.revision == 3


async def test_what_is_read_is_on_disk(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "data", OPTIONS) as node:
        adding = asyncio.create_task(node.auth.role_add("a"))
        while not node.auth._state.roles:
            await asyncio.sleep(0)
        assert await node.auth.roles() == ["a"]
        assert node._backend.rows("auth"), "the answer waited for the commit"
        await adding


# ---- tokens and passwords -------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_lives_while_it_is_used() -> None:
    clock = Clock()
    tokens = Tokens(ttl=300, now=clock, rng=random.Random(1))
    token = tokens.assign("eve", 42)
    assert re.fullmatch(r"[a-zA-Z]{16}\.42", token)
    for _ in range(5):
        clock.now += 299
        assert tokens.user(token) == "eve"
    clock.now += 300
    assert tokens.user(token) is None
    assert tokens.user("nonsense") is None
    assert len(tokens) == 0


def test_expired_tokens_and_too_many_of_them_are_dropped() -> None:
    clock = Clock()
    tokens = Tokens(ttl=10, now=clock, rng=random.Random(1))
    used = tokens.assign("eve", 1)
    tokens.assign("eve", 1)
    clock.now = 9
    tokens.user(used)
    clock.now = 11
    tokens.assign("eve", 1)
    assert len(tokens) == 2, "the one that was not used is gone"
    for index in range(MAX_TOKENS):
        tokens.assign("bob", index)
    assert len(tokens) == MAX_TOKENS
    assert tokens.user(used) is None


async def test_tokens_differ_between_nodes_with_the_same_seed(tmp_path: Path) -> None:
    seen = set()
    for name in ("a", "b"):
        async with Node.open(tmp_path / name, OPTIONS, rng=random.Random(7)) as node:
            seen.add((await enable(node.auth)).token)
    assert len(seen) == 2, "tokens are not made from the seed of a simulation unless one asks for it"


async def test_password_rules(node: Node) -> None:
    auth = node.auth
    with pytest.raises(PasswordTooLong):
        await auth.user_add("eve", "x" * 73)
    await enable(auth)
    eve = await add(auth, "eve")
    assert auth.user_of(eve) == "eve"
    await auth.user_change_password("eve", "new")
    with pytest.raises(InvalidAuthToken):
        auth.user_of(eve)
    with pytest.raises(AuthFailed):
        await auth.authenticate("eve", "pw")
    await auth.authenticate("eve", "new")
    await auth.user_change_password("eve")
    with pytest.raises(AuthFailed):
        await auth.authenticate("eve", "")
    with pytest.raises(UserNotFound):
        await auth.user_change_password("nobody", "x")


async def test_a_password_changed_while_one_logs_in_counts(node: Node) -> None:
    auth = node.auth
    await enable(auth)
    await add(auth, "eve")
    logging_in = asyncio.create_task(auth.authenticate("eve", "pw"))
    await asyncio.sleep(0)
    eve = auth._state.users["eve"]
    assert not logging_in.done()
    # Staged while bcrypt runs on its thread; the token must not be for the password of before.
    await asyncio.gather(auth.user_change_password("eve", hashed=b"none"), return_exceptions=True)
    assert auth._state.users["eve"] != eve
    with pytest.raises((AuthFailed, InvalidAuthToken)):
        auth.user_of(Caller(await logging_in))


async def test_hashing_leaves_the_loop_free() -> None:
    passwords = Passwords(cost=11, inline=False)
    turns = 0
    try:
        hashing = asyncio.create_task(passwords.hash("secret"))
        while not hashing.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 100
        assert await passwords.match("secret", await hashing)
        assert not await passwords.match("Secret", await hashing)
        assert not await passwords.match("secret", b"no hash")
        assert not await passwords.match("secret", b"$2b$31$" + b"x" * 53), "days of work"
    finally:
        passwords.close()


async def test_a_crowd_that_logs_in_is_turned_away_at_some_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvstore.passwords.MAX_WAITING", 3)
    passwords = Passwords(cost=4, inline=False)
    try:
        results = await asyncio.gather(*(passwords.hash("x") for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in results].count(TooManyRequests) == 2
        await passwords.hash("x")
    finally:
        passwords.close()


def test_a_cost_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="between 4 and 31"):
        Passwords(cost=3, inline=True)


async def test_who_calls(node: Node) -> None:
    auth = node.auth
    with pytest.raises(AuthNotEnabled):
        await auth.authenticate("eve", "pw")
    await enable(auth)
    eve = await add(auth, "eve", Permission(READ, b"a"))
    assert auth.user_of(eve) == "eve"
    assert auth.user_of(Caller(common_name="eve")) == "eve"
    assert auth.user_of(Caller(eve.token, common_name="root")) == "eve", "the token comes first"
    with pytest.raises(UserEmpty):
        auth.user_of(Caller())
    with pytest.raises(InvalidAuthToken):
        auth.user_of(Caller("", common_name="root"))
    for check in (auth.check_user, auth.check_root, lambda user: auth.check_read(user, b"a")):
        with pytest.raises(PermissionDenied):
            check("nobody")
    await auth.user_delete("eve")
    with pytest.raises(InvalidAuthToken):
        auth.user_of(eve)
    with pytest.raises(UserExists):
        await auth.user_add("root", "x")


# ---- permissions ----------------------------------------------------------------------------------------------------

ALLOWED: list[Op] = [
    Range(b"r"),
    Range(b"ra", b"rc"),
    Put(b"w"),
    Put(b"w1"),
    Put(b"rw", prev_kv=True),
    DeleteRange(b"w1", b"w2"),
    DeleteRange(b"rw", prev_kv=True),
    Txn((Compare(b"r", 0, 0, 0),), (Put(b"w"),), (Range(b"ra", b"rb"),)),
    Txn((), (Txn((Compare(b"rb", 0, 0, 0),), (Put(b"w"),)),)),
]
DENIED: list[Op] = [
    Range(b"w"),
    Range(b"q"),
    Range(b"r", b"\x00"),
    Range(b"r", b"s"),
    Range(b"ra", b"rd"),
    Put(b"r"),
    Put(b"w", prev_kv=True),
    DeleteRange(b"w", b"\x00"),
    DeleteRange(b"w1", b"w3"),
    DeleteRange(b"w1", b"w2", prev_kv=True),
    Txn((Compare(b"w", 0, 0, 0),)),
    Txn((Compare(b"r", 0, 0, 0, b"\x00"),)),
    Txn((), (Put(b"w"),), (Put(b"r"),)),
    Txn((), (Put(b"w"), Range(b"w"))),
    Txn((), (Put(b"w", prev_kv=True),)),
    Txn((), (DeleteRange(b"w1", b"w2", prev_kv=True),)),
    Txn((), (Txn((Compare(b"w", 0, 0, 0),)),)),
    Txn((), (), (Txn((), (), (Txn((), (Put(b"secret"),)),)),)),
]


async def test_operations(node: Node) -> None:
    auth = node.auth
    await enable(auth)
    await add(
        auth,
        "eve",
        Permission(READ, b"r"),
        Permission(READ, b"ra", b"rb"),
        Permission(READ, b"rb", b"rc"),
        Permission(WRITE, b"w"),
        Permission(WRITE, b"w1", b"w2"),
        Permission(READWRITE, b"rw"),
    )
    for op in ALLOWED:
        auth.check_op("eve", op)
    for op in DENIED:
        with pytest.raises(PermissionDenied):
            auth.check_op("eve", op)
            pytest.fail(f"{op} is allowed")
        auth.check_op("root", op)


async def test_permissions_change_at_once(node: Node) -> None:
    auth = node.auth
    await enable(auth)
    await add(auth, "eve", Permission(READ, b"a", b"c"))
    await auth.role_add("more")
    await auth.role_grant_permission("more", Permission(READ, b"c", b"\x00"))
    with pytest.raises(PermissionDenied):
        auth.check_read("eve", b"a", b"\x00")
    await auth.user_grant_role("eve", "more")
    auth.check_read("eve", b"a", b"\x00")
    await auth.role_grant_permission("eves", Permission(WRITE, b"a", b"c"))  # replaces the one for that range
    with pytest.raises(PermissionDenied):
        auth.check_read("eve", b"a")
    auth.check_write("eve", b"a")
    await auth.role_revoke_permission("eves", b"a", b"c")
    with pytest.raises(PermissionDenied):
        auth.check_write("eve", b"a")
    await auth.role_delete("more")
    assert await auth.user_get("eve") == ("eves",)
    with pytest.raises(PermissionDenied):
        auth.check_read("eve", b"c")


async def test_root_cannot_be_locked_out(node: Node) -> None:
    auth = node.auth
    await enable(auth)
    with pytest.raises(InvalidAuthManagement):
        await auth.user_delete("root")
    with pytest.raises(InvalidAuthManagement):
        await auth.user_revoke_role("root", "root")
    with pytest.raises(InvalidAuthManagement):
        await auth.role_delete("root")
    with pytest.raises(InvalidAuthManagement):
        await auth.role_grant_permission("none", Permission(READ, b"b", b"a"))
    with pytest.raises(RoleNotFound):
        await auth.role_get("root")
    await auth.disable()
    await auth.user_revoke_role("root", "root")
    await auth.user_delete("root")


async def test_leases(node: Node) -> None:
    auth = node.auth
    await enable(auth)
    await add(auth, "eve", Permission(READWRITE, b"mine"))
    await node.lease_grant(100, 5)
    auth.check_op("eve", Put(b"mine", lease=5))
    await node.put(Put(b"mine", lease=5))
    auth.check_op("eve", Put(b"mine", lease=5))
    auth.check_lease_read("eve", 5)
    await node.put(Put(b"other", lease=5))
    for check in (auth.check_lease_read, auth.check_lease_write):
        with pytest.raises(PermissionDenied):
            check("eve", 5)
        check("root", 5)
        check("eve", 77)  # there is none
    for op in (Put(b"mine", lease=5), Txn((), (Put(b"mine", lease=5),))):
        with pytest.raises(PermissionDenied):
            auth.check_op("eve", op)


async def test_a_guard_stands_where_a_write_is_staged(node: Node) -> None:
    """Withdrawn while the write waits for room: it is refused."""
    auth = node.auth
    await enable(auth)
    eve = await add(auth, "eve", Permission(WRITE, b"a"))
    node._store._room.clear()  # as while a very large batch waits for the disk
    op = Put(b"a", b"1")
    putting = asyncio.create_task(node.put(op, auth.guard(eve, op)))
    await asyncio.sleep(0)
    auth._become(type(auth._state)(True, auth.revision, {}, {}))
    node._store._room.set()
    with pytest.raises(PermissionDenied):
        await putting
    assert node.range(Range(b"a")).count == 0
