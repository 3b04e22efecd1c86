"""Users, roles and what they may do, with etcd's rules and errors.

A change is staged and committed like any write; whoever is told of it can rely on it after a crash. What is checked is
the staged state: a permission that is withdrawn is gone at once, and if the commit fails it is back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Self, TypeAlias, TypeVar

import msgspec
import structlog

from kvstore.api import DeleteRange, Op, Put, Range, Txn
from kvstore.errors import (
    AuthFailed,
    AuthNotEnabled,
    InvalidAuthManagement,
    InvalidAuthToken,
    NoPasswordUser,
    PermissionDenied,
    PermissionNotGranted,
    RoleEmpty,
    RoleExists,
    RoleNotFound,
    RoleNotGranted,
    RootRoleNotGranted,
    RootUserNotExist,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from kvstore.passwords import Passwords
from kvstore.permissions import Grants, Permission, is_valid
from kvstore.store import Store, WriteTxn
from kvstore.tokens import Tokens

TABLE = "auth"
ROOT = "root"  # the user, and the role
TOKEN_TTL = 300.0  # seconds, as in etcd
BCRYPT_COST = 10  # as in etcd

Guard: TypeAlias = Callable[[], None]
"""Runs when a request's turn has come, after the checks of its shape; refuses it by raising."""

T = TypeVar("T")
log = structlog.get_logger("kvstore")


class Caller(msgspec.Struct, frozen=True):
    """Who a request says it comes from: a token, or the common name of a client certificate that was verified."""

    token: str | None = None
    common_name: str = ""


class User(msgspec.Struct, frozen=True):
    """`password` is a bcrypt hash. One with `no_password` is known by its certificate only."""

    name: str
    password: bytes = b""
    roles: tuple[str, ...] = ()  # sorted
    no_password: bool = False


class Role(msgspec.Struct, frozen=True):
    """`permissions` are sorted by key; those of one key stand in the order in which they were granted."""

    name: str
    permissions: tuple[Permission, ...] = ()


class AuthStatistics(msgspec.Struct, frozen=True):
    """Everything countable about users."""

    enabled: bool
    revision: int
    users: int
    roles: int
    tokens: int


class AuthState(msgspec.Struct, frozen=True):
    """All of it. A change makes another one, so that it can be taken back whole."""

    enabled: bool = False
    revision: int = 1
    users: Mapping[str, User] = {}
    roles: Mapping[str, Role] = {}

    @classmethod
    def load(cls, records: Mapping[bytes, bytes]) -> Self:
        """What the rows on disk say."""
        enabled, revision = False, 1
        users: dict[str, User] = {}
        roles: dict[str, Role] = {}
        for key, record in records.items():
            if key[:1] == _USER:
                user = msgspec.msgpack.decode(record, type=User)
                users[user.name] = user
            elif key[:1] == _ROLE:
                role = msgspec.msgpack.decode(record, type=Role)
                roles[role.name] = role
            else:
                enabled, revision = msgspec.msgpack.decode(record, type=tuple[bool, int])
        return cls(enabled, revision, users, roles)

    def records(self) -> dict[bytes, bytes]:
        """All of it as rows."""
        records = self.changes(self.users, self.roles)
        return {key: record for key, record in records.items() if record is not None}

    def changes(self, users: Mapping[str, User | None], roles: Mapping[str, Role | None]) -> dict[bytes, bytes | None]:
        """The rows of these users and roles, None for those that are gone, and of what else there is."""
        records: dict[bytes, bytes | None] = {_STATE: msgspec.msgpack.encode((self.enabled, self.revision))}
        for name, user in users.items():
            records[_key(_USER, name)] = None if user is None else msgspec.msgpack.encode(user)
        for name, role in roles.items():
            records[_key(_ROLE, name)] = None if role is None else msgspec.msgpack.encode(role)
        return records


class Auth:
    """The users and roles of a store. Calls that change or read them wait for the disk as every write does.

    lease_keys: the keys attached to a lease.
    rng: where tokens come from; see `Tokens`.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_keys: Callable[[int], Iterable[bytes]],
        now: Callable[[], float],
        rng: random.Random,
        bcrypt_cost: int,
        token_ttl: float,
        inline: bool,
    ) -> None:
        self._store = store
        self._lease_keys = lease_keys
        self._tokens = Tokens(ttl=token_ttl, now=now, rng=rng)
        self._passwords = Passwords(cost=bcrypt_cost, inline=inline)
        self._become(AuthState())

    def restore(self, records: Mapping[bytes, bytes]) -> None:
        """Take over what is on disk."""
        self._become(AuthState.load(records))

    def close(self) -> None:
        """Let go of the threads."""
        self._passwords.close()

    @property
    def revision(self) -> int:
        """Starts at 1, and grows with every change."""
        return self._state.revision

    def statistics(self) -> AuthStatistics:
        """The numbers now."""
        state = self._state
        return AuthStatistics(state.enabled, state.revision, len(state.users), len(state.roles), len(self._tokens))

    # ---- may they? ------------------------------------------------------------------------------------------------

    def user_of(self, caller: Caller) -> str:
        """The user who calls. Raises InvalidAuthToken, or UserEmpty if the caller does not say."""
        if caller.token is not None:
            user = self._tokens.user(caller.token)
            if user is None:
                raise InvalidAuthToken()
            return user
        if caller.common_name:
            return caller.common_name
        raise UserEmpty()

    def is_root(self, user: str) -> bool:
        """Whether the user has the role root, which may do everything."""
        known = self._state.users.get(user)
        return known is not None and ROOT in known.roles

    def has_role(self, user: str, role: str) -> bool:
        """Whether the user has the role."""
        known = self._state.users.get(user)
        return known is not None and role in known.roles

    def check_root(self, user: str) -> None:
        """Raises PermissionDenied for anybody without the role root."""
        if not self.is_root(user):
            raise PermissionDenied()

    def check_user(self, user: str) -> None:
        """Raises PermissionDenied if there is no such user: a certificate may name anybody."""
        if user not in self._state.users:
            raise PermissionDenied()

    def check_read(self, user: str, key: bytes, range_end: bytes = b"") -> None:
        """Raises PermissionDenied unless the user may read every key of the range."""
        if not self.is_root(user) and not self._grants_of(user).read.covers(key, range_end):
            raise PermissionDenied()

    def check_write(self, user: str, key: bytes, range_end: bytes = b"") -> None:
        """Raises PermissionDenied unless the user may write every key of the range."""
        if not self.is_root(user) and not self._grants_of(user).write.covers(key, range_end):
            raise PermissionDenied()

    def check_lease_write(self, user: str, lease_id: int) -> None:
        """Raises PermissionDenied unless the user may write every key of the lease: its end deletes them."""
        if lease_id and not self.is_root(user):
            for key in self._lease_keys(lease_id):
                self.check_write(user, key)

    def check_lease_read(self, user: str, lease_id: int) -> None:
        """Raises PermissionDenied unless the user may read every key of the lease."""
        if not self.is_root(user):
            for key in self._lease_keys(lease_id):
                self.check_read(user, key)

    def check_op(self, user: str, op: Op) -> None:
        """Raises PermissionDenied unless the user may do all of it: both branches of a transaction, nested ones too."""
        if isinstance(op, Range):
            self.check_read(user, op.key, op.range_end)
        elif isinstance(op, Put):
            self.check_write(user, op.key)
            self.check_lease_write(user, op.lease)
            if op.prev_kv:
                self.check_read(user, op.key)
        elif isinstance(op, DeleteRange):
            self.check_write(user, op.key, op.range_end)
            if op.prev_kv:
                self.check_read(user, op.key, op.range_end)
        elif isinstance(op, Txn):
            for compare in op.compare:
                self.check_read(user, compare.key, compare.range_end)
            for each in (*op.success, *op.failure):
                self.check_op(user, each)

    def guard(self, caller: Caller, op: Op) -> Guard:
        """Checks, when called, that the caller may do the operation."""
        return lambda: self.check_op(self.user_of(caller), op)

    def lease_guard(self, caller: Caller, lease_id: int) -> Guard:
        """Checks, when called, that the caller may end the lease."""

        def guard() -> None:
            user = self.user_of(caller)
            self.check_user(user)
            self.check_lease_write(user, lease_id)

        return guard

    def _grants_of(self, user: str) -> Grants:
        grants = self._grants.get(user)
        if grants is None:
            known = self._state.users.get(user)
            if known is None:
                raise PermissionDenied()
            roles = (self._state.roles[name] for name in known.roles if name in self._state.roles)
            grants = self._grants[user] = Grants(each for role in roles for each in role.permissions)
        return grants

    # ---- logging in -----------------------------------------------------------------------------------------------

    async def authenticate(self, name: str, password: str) -> str:
        """A token for the user. Raises AuthNotEnabled, AuthFailed or NoPasswordUser."""
        while True:
            if not self.enabled:
                raise AuthNotEnabled()
            user = self._state.users.get(name)
            if user is not None and user.no_password:
                raise NoPasswordUser()
            if user is None or not await self._passwords.match(password, user.password):
                log.warning("authentication_failed", user=name[:64], known=user is not None)
                raise AuthFailed()
            now = self._state.users.get(name)
            if self.enabled and now is not None and now.password == user.password:
                return self._tokens.assign(name, self._store.revision)

    # ---- on and off -----------------------------------------------------------------------------------------------

    async def enable(self) -> None:
        """From now on every request needs a user. Raises RootUserNotExist or RootRoleNotGranted."""

        def stage(txn: WriteTxn) -> None:
            if self.enabled:
                return
            root = self._state.users.get(ROOT)
            if root is None:
                raise RootUserNotExist()
            if ROOT not in root.roles:
                raise RootRoleNotGranted()
            self._change(txn, enabled=True, step=0)

        await self._store.write(stage)
        log.info("authentication_enabled")

    async def disable(self) -> None:
        """From now on everybody may do everything."""

        def stage(txn: WriteTxn) -> None:
            if self.enabled:
                self._change(txn, enabled=False)
                self._tokens.clear()

        await self._store.write(stage)
        log.info("authentication_disabled")

    async def status(self) -> tuple[bool, int]:
        """(enabled, revision)."""
        return await self._read(lambda state: (state.enabled, state.revision))

    # ---- users ----------------------------------------------------------------------------------------------------

    async def user_add(self, name: str, password: str = "", *, no_password: bool = False) -> None:
        """Raises UserEmpty, UserExists or PasswordTooLong."""
        hashed = b"" if no_password else await self._passwords.hash(password)

        def stage(txn: WriteTxn) -> None:
            if not name:
                raise UserEmpty()
            if name in self._state.users:
                raise UserExists()
            self._change(txn, users={name: User(name, hashed, no_password=no_password)})

        await self._store.write(stage)

    async def user_change_password(self, name: str, password: str = "", hashed: bytes | None = b"") -> None:
        """Its tokens end. Without a password the hash is taken as it is; None is one that could not be read.

        Raises UserNotFound, PasswordTooLong or NoPasswordUser.
        """
        if password:
            hashed = await self._passwords.hash(password)

        def stage(txn: WriteTxn) -> None:
            user = self._user(name)
            if not user.no_password:
                if hashed is None:
                    raise NoPasswordUser()
                user = msgspec.structs.replace(user, password=hashed)
            self._change(txn, users={name: user})
            self._tokens.forget(name)

        await self._store.write(stage)

    async def user_delete(self, name: str) -> None:
        """Its tokens end. Raises UserNotFound, or InvalidAuthManagement for root while that is needed."""

        def stage(txn: WriteTxn) -> None:
            if self.enabled and name == ROOT:
                raise InvalidAuthManagement()
            self._user(name)
            self._change(txn, users={name: None})
            self._tokens.forget(name)

        await self._store.write(stage)

    async def user_grant_role(self, name: str, role: str) -> None:
        """Raises UserNotFound or RoleNotFound; the role root need not exist."""

        def stage(txn: WriteTxn) -> None:
            user = self._user(name)
            if role != ROOT:
                self._role(role)
            if role not in user.roles:
                roles = tuple(sorted((*user.roles, role)))
                self._change(txn, users={name: msgspec.structs.replace(user, roles=roles)})

        await self._store.write(stage)

    async def user_revoke_role(self, name: str, role: str) -> None:
        """Raises UserNotFound, RoleNotGranted, or InvalidAuthManagement for root's own role while that is needed."""

        def stage(txn: WriteTxn) -> None:
            if self.enabled and name == role == ROOT:
                raise InvalidAuthManagement()
            user = self._user(name)
            if role not in user.roles:
                raise RoleNotGranted()
            self._change(txn, users={name: _without(user, role)})

        await self._store.write(stage)

    async def user_get(self, name: str) -> tuple[str, ...]:
        """The roles of a user, sorted. Raises UserNotFound."""
        return await self._read(lambda _: self._user(name).roles)

    async def users(self) -> list[str]:
        """The names of all users, sorted."""
        return await self._read(lambda state: sorted(state.users))

    # ---- roles ----------------------------------------------------------------------------------------------------

    async def role_add(self, name: str) -> None:
        """Raises RoleEmpty or RoleExists."""

        def stage(txn: WriteTxn) -> None:
            if not name:
                raise RoleEmpty()
            if name in self._state.roles:
                raise RoleExists()
            self._change(txn, roles={name: Role(name)})

        await self._store.write(stage)

    async def role_delete(self, name: str) -> None:
        """Users lose it. Raises RoleNotFound, or InvalidAuthManagement for root while that is needed."""

        def stage(txn: WriteTxn) -> None:
            if self.enabled and name == ROOT:
                raise InvalidAuthManagement()
            self._role(name)
            losers = {user.name: _without(user, name) for user in self._state.users.values() if name in user.roles}
            self._change(txn, users=losers, roles={name: None})

        await self._store.write(stage)

    async def role_grant_permission(self, name: str, permission: Permission) -> None:
        """For a range that the role has a permission for, the new one replaces it.

        Raises RoleNotFound, or InvalidAuthManagement for a range that can hold no key.
        """

        def stage(txn: WriteTxn) -> None:
            if not is_valid(permission):
                raise InvalidAuthManagement()
            role = self._role(name)
            ranges = [(each.key, each.range_end) for each in role.permissions]
            granted = list(role.permissions)
            if (permission.key, permission.range_end) in ranges:
                granted[ranges.index((permission.key, permission.range_end))] = permission
            else:
                granted.append(permission)
                granted.sort(key=lambda each: each.key)
            self._change(txn, roles={name: Role(name, tuple(granted))})

        await self._store.write(stage)

    async def role_revoke_permission(self, name: str, key: bytes, range_end: bytes = b"") -> None:
        """Raises RoleNotFound or PermissionNotGranted."""

        def stage(txn: WriteTxn) -> None:
            role = self._role(name)
            left = tuple(each for each in role.permissions if (each.key, each.range_end) != (key, range_end))
            if len(left) == len(role.permissions):
                raise PermissionNotGranted()
            self._change(txn, roles={name: Role(name, left)})

        await self._store.write(stage)

    async def role_get(self, name: str) -> tuple[Permission, ...]:
        """The permissions of a role, by key. Raises RoleNotFound."""
        return await self._read(lambda _: self._role(name).permissions)

    async def roles(self) -> list[str]:
        """The names of all roles, sorted."""
        return await self._read(lambda state: sorted(state.roles))

    # ---- state ----------------------------------------------------------------------------------------------------

    def _user(self, name: str) -> User:
        user = self._state.users.get(name)
        if user is None:
            raise UserNotFound()
        return user

    def _role(self, name: str) -> Role:
        role = self._state.roles.get(name)
        if role is None:
            raise RoleNotFound()
        return role

    async def _read(self, get: Callable[[AuthState], T]) -> T:
        # A write that changes nothing: it waits until what it saw is on disk.
        return await self._store.write(lambda _: get(self._state))

    def _change(
        self,
        txn: WriteTxn,
        *,
        users: Mapping[str, User | None] = {},
        roles: Mapping[str, Role | None] = {},
        enabled: bool | None = None,
        step: int = 1,
    ) -> None:
        before = self._state
        after = AuthState(
            before.enabled if enabled is None else enabled,
            before.revision + step,
            _changed(before.users, users),
            _changed(before.roles, roles),
        )

        def undo() -> None:
            self._become(before)
            for name in users:  # a token may have been given for a password that never came to be
                self._tokens.forget(name)

        txn.auth(after.changes(users, roles), undo)
        self._become(after)

    def _become(self, state: AuthState) -> None:
        self._state = state
        self.enabled = state.enabled  # apart, because every request asks
        self._grants: dict[str, Grants] = {}  # by user, made when first asked for


_STATE, _USER, _ROLE = b"s", b"u", b"r"


def _key(kind: bytes, name: str) -> bytes:
    return kind + hashlib.sha256(name.encode()).digest()  # LMDB's keys are short, names need not be


def _changed(before: Mapping[str, T], changes: Mapping[str, T | None]) -> Mapping[str, T]:
    if not changes:
        return before
    after = {name: value for name, value in before.items() if name not in changes}
    after.update((name, value) for name, value in changes.items() if value is not None)
    return after


def _without(user: User, role: str) -> User:
    return msgspec.structs.replace(user, roles=tuple(each for each in user.roles if each != role))
