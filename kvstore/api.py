"""The store's vocabulary: requests and responses as plain values, and the `Client` protocol that both clients follow.

Field names and their meaning are those of etcd's v3 API. Keys and values are bytes. Nothing here knows protobuf.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import msgspec


class SortOrder(enum.IntEnum):
    """Direction of a Range's order."""

    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(enum.IntEnum):
    """What a Range is ordered by."""

    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class CompareResult(enum.IntEnum):
    """The relation a Compare asks for."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class CompareTarget(enum.IntEnum):
    """What of a key a Compare looks at."""

    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class EventType(enum.IntEnum):
    """Kind of a change."""

    PUT = 0
    DELETE = 1


class WatchFilter(enum.IntEnum):
    """Kind of change that a watch leaves out."""

    NOPUT = 0
    NODELETE = 1


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """One key at one revision. `lease` 0 means none."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Event(msgspec.Struct, frozen=True):
    """A change. A DELETE's `kv` has only key and mod_revision; `prev_kv` is there when asked for and known."""

    type: EventType
    kv: KeyValue
    prev_kv: KeyValue | None = None


class Header(msgspec.Struct, frozen=True, gc=False):
    """Who answered, and the store's revision when it did."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


# ---- requests -------------------------------------------------------------------------------------------------------


class Range(msgspec.Struct, frozen=True):
    """Read [key, range_end): empty range_end = that key alone, `b"\\0"` = every key from `key` on.

    `revision` 0 = now; `limit` 0 = all; the four min/max bounds are inclusive and 0 = off.
    """

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: int = SortOrder.NONE
    sort_target: int = SortTarget.KEY
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


class Put(msgspec.Struct, frozen=True):
    """Write one key. `ignore_value` / `ignore_lease` keep what the key has."""

    key: bytes
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class DeleteRange(msgspec.Struct, frozen=True):
    """Delete [key, range_end), with `Range`'s meaning of range_end."""

    key: bytes
    range_end: bytes = b""
    prev_kv: bool = False


class Compare(msgspec.Struct, frozen=True):
    """A condition of a `Txn`: `target` of `key` stands in `result` to `value` (bytes for VALUE, else int)."""

    key: bytes
    target: int
    result: int
    value: int | bytes
    range_end: bytes = b""


class Txn(msgspec.Struct, frozen=True):
    """If every compare holds do `success`, else `failure`; all of it is one revision. Operations may be Txns."""

    compare: tuple[Compare, ...] = ()
    success: tuple[Op, ...] = ()
    failure: tuple[Op, ...] = ()


Op: TypeAlias = Range | Put | DeleteRange | Txn


# ---- responses ------------------------------------------------------------------------------------------------------


class RangeResponse(msgspec.Struct, frozen=True):
    """`count` is the number of keys in the range whatever the limit; `more` tells that the limit cut some off."""

    header: Header
    kvs: list[KeyValue]
    more: bool
    count: int


class PutResponse(msgspec.Struct, frozen=True):
    """`prev_kv` is what was replaced, if asked for."""

    header: Header
    prev_kv: KeyValue | None = None


class DeleteRangeResponse(msgspec.Struct, frozen=True):
    """`prev_kvs` are the deleted keys, if asked for."""

    header: Header
    deleted: int
    prev_kvs: list[KeyValue] = []


class TxnResponse(msgspec.Struct, frozen=True):
    """`responses` matches the operations of the branch taken. Their headers carry only a revision, as etcd's do."""

    header: Header
    succeeded: bool
    responses: list[OpResponse]


OpResponse: TypeAlias = RangeResponse | PutResponse | DeleteRangeResponse | TxnResponse


class CompactResponse(msgspec.Struct, frozen=True):
    """The compaction is in force."""

    header: Header


class WatchResponse(msgspec.Struct, frozen=True):
    """Events of whole revisions, in order; without events it is progress: all up to `header.revision` was sent."""

    header: Header
    watch_id: int
    events: list[Event]


class LeaseGrantResponse(msgspec.Struct, frozen=True):
    """`ttl` in seconds, as granted."""

    header: Header
    id: int
    ttl: int


class LeaseRevokeResponse(msgspec.Struct, frozen=True):
    """The lease and its keys are gone."""

    header: Header


class LeaseKeepAliveResponse(msgspec.Struct, frozen=True):
    """`ttl` in seconds; 0 = the lease is gone."""

    header: Header
    id: int
    ttl: int


class LeaseTimeToLiveResponse(msgspec.Struct, frozen=True):
    """`ttl` seconds left, -1 = no such lease; `granted_ttl` what it was given; `keys` only if asked for."""

    header: Header
    id: int
    ttl: int
    granted_ttl: int
    keys: list[bytes] = []


class LeaseLeasesResponse(msgspec.Struct, frozen=True):
    """Lease ids, the soonest to expire first."""

    header: Header
    leases: list[int]


class StatusResponse(msgspec.Struct, frozen=True):
    """Sizes in bytes."""

    header: Header
    version: str
    db_size: int
    db_size_in_use: int
    leader: int
    raft_index: int
    raft_term: int
    raft_applied_index: int
    errors: list[str] = []
    is_learner: bool = False


class Member(msgspec.Struct, frozen=True):
    """One server of a cluster."""

    id: int
    name: str
    peer_urls: list[str]
    client_urls: list[str]
    is_learner: bool = False


class MemberListResponse(msgspec.Struct, frozen=True):
    """The servers of the cluster."""

    header: Header
    members: list[Member]


# ---- the client protocol --------------------------------------------------------------------------------------------


class Watch(Protocol):
    """One watch: enter it to register with the server, iterate it for responses, leave it to cancel.

    Iteration ends only by an error: `Compacted` (with `compact_revision`) when history before the start revision is
    gone, `WatchCanceled` when the server refuses, `Unavailable` when the connection or the server went away. It
    reconnects by itself only if that was asked for (`resume`): else whoever knows the last revision seen does that.
    Cancelling a pending `__anext__` loses nothing.
    """

    @property
    def created_revision(self) -> int:
        """The store's revision when the watch was registered; a watch from "now" sees what comes after it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[WatchResponse]: ...

    async def __anext__(self) -> WatchResponse: ...

    async def request_progress(self) -> None:
        """Ask for a progress response; it comes through the iteration once all before it was delivered."""


class Client(Protocol):
    """What a controller, an informer or a script needs of a store; embedded and remote behave the same.

    Every method raises `kvstore.errors.KvError` subclasses. Cancelling a pending write leaves it undecided: it may
    or may not have happened.
    """

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """The key at a revision (0 = now), or None."""

    async def range(self, request: Range) -> RangeResponse:
        """Read keys. Raises InvalidArgument, Compacted or FutureRevision."""

    async def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> PutResponse:
        """Write a key. Raises InvalidArgument, LeaseNotFound or NoSpace."""

    async def delete(self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> DeleteRangeResponse:
        """Delete a key, or a range with Range's meaning of range_end."""

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        """If every compare holds do `success`, else `failure`; one revision for all of it."""

    async def compact(self, revision: int, *, physical: bool = False) -> CompactResponse:
        """Drop history below a revision; `physical` waits for the space. Raises Compacted or FutureRevision."""

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        filters: Sequence[WatchFilter] = (),
        resume: bool = False,
    ) -> Watch:
        """A watch on [key, range_end), not yet registered: `async with client.watch(...) as watch`.

        `resume`: a client that can lose its connection opens the watch again by itself, after the last revision seen,
        instead of raising `Unavailable`.
        """

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> LeaseGrantResponse:
        """A lease of `ttl` seconds (the server may raise it to its minimum); id 0 lets the server choose."""

    async def lease_revoke(self, lease_id: int) -> LeaseRevokeResponse:
        """End a lease and delete its keys. Raises LeaseNotFound."""

    async def lease_keep_alive(self, lease_id: int) -> LeaseKeepAliveResponse:
        """Renew once; a `ttl` of 0 in the answer says that the lease is gone."""

    async def lease_time_to_live(self, lease_id: int, *, keys: bool = False) -> LeaseTimeToLiveResponse:
        """What a lease has left."""

    async def leases(self) -> LeaseLeasesResponse:
        """All leases."""

    async def status(self) -> StatusResponse:
        """The server's version, sizes and place in the cluster."""

    async def member_list(self) -> MemberListResponse:
        """The servers of the cluster."""

    async def close(self) -> None:
        """Release what the client holds; open watches end with `Unavailable`. Idempotent."""


def prefix_end(prefix: bytes) -> bytes:
    """The range_end that makes [prefix, end) all keys with that prefix; `b"\\0"` (no upper end) if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\x00"
