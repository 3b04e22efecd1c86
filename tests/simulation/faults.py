"""A client between controllers and their store that loses requests and replies, lets others write first, and cuts
watches. What it does depends on its seed alone."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

from kvstore.api import (
    Client,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeResponse,
    KeyValue,
    LeaseGrantResponse,
    Op,
    Put,
    PutResponse,
    Range,
    RangeResponse,
    TxnResponse,
    Watch,
    WatchFilter,
    WatchResponse,
)
from kvstore.errors import Unavailable

LOST_REQUESTS, LOST_REPLIES, CONFLICTS, CUTS = 0.02, 0.02, 0.05, 0.03


class FaultyClient:
    """Delegates to `inner`. `rate` multiplies the chance of each fault for one call; `heal` ends all of them."""

    def __init__(self, inner: Client, rng: random.Random, rate: float = 1.0) -> None:
        self._inner = inner
        self._rng = rng
        self.lost_requests, self.lost_replies, self.conflicts, self.cuts = (
            rate * each for each in (LOST_REQUESTS, LOST_REPLIES, CONFLICTS, CUTS)
        )
        self.injected: dict[str, int] = dict.fromkeys(("request", "reply", "conflict", "cut"), 0)

    def heal(self) -> None:
        """No more faults."""
        self.lost_requests = self.lost_replies = self.conflicts = self.cuts = 0.0

    def happens(self, what: str, rate: float) -> bool:
        if self._rng.random() >= rate:
            return False
        self.injected[what] += 1
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        self._maybe_lose_request()
        return await self._inner.get(key, revision=revision)

    async def range(self, request: Range) -> RangeResponse:
        self._maybe_lose_request()
        return await self._inner.range(request)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> PutResponse:
        self._maybe_lose_request()
        answer = await self._inner.put(key, value, lease=lease, prev_kv=prev_kv)
        self._maybe_lose_reply()
        return answer

    async def delete(self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> DeleteRangeResponse:
        self._maybe_lose_request()
        answer = await self._inner.delete(key, range_end, prev_kv=prev_kv)
        self._maybe_lose_reply()
        return answer

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        self._maybe_lose_request()
        if compare and self.happens("conflict", self.conflicts):
            await self._touch(compare[0].key)
        answer = await self._inner.txn(compare, success, failure)
        self._maybe_lose_reply()
        return answer

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> LeaseGrantResponse:
        self._maybe_lose_request()
        return await self._inner.lease_grant(ttl, lease_id)

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
        inner = self._inner.watch(
            key,
            range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=filters,
            resume=resume,
        )
        return _FaultyWatch(inner, self)

    async def _touch(self, key: bytes) -> None:
        """Somebody writes what is there once more: nothing changes but its version."""
        present = await self._inner.get(key)
        if present is not None:
            unchanged = Compare(key, CompareTarget.MOD, CompareResult.EQUAL, present.mod_revision)
            await self._inner.txn((unchanged,), (Put(key, present.value, present.lease),))

    def _maybe_lose_request(self) -> None:
        if self.happens("request", self.lost_requests):
            raise Unavailable

    def _maybe_lose_reply(self) -> None:
        if self.happens("reply", self.lost_replies):
            raise Unavailable


class _FaultyWatch:
    def __init__(self, inner: Watch, client: FaultyClient) -> None:
        self._inner = inner
        self._client = client

    @property
    def created_revision(self) -> int:
        return self._inner.created_revision

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[WatchResponse]:
        return self

    async def __anext__(self) -> WatchResponse:
        if self._client.happens("cut", self._client.cuts):
            raise Unavailable
        return await anext(self._inner)

    async def request_progress(self) -> None:
        await self._inner.request_progress()
