"""The seam between informers and stores: what a reflector asks of a store, and the answer for a `kvstore` client.

Above this seam a revision is an opaque string. All that may be done with one is to hand it back and to ask which of
two of the same resource is newer, as Kubernetes allows for resourceVersion.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import msgspec

from informer.errors import ApiError, Unreachable, from_store
from kvstore import api
from kvstore.errors import KvError


class Item(msgspec.Struct, frozen=True, gc=False):
    """An object as the store holds it. `key` is "namespace/name", or "name" where there are no namespaces."""

    key: str
    data: bytes
    revision: str


class Removed(msgspec.Struct, frozen=True, gc=False):
    """The object under `key` was deleted at `revision`."""

    key: str
    revision: str


class Bookmark(msgspec.Struct, frozen=True, gc=False):
    """Every event up to `revision` was delivered; there may have been none."""

    revision: str


WatchEvent: TypeAlias = Item | Removed | Bookmark
Batch: TypeAlias = list[WatchEvent]


class ListPage(msgspec.Struct, frozen=True, gc=False):
    """A part of a list. Every page of one list is of the same `revision`; an empty `continue_` says it is the last."""

    items: list[Item]
    revision: str
    continue_: str = ""


class ListWatch(Protocol):
    """What a reflector needs of a store. Both methods raise only `ApiError`s, and both are safe to cancel.

    `Unreachable` means try again from the same point, `Expired` that the history or the page asked for is gone, any
    other `ApiError` that the request was refused.
    """

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        """A page of at most `limit` items (0 = all of them), the first one or the one that `continue_` stands for."""

    def watch(self, revision: str) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Events after `revision`, in order, each once, in batches that never part the events of one revision.

        Entering it opens the watch; `Expired` may come then or later. Iteration ends when the server ends the watch
        in good order, which asks for a new one from the last revision seen.
        """


class Prefixed(Protocol):
    """What a resource type tells about where its objects live."""

    def prefix(self, namespace: str | None = None) -> bytes:
        """What the keys of its objects begin with, those of every namespace or of one."""


def is_newer(revision: str, than: str) -> bool:
    """Whether one revision comes after another: compared as decimal numbers of any length; "" is before all."""
    return (len(revision), revision) > (len(than), than)


class StoreListWatch:
    """Lists and watches the objects under a prefix through a `kvstore` client, embedded or remote.

    prefix: a resource type, or the bytes before "namespace/name" in its keys; `namespace` narrows it to one.
    progress_notify: ask the store for its periodic progress notifications.
    quiet_after: seconds without a word on a watch until the store is asked for its progress. That keeps the last
        revision young, so that a quiet prefix can resume after a compaction, as kube-apiserver's bookmarks do.
    answer_within: seconds within which a watch has to be opened, or progress told; a dead connection often gives no
        other sign. list_within: the same for a page of a list, which may be all there is.
    """

    def __init__(
        self,
        client: api.Client,
        prefix: bytes | Prefixed,
        namespace: str | None = None,
        *,
        progress_notify: bool = True,
        quiet_after: float = 30.0,
        answer_within: float = 10.0,
        list_within: float = 60.0,
    ) -> None:
        self._client = client
        if isinstance(prefix, bytes):
            base, key = prefix, prefix + namespace.encode() + b"/" if namespace else prefix
        else:
            base, key = prefix.prefix(), prefix.prefix(namespace)
        self._base = len(base)
        self._key = key or b"\x00"  # the lowest key: a store has no empty one
        self._end = api.prefix_end(key)
        self._progress_notify = progress_notify
        self._quiet_after = quiet_after
        self._answer_within = answer_within
        self._list_within = list_within

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        """A page in key order, read at the revision of the first page."""
        at, after = _decode_continue(continue_) if continue_ else (0, b"")
        start = after + b"\x00" if after else self._key
        request = api.Range(key=start, range_end=self._end, limit=limit, revision=at)
        try:
            async with asyncio.timeout(self._list_within) as deadline:
                response = await self._client.range(request)
        except (KvError, TimeoutError) as error:
            raise _translate(error, deadline, f"no answer to a list within {self._list_within} s") from error
        if response.header is None:
            raise ApiError("the store answered a list without its revision")
        # A later answer bears the store's revision of now; what it shows is that of the first page.
        at = at or response.header.revision
        kvs = response.kvs
        base = self._base
        items = [Item(_text(kv.key[base:]), kv.value, str(kv.mod_revision)) for kv in kvs]
        more = _encode_continue(at, kvs[-1].key) if response.more and kvs else ""
        return ListPage(items, str(at), more)

    def watch(self, revision: str) -> _StoreWatch:
        """Events after `revision`; raises `Unreachable` too when the store falls silent."""
        return _StoreWatch(self, int(revision) + 1)


class _StoreWatch:
    """One watch of a `StoreListWatch`: enter it, iterate over batches, leave it."""

    def __init__(self, source: StoreListWatch, start: int) -> None:
        self._source = source
        self._start = start

    async def __aenter__(self) -> Self:
        source = self._source
        limit = source._answer_within
        try:
            async with asyncio.timeout(limit) as deadline:
                self._watch = await source._client.watch(
                    source._key, source._end, start_revision=self._start, progress_notify=source._progress_notify
                ).__aenter__()
        except (KvError, TimeoutError) as error:
            raise _translate(error, deadline, f"no answer to a watch within {limit} s") from error
        seen, head = self._start - 1, self._watch.created_revision
        if seen > head:
            # Such a watch would be silent until the store gets to where it was, and then go on from another history.
            behind = Unreachable(f"the store is at revision {head}, {seen} was already seen")
            await self._watch.__aexit__(type(behind), behind, None)
            raise behind
        if seen == head:
            return self
        # The store has moved on since `start`. It reports a compacted start after it has accepted the watch; a read at
        # that revision tells at once, so that a watch which was entered is one that goes on.
        try:
            async with asyncio.timeout(limit) as deadline:
                await source._client.get(source._key, revision=self._start)
        except BaseException as error:
            await self._watch.__aexit__(type(error), error, error.__traceback__)
            if isinstance(error, KvError | TimeoutError):
                raise _translate(error, deadline, f"no answer to a read within {limit} s") from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._watch.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """The next batch. Cancelling loses nothing."""
        source = self._source
        try:
            async with asyncio.timeout(source._quiet_after) as deadline:
                return self._batch(await self._watch.__anext__())
        except TimeoutError as error:
            if not deadline.expired():
                raise Unreachable(str(error)) from error
        except KvError as error:
            raise _translate(error) from error
        try:
            async with asyncio.timeout(source._answer_within) as deadline:
                await self._watch.request_progress()
                return self._batch(await self._watch.__anext__())
        except (KvError, TimeoutError) as error:
            silence = source._quiet_after + source._answer_within
            raise _translate(error, deadline, f"nothing heard on a watch for {silence} s") from error

    def _batch(self, response: api.WatchResponse) -> Batch:
        if not response.events:
            return [Bookmark(str(response.header.revision))]
        base = self._source._base
        deleted = api.EventType.DELETE
        batch: Batch = []
        for event in response.events:
            kv = event.kv
            if event.type is deleted:
                batch.append(Removed(_text(kv.key[base:]), str(kv.mod_revision)))
            else:
                batch.append(Item(_text(kv.key[base:]), kv.value, str(kv.mod_revision)))
        return batch


def _text(key: bytes) -> str:
    # A stray key that is not UTF-8 is still told apart from every other, and can be turned back.
    return str(key, "utf-8", "surrogateescape")


def _translate(error: KvError | TimeoutError, deadline: asyncio.Timeout | None = None, late: str = "") -> ApiError:
    if isinstance(error, KvError):
        return from_store(error)
    return Unreachable(late if deadline is not None and deadline.expired() else str(error))


def _encode_continue(revision: int, last_key: bytes) -> str:
    return base64.urlsafe_b64encode(b"%d:" % revision + last_key).decode()


def _decode_continue(token: str) -> tuple[int, bytes]:
    try:
        revision, _, key = base64.urlsafe_b64decode(token).partition(b":")
        return int(revision), key
    except ValueError as error:
        raise ApiError(f"malformed continue token {token!r}") from error
