"""The store as a simulated process sees it: slow, unreliable, and gone when the process dies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextvars import Context
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import msgspec

from kvstore.api import (
    Client,
    CompactResponse,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeResponse,
    KeyValue,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseLeasesResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    MemberListResponse,
    Op,
    Put,
    PutResponse,
    Range,
    RangeResponse,
    StatusResponse,
    TxnResponse,
    Watch,
    WatchFilter,
    WatchResponse,
)
from kvstore.errors import KvError, TooManyRequests, Unavailable

LATENCY = 0.0005  # seconds, the least a call takes: a loop without end that writes takes virtual time

T = TypeVar("T")


class Faults(msgspec.Struct, frozen=True):
    """The chance of each fault for one call, of a cut or a delay for one batch of a watch; 0 = never.

    lost_request: nothing was done, nobody knows. lost_reply: it was done, nobody knows. refused: the server says no.
    conflict: somebody writes the key first. crash: the process dies right after the write took place, before it learns
    of it. slow: the answer takes up to `slowest` seconds. cut: a watch ends. late: events come up to `latest` s later.
    """

    lost_request: float = 0.02
    lost_reply: float = 0.02
    refused: float = 0.01
    conflict: float = 0.03
    crash: float = 0.02
    slow: float = 0.1
    slowest: float = 2.0
    cut: float = 0.03
    late: float = 0.1
    latest: float = 8.0


NO_FAULTS = Faults(lost_request=0, lost_reply=0, refused=0, conflict=0, crash=0, slow=0, cut=0, late=0)


class Observer(Protocol):
    """Who is told what the client does."""

    def fault(self, who: str, name: str, what: str) -> None:
        """A fault is about to be injected."""

    def wrote(self, who: str, revision: int) -> None:
        """That revision is this client's work."""


class SimulatedClient:
    """Delegates to `inner`, with faults. A `kvstore.api.Client`.

    name: of the process. outside: the context of what outlives the process: a call that has reached the store.
    crash: kills the process; called from inside one of its tasks. `dead`: every call fails and does nothing.
    `renews`: whether keepalives of leases get through.
    """

    def __init__(
        self,
        inner: Client,
        name: str,
        *,
        faults: Faults,
        rng: random.Random,
        observer: Observer,
        outside: Context,
        crash: Callable[[], None],
    ) -> None:
        self._inner = inner
        self.name = name
        self.faults = faults
        self._rng = rng
        self._observer = observer
        self._outside = outside
        self._crash = crash
        self.dead = False
        self.renews = True

    def happens(self, fault: str, what: str) -> bool:
        """Whether that fault happens now; it is noted."""
        chance: float = getattr(self.faults, fault)
        if not chance or self._rng.random() >= chance:
            return False
        self._observer.fault(self.name, fault, what)
        return True

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See `Client.get`."""
        return await self._call(f"get {_text(key)}", self._inner.get(key, revision=revision))

    async def range(self, request: Range) -> RangeResponse:
        """See `Client.range`."""
        return await self._call(f"range {_text(request.key)}", self._inner.range(request))

    async def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> PutResponse:
        """See `Client.put`."""
        put = self._inner.put(key, value, lease=lease, prev_kv=prev_kv)
        return await self._write(f"put {_text(key)}", put, lambda _: True)

    async def delete(self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> DeleteRangeResponse:
        """See `Client.delete`."""
        delete = self._inner.delete(key, range_end, prev_kv=prev_kv)
        return await self._write(f"delete {_text(key)}", delete, lambda answer: answer.deleted > 0)

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        """See `Client.txn`."""
        key = compare[-1].key if compare else b""
        if compare and self.happens("conflict", f"somebody else writes {_text(key)}"):
            await self._touch(key)
        return await self._write(f"txn {_text(key)}", self._inner.txn(compare, success, failure), _writes)

    async def compact(self, revision: int, *, physical: bool = False) -> CompactResponse:
        """See `Client.compact`."""
        return await self._call("compact", self._inner.compact(revision, physical=physical))

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
        """See `Client.watch`."""
        inner = self._inner.watch(
            key,
            range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=filters,
            resume=resume,
        )
        return _SimulatedWatch(inner, self, _text(key), self._rng)

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> LeaseGrantResponse:
        """See `Client.lease_grant`."""
        return await self._call("lease grant", self._inner.lease_grant(ttl, lease_id))

    async def lease_revoke(self, lease_id: int) -> LeaseRevokeResponse:
        """See `Client.lease_revoke`."""
        return await self._call("lease revoke", self._inner.lease_revoke(lease_id))

    async def lease_keep_alive(self, lease_id: int) -> LeaseKeepAliveResponse:
        """See `Client.lease_keep_alive`."""
        if not self.renews:
            raise Unavailable
        return await self._call("lease keepalive", self._inner.lease_keep_alive(lease_id))

    async def lease_time_to_live(self, lease_id: int, *, keys: bool = False) -> LeaseTimeToLiveResponse:
        """See `Client.lease_time_to_live`."""
        return await self._call("lease ttl", self._inner.lease_time_to_live(lease_id, keys=keys))

    async def leases(self) -> LeaseLeasesResponse:
        """See `Client.leases`."""
        return await self._call("leases", self._inner.leases())

    async def status(self) -> StatusResponse:
        """See `Client.status`."""
        return await self._call("status", self._inner.status())

    async def member_list(self) -> MemberListResponse:
        """See `Client.member_list`."""
        return await self._call("members", self._inner.member_list())

    async def close(self) -> None:
        """Nothing: the client inside is its owner's to close."""

    async def _touch(self, key: bytes) -> None:
        """Somebody writes what is there once more: nothing changes but its version."""
        present = await self._inner.get(key)
        if present is not None:
            unchanged = Compare(key, CompareTarget.MOD, CompareResult.EQUAL, present.mod_revision)
            done = await self._inner.txn((unchanged,), (Put(key, present.value, present.lease),))
            self._observer.wrote("somebody", done.header.revision)

    async def _call(self, what: str, call: Coroutine[Any, Any, T]) -> T:
        return await self._reach(what, call, None)

    async def _write(self, what: str, call: Coroutine[Any, Any, T], changed: Callable[[T], bool]) -> T:
        return await self._reach(what, call, changed)

    async def _reach(self, what: str, call: Coroutine[Any, Any, T], changed: Callable[[T], bool] | None) -> T:
        try:
            await self._pause(what)
            if self.dead or self.happens("lost_request", what):
                raise Unavailable
            if changed is not None and self.happens("refused", what):
                raise TooManyRequests
        except BaseException:
            call.close()
            raise
        # What has reached the store takes place, whoever waits for it.
        reached = asyncio.get_running_loop().create_task(_settled(call), context=self._outside)
        if changed is not None:
            reached.add_done_callback(lambda task: self._note(task, changed))
        answer, error = await asyncio.shield(reached)
        if error is not None:
            raise error
        assert answer is not None or changed is None
        if changed is not None and changed(answer) and self.happens("crash", f"after {what}"):  # type: ignore[arg-type]
            self._crash()
            await asyncio.get_running_loop().create_future()  # until it is cancelled
        if self.happens("lost_reply", what):
            raise Unavailable
        await self._pause(what)
        return answer  # type: ignore[return-value]

    def _note(self, task: asyncio.Task[tuple[T | None, KvError | None]], changed: Callable[[T], bool]) -> None:
        answer, _ = task.result()
        if answer is not None and changed(answer):
            self._observer.wrote(self.name, answer.header.revision)  # type: ignore[attr-defined]

    async def _pause(self, what: str) -> None:
        slow = self.happens("slow", what)
        await asyncio.sleep(self._rng.uniform(0, self.faults.slowest) if slow else LATENCY)


async def _settled(call: Coroutine[Any, Any, T]) -> tuple[T | None, KvError | None]:
    try:
        return await call, None
    except KvError as error:
        return None, error


def _writes(answer: TxnResponse) -> bool:
    return any(
        isinstance(each, PutResponse)
        or (isinstance(each, DeleteRangeResponse) and each.deleted > 0)
        or (isinstance(each, TxnResponse) and _writes(each))
        for each in answer.responses
    )


def _text(key: bytes) -> str:
    return key.decode(errors="replace").removeprefix("/registry/")


class _SimulatedWatch:
    def __init__(self, inner: Watch, client: SimulatedClient, what: str, rng: random.Random) -> None:
        self._inner = inner
        self._client = client
        self._what = what
        self._rng = rng
        self._held: WatchResponse | None = None
        self._until = 0.0

    @property
    def created_revision(self) -> int:
        return self._inner.created_revision

    async def __aenter__(self) -> Self:
        if self._client.dead:
            raise Unavailable
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[WatchResponse]:
        return self

    async def __anext__(self) -> WatchResponse:
        if self._client.dead or self._client.happens("cut", f"watch {self._what}"):
            raise Unavailable
        loop = asyncio.get_running_loop()
        if self._held is None:
            self._held = await anext(self._inner)
            late = self._client.happens("late", f"watch {self._what}")
            self._until = loop.time() + (self._rng.uniform(0, self._client.faults.latest) if late else 0.0)
        # Kept over a cancellation: who waits again gets it.
        if self._until > loop.time():
            await asyncio.sleep(self._until - loop.time())
        held, self._held = self._held, None
        return held

    async def request_progress(self) -> None:
        await self._inner.request_progress()
