"""What our tables hold as etcd 3.5's buckets, and the way back.

Revisions and records are the same bytes in both, except that etcd's tombstone has only the key.
"""

from __future__ import annotations

import heapq
import itertools
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple, TypeAlias, TypeVar

from kvstore.alarms import TABLE as ALARMS
from kvstore.alarms import Alarm, AlarmType
from kvstore.auth import TABLE as AUTH
from kvstore.auth import AuthState, Role, User
from kvstore.backend import NO_COMPACTION, Commit
from kvstore.bolt import Reader, Writer
from kvstore.permissions import Permission
from kvstore.record import decode, encode_tombstone, etcd_tombstone, varint
from kvstore.revision import KEY_SIZE, from_key, main_of
from kvstore.store import FINISHED_COMPACTION, SCHEDULED_COMPACTION
from kvstore.version import CLUSTER_VERSION

HISTORY, META = b"key", b"meta"  # the buckets without which it is no database of etcd's
Rows: TypeAlias = Iterable[tuple[bytes, bytes]]
SORTED_AT_ONCE = 2000  # rows; half a millisecond
COMMIT_BYTES = 8 << 20  # of what is read, about how much is given at once
# 8 bytes main, `_`, 8 bytes sub: how etcd writes a compaction's revision, too.
_REVISION = struct.Struct(">QcQ")
_NUMBER = struct.Struct(">Q")
_SIGNED = struct.Struct(">q")


class Member(NamedTuple):
    """The member that a snapshot is of."""

    id: int
    name: str
    peer_urls: list[str]


# ---- ours as etcd's -------------------------------------------------------------------------------------------------


def write(file: IO[bytes], table: Callable[[str], Rows], member: Member) -> None:
    """Write the database that etcd would have, into an empty file. `table` gives the rows of one of ours, in order."""
    numbers = {name.decode(): int(number) for name, number in table("meta")}
    auth = AuthState.load(dict(table(AUTH)))
    history = _History(table("revisions"))
    writer = Writer(file)
    writer.bucket(b"alarm", sorted((_alarm(Alarm.from_row(row)), b"") for row, _ in table(ALARMS)))
    enabled = [(b"authEnabled", b"\x01")] if auth.enabled else []
    writer.bucket(b"auth", [*enabled, (b"authRevision", _NUMBER.pack(auth.revision))])
    writer.bucket(b"authRoles", sorted((name.encode(), _role(role)) for name, role in auth.roles.items()))
    writer.bucket(b"authUsers", sorted((name.encode(), _user(user)) for name, user in auth.users.items()))
    writer.bucket(b"cluster", [(b"clusterVersion", CLUSTER_VERSION.encode())])
    writer.bucket(HISTORY, history)
    writer.bucket(b"lease", _in_order(_lease(int(name), int(ttl)) for name, ttl in table("leases")))
    writer.bucket(b"members", [(f"{member.id:x}".encode(), _member(member))])
    writer.bucket(b"members_removed", [])
    writer.bucket(META, sorted(_meta(numbers, history.newest, member).items()))
    writer.finish()


class _History:
    """Records as etcd stores them; `newest` is the main revision of the last one that was given."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.newest = 1

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        key = b""
        for key, record in self._rows:
            yield key, record if len(key) == KEY_SIZE else etcd_tombstone(record)
        if key:
            self.newest = main_of(from_key(key))


def _in_order(rows: Rows) -> Rows:
    """Sort rows, of which there may be many: one long sort would keep Python's lock from everybody until it ends."""
    rows = iter(rows)
    parts: list[list[tuple[bytes, bytes]]] = []
    while part := sorted(itertools.islice(rows, SORTED_AT_ONCE)):
        parts.append(part)
    return heapq.merge(*parts)


def _meta(numbers: dict[str, int], newest: int, member: Member) -> dict[bytes, bytes]:
    scheduled = numbers.get(SCHEDULED_COMPACTION, NO_COMPACTION)
    finished = numbers.get(FINISHED_COMPACTION, NO_COMPACTION)
    if scheduled > newest:
        finished = scheduled  # only from a finished compaction does etcd take a revision that has no record
    meta = {
        # One member has no raft log: the revision stands for it, here as in Status.
        b"consistent_index": _NUMBER.pack(max(newest, scheduled)),
        b"term": _NUMBER.pack(numbers.get("raft_term", 1)),
        b"confState": json.dumps({"voters": [member.id], "auto_leave": False}, separators=(",", ":")).encode(),
    }
    if scheduled > 0:
        meta[b"scheduledCompactRev"] = _REVISION.pack(scheduled, b"_", 0)
    if finished > 0:
        meta[b"finishedCompactRev"] = _REVISION.pack(finished, b"_", 0)
    return meta


def _member(member: Member) -> bytes:
    shown = {"id": member.id, "peerURLs": member.peer_urls, "name": member.name}
    return json.dumps(shown, separators=(",", ":"), ensure_ascii=False).encode()


def _alarm(alarm: Alarm) -> bytes:
    return _integer(1, alarm.member_id) + _integer(2, alarm.type)


def _lease(lease_id: int, ttl: int) -> tuple[bytes, bytes]:
    return _SIGNED.pack(lease_id), _integer(1, lease_id) + _integer(2, ttl)


def _user(user: User) -> bytes:
    roles = b"".join(_bytes(3, role.encode()) for role in user.roles)
    # etcd writes the options of every user, be they empty.
    return _bytes(1, user.name.encode()) + _bytes(2, user.password) + roles + _nested(4, _integer(1, user.no_password))


def _role(role: Role) -> bytes:
    return _bytes(1, role.name.encode()) + b"".join(
        _nested(2, _integer(1, each.type) + _bytes(2, each.key) + _bytes(3, each.range_end))
        for each in role.permissions
    )


# ---- etcd's as ours -------------------------------------------------------------------------------------------------


def read(database: Reader, *, bump: int = 0) -> Iterator[Commit]:
    """What a data directory of ours needs to hold the same: history, compaction, leases, users, roles and alarms.

    `bump` moves the revision on by that much and compacts everything before it, so that whoever watched the old store
    notices. Which members there were is left out, as in etcd's restore. Raises BoltError, or ValueError for what etcd
    does not write.
    """
    commit = Commit()
    size = 0
    newest = 1
    for key, record in database.bucket(HISTORY):
        newest = _main_of(key)
        if not record:
            continue  # what a raised revision leaves, when etcdutl raises it
        if len(key) > KEY_SIZE:
            record = _tombstone(record, newest)
        else:
            _check(record, newest)
        commit.revisions.append(from_key(key))
        commit.records.append(record)
        size += len(record)
        if size >= COMMIT_BYTES:
            yield commit
            commit, size = Commit(), 0
    yield commit
    yield _rest(database, newest, bump)


def revision_of(database: Reader, last: bytes) -> int:
    """The revision of a database with that last key in its history; a compaction may have left no record of it."""
    newest = _main_of(last) if last else 1
    return max(newest, _compaction(dict(database.bucket(META)), b"scheduledCompactRev"))


def _rest(database: Reader, newest: int, bump: int) -> Commit:
    """Everything but the history."""
    commit = Commit()
    meta = dict(database.bucket(META))
    finished = _compaction(meta, b"finishedCompactRev")
    scheduled = max(finished, _compaction(meta, b"scheduledCompactRev"))
    if bump:
        scheduled = max(newest, scheduled) + bump
    commit.meta = {SCHEDULED_COMPACTION: scheduled, FINISHED_COMPACTION: finished}
    for _, lease in database.bucket(b"lease"):
        fields = _fields(lease)
        commit.leases[_signed(_first(fields, 1, 0))] = _first(fields, 2, 0)
    for alarm, _ in database.bucket(b"alarm"):
        fields = _fields(alarm)
        commit.rows[ALARMS, Alarm(AlarmType(_first(fields, 2, 0)), _first(fields, 1, 0)).row] = b""
    auth = dict(database.bucket(b"auth"))
    state = AuthState(
        auth.get(b"authEnabled") == b"\x01",
        _NUMBER.unpack(auth.get(b"authRevision", _NUMBER.pack(1)))[0],
        {user.name: user for user in (_as_user(row) for _, row in database.bucket(b"authUsers"))},
        {role.name: role for role in (_as_role(row) for _, row in database.bucket(b"authRoles"))},
    )
    for key, row in state.records().items():
        commit.rows[AUTH, key] = row
    return commit


def _main_of(key: bytes) -> int:
    if len(key) < KEY_SIZE or key[8:9] != b"_" or key[KEY_SIZE:] not in (b"", b"t"):
        raise ValueError(f"{key!r} is no revision of etcd's")
    return main_of(from_key(key))


def _check(record: bytes, main: int) -> None:
    try:
        kv = decode(record)
    except (ValueError, IndexError):
        kv = None
    if kv is None or not kv.key or kv.mod_revision != main or kv.version < 1:
        raise ValueError(f"what is stored at revision {main} cannot be read")


def _tombstone(record: bytes, main: int) -> bytes:
    key = _first(_fields(record), 1, b"")
    if not key:
        raise ValueError(f"what is stored at revision {main} cannot be read")
    return encode_tombstone(key, main)


def _compaction(meta: dict[bytes, bytes], name: bytes) -> int:
    return main_of(from_key(meta[name])) if name in meta else NO_COMPACTION


def _as_user(row: bytes) -> User:
    fields = _fields(row)
    roles = sorted(_text(role) for role in fields.get(3, []))
    options = _fields(_first(fields, 4, b""))
    return User(_text(_first(fields, 1, b"")), _first(fields, 2, b""), tuple(roles), bool(_first(options, 1, 0)))


def _as_role(row: bytes) -> Role:
    fields = _fields(row)
    granted = [_fields(each) for each in fields.get(2, []) if isinstance(each, bytes)]
    permissions = [Permission(_first(each, 1, 0), _first(each, 2, b""), _first(each, 3, b"")) for each in granted]
    return Role(_text(_first(fields, 1, b"")), tuple(permissions))


# ---- protobuf's wire form -------------------------------------------------------------------------------------------


def _integer(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number) if number else b""


def _nested(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def _bytes(field: int, content: bytes) -> bytes:
    return _nested(field, content) if content else b""


_Fields: TypeAlias = dict[int, list[int | bytes]]
T = TypeVar("T", int, bytes)


def _first(fields: _Fields, field: int, default: T) -> T:
    """The value of a field. Raises ValueError if it is of another type than the default."""
    value = fields.get(field, [default])[-1]
    if not isinstance(value, type(default)):
        raise ValueError("a message of etcd's is damaged")
    return value


def _text(value: int | bytes) -> str:
    if isinstance(value, int):
        raise ValueError("a message of etcd's is damaged")
    return value.decode()


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _fields(message: bytes) -> _Fields:
    """The integers and byte strings of a message. Raises ValueError for anything else."""
    fields: _Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, at = _varint(message, at)
        if tag & 7 == 0:
            fields.setdefault(tag >> 3, []).append(number)
        elif tag & 7 == 2 and at + number <= len(message):
            fields.setdefault(tag >> 3, []).append(message[at : at + number])
            at += number
        else:
            raise ValueError("a message of etcd's is damaged")
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A varint at a position, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a message of etcd's is damaged")
