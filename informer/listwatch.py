"""The seam between informers and stores: what a reflector asks of a store, and the answer for a `kvstore` client.

Above this seam a revision is an opaque string. All that may be done with one is to hand it back and to ask which of
two of the same resource is newer, as Kubernetes allows for resourceVersion.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from types import TracebackType
from typing import Protocol, Self, TypeAlias, runtime_checkable

import msgspec

from informer.errors import ApiError, Expired, Silent, Unreachable, Unsupported, from_store
from kvstore import api
from kvstore.errors import FutureRevision, KvError

ANSWERED = -1  # the watch id of progress that was asked for
PROGRESS_REQUESTS = 4  # how often it is asked for until the connection counts as dead


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
    """Every event up to `revision` was delivered; there may have been none.

    initial_end: everything there is at `revision` was delivered, on a watch that began with it.
    """

    revision: str
    initial_end: bool = False


WatchEvent: TypeAlias = Item | Removed | Bookmark
Batch: TypeAlias = list[WatchEvent]  # an empty one says only that the connection lives
Items: TypeAlias = list[Item]


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
        """Events after `revision`, in order, each once, in batches that never part the events of one revision. An empty
        batch says that the connection lives.

        Entering it opens the watch; `Expired` may come then or later. Iteration ends when the server ends the watch
        in good order, which asks for a new one from the last revision seen.
        """


@runtime_checkable
class StreamingListWatch(ListWatch, Protocol):
    """A `ListWatch` that can also send what there is and what comes after on one stream, as Kubernetes' WatchList."""

    def watch_list(self, revision: str) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Batches of Items, each object once, as they all are at one revision; then a `Bookmark` of that revision with
        `initial_end`; from there on what `watch` gives after it.

        `revision` is the oldest that will do; "" = the present one. Entering raises `Unsupported` when the store
        cannot do it. `Expired` before the end of the initial state means that a compaction overtook it. Cancelling a
        pending batch before that end ends the stream; it never makes it look whole.
        """


@runtime_checkable
class KnowsHead(Protocol):
    """A `ListWatch` that knows how far its store has got."""

    @property
    def head(self) -> str:
        """The newest revision that any answer of the store has shown; "" before the first."""


@runtime_checkable
class AsksProgress(Protocol):
    """A `ListWatch` whose watches can be made to tell at once how far the store has got; optional."""

    async def request_progress(self) -> bool:
        """Let each open watch get a `Bookmark` soon, though nothing may happen to its objects.

        False if none can be relied on: no watch is open, or the store does not give what could be trusted. Even where
        it is True the store may forget; ask again while it matters. Raises `ApiError`s alone; safe to cancel.
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
    progress_notify: ask the store for its periodic progress notifications; an etcd before 3.5.13 gives no other that
        can be relied on (`orders_progress`).
    quiet_after: seconds without a word on a watch until the store is asked for its progress. That keeps the last
        revision young, so that a quiet prefix can resume after a compaction, as kube-apiserver's bookmarks do.
    answer_within: seconds within which a watch has to be opened, or progress told; a dead connection often gives no
        other sign. list_within: the same for a page of a list, which may be all there is.

    `watch_list` works where the client gives a range in pieces: the embedded store, ours over gRPC, an etcd since 3.7.

    Whatever answers, it has to be the store that was listed: a watch that is answered by a member that is behind what
    was seen raises `Unreachable`, one that is answered by another cluster `Expired`.
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
        self._streams = isinstance(client, _RangeStreamer)
        self._cluster: int | None = None
        self._head = 0
        self._open: dict[_StoreWatch, None] = {}

    @property
    def head(self) -> str:
        """The newest revision that any answer of the store has shown."""
        return str(self._head) if self._head else ""

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
        if not at:
            self._cluster = None  # a list begins anew, with whatever store it finds
        self._heard(response.header)
        # A later answer bears the store's revision of now; what it shows is that of the first page.
        at = at or response.header.revision
        kvs = response.kvs
        more = _encode_continue(at, kvs[-1].key) if response.more and kvs else ""
        return ListPage(self._items(kvs), str(at), more)

    def watch(self, revision: str) -> _StoreWatch:
        """Events after `revision`; raises `Unreachable` too when the store falls silent."""
        return _StoreWatch(self, int(revision) + 1)

    def watch_list(self, revision: str = "") -> _StoreWatchList:
        """Everything at the store's present revision in pieces, then what comes after it.

        The watch is opened before the first piece is read, so that what happens meanwhile is not lost however long
        that takes. Raises `Unsupported` when client or server cannot stream; the store is asked once.
        """
        return _StoreWatchList(self, int(revision or 0))

    async def request_progress(self) -> bool:
        """Have the open watches told how far the store has got; False if it is an etcd whose answer may be too early.

        See `orders_progress`. Raises `Unreachable` without an answer in time.
        """
        asked = False
        for watch in [*self._open]:
            asked = await watch._ask() or asked
        return asked

    def _items(self, kvs: Sequence[api.KeyValue]) -> Items:
        base = self._base
        return [Item(_text(kv.key[base:]), kv.value, str(kv.mod_revision)) for kv in kvs]

    def _heard(self, header: api.Header) -> None:
        """Note how far the store has got. Raises `Expired` if this is not the store that was listed."""
        if header.cluster_id != self._cluster:
            if self._cluster is not None:
                # Its revisions count another history: going on with them would leave out and invent events.
                raise Expired(f"another cluster answers: {header.cluster_id:x}, the list was of {self._cluster:x}")
            self._cluster = header.cluster_id
        if header.revision > self._head:
            self._head = header.revision


class _StoreWatch:
    """One watch of a `StoreListWatch`: enter it, iterate over batches, leave it."""

    def __init__(self, source: StoreListWatch, start: int) -> None:
        self._source = source
        self._start = start
        self._trusted: bool | None = None

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
        source._head = max(source._head, head)
        if seen > head:
            # Such a watch would be silent until the store gets to where it was, and then go on from another history.
            behind = Unreachable(f"the store is at revision {head}, {seen} was already seen")
            await self._watch.__aexit__(type(behind), behind, None)
            raise behind
        if seen != head:
            await self._confirm(limit)
        source._open[self] = None
        return self

    async def _confirm(self, limit: float) -> None:
        source = self._source
        # The store has moved on since `start`. It reports a compacted start after it has accepted the watch; a read at
        # that revision tells at once, so that a watch which was entered is one that goes on.
        try:
            async with asyncio.timeout(limit) as deadline:
                read = await source._client.range(api.Range(key=source._key, revision=self._start))
            source._heard(read.header)
        except BaseException as error:
            await self._watch.__aexit__(type(error), error, error.__traceback__)
            if isinstance(error, KvError | TimeoutError):
                raise _translate(error, deadline, f"no answer to a read within {limit} s") from error
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source._open.pop(self, None)
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
                await self._learn_version()
                while True:
                    await self._watch.request_progress()
                    # etcd does not answer while any watch on the stream is behind, and forgets the question.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(source._answer_within / PROGRESS_REQUESTS):
                            return self._batch(await self._watch.__anext__())
        except (KvError, TimeoutError) as error:
            if deadline.expired() and await self._has_nothing_to_tell():
                return []
            silence = source._quiet_after + source._answer_within
            raise _translate(error, deadline, f"nothing heard on a watch for {silence} s") from error

    async def _ask(self) -> bool:
        limit = self._source._answer_within
        try:
            async with asyncio.timeout(limit) as deadline:
                await self._learn_version()
                if not self._trusted or self not in self._source._open:
                    return False
                await self._watch.request_progress()
        except (KvError, TimeoutError) as error:
            raise _translate(error, deadline, f"progress could not be asked for within {limit} s") from error
        return True

    async def _learn_version(self) -> None:
        """Ask once for the server's version, for what its answers to progress requests are worth."""
        if self._trusted is None:
            try:
                version = (await self._source._client.status()).version
            except KvError as error:
                if isinstance(known := from_store(error), Unreachable):
                    raise known from error
                version = ""  # it does not say
            self._trusted = orders_progress(version)

    async def _has_nothing_to_tell(self) -> bool:
        """Whether the store answers, and nothing at all was written since the watch began: from 3.5.8 on, etcd gives no
        progress before a watch's start. If the watch is dead all the same, that is found once something is written."""
        try:
            async with asyncio.timeout(self._source._answer_within):
                return (await self._source._client.status()).header.revision < self._start
        except (KvError, TimeoutError):
            return False

    def _batch(self, response: api.WatchResponse) -> Batch:
        self._source._heard(response.header)
        if not response.events:
            if response.watch_id == ANSWERED and not self._trusted:
                return []  # it lives, and that is all this says
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


class _StoreWatchList:
    """A watch of a `StoreListWatch` that begins with what there is."""

    def __init__(self, source: StoreListWatch, not_before: int) -> None:
        self._source = source
        self._not_before = not_before
        self._pieces: AsyncGenerator[api.RangeResponse, None] | None = None
        self._whole = False

    async def __aenter__(self) -> Self:
        source = self._source
        client = source._client
        if not (source._streams and isinstance(client, _RangeStreamer)):
            raise Unsupported("the store cannot send a list as a stream")
        late = f"no answer to a list within {source._answer_within} s"
        try:
            async with asyncio.timeout(source._answer_within) as deadline:
                # The newest revision, read by quorum, and whether the server streams at all, in one question.
                counting = client.range_stream(api.Range(source._key, source._end, count_only=True))
                async with aclosing(counting):
                    header = (await anext(counting)).header
        except (KvError, TimeoutError) as error:
            known = _translate(error, deadline, late)
            if isinstance(known, Unsupported):
                source._streams = False
            raise known from error
        self._revision = header.revision
        if self._revision < self._not_before:
            raise Unreachable(f"the store is at revision {self._revision}, {self._not_before} was already seen")
        source._cluster = None
        source._heard(header)
        self._watch = await _StoreWatch(source, self._revision + 1).__aenter__()
        self._pieces = client.range_stream(api.Range(source._key, source._end, revision=self._revision))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pieces, self._pieces = self._pieces, None
        try:
            if pieces is not None:
                await pieces.aclose()
        finally:
            await self._watch.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        pieces, source = self._pieces, self._source
        if pieces is None:
            return await self._watch.__anext__()
        if self._whole:
            self._pieces = None
            await pieces.aclose()
            return [Bookmark(str(self._revision), initial_end=True)]
        try:
            async with asyncio.timeout(source._list_within) as deadline:
                piece = await anext(pieces)
        except StopAsyncIteration:
            raise Unreachable("the list ended before it was whole") from None
        except (KvError, TimeoutError) as error:
            raise _translate(error, deadline, f"no more of a list within {source._list_within} s") from error
        # Only the last piece has a header.
        if piece.header.revision:
            source._heard(piece.header)
            self._whole = True
        return [*source._items(piece.kvs)]


@runtime_checkable
class _RangeStreamer(Protocol):
    def range_stream(self, request: api.Range) -> AsyncGenerator[api.RangeResponse, None]: ...


def orders_progress(version: str) -> bool:
    """Whether an etcd of this version gives the progress it is asked for after the events that it stands for.

    Earlier ones may give it ahead of them, as kube-apiserver knows: it asks for the same versions.
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return False
    major, minor, patch = map(int, found.groups())
    return (major, minor, patch) >= (3, 5, 13) or ((major, minor) == (3, 4) and patch >= 31)


def _text(key: bytes) -> str:
    # A stray key that is not UTF-8 is still told apart from every other, and can be turned back.
    return str(key, "utf-8", "surrogateescape")


def _translate(error: KvError | TimeoutError, deadline: asyncio.Timeout | None = None, late: str = "") -> ApiError:
    if isinstance(error, FutureRevision):
        return Unreachable("the store is behind a revision that was already seen")
    if isinstance(error, KvError):
        return from_store(error)
    return Silent(late) if deadline is not None and deadline.expired() else Unreachable(str(error))


def _encode_continue(revision: int, last_key: bytes) -> str:
    return base64.urlsafe_b64encode(b"%d:" % revision + last_key).decode()


def _decode_continue(token: str) -> tuple[int, bytes]:
    try:
        revision, _, key = base64.urlsafe_b64decode(token).partition(b":")
        return int(revision), key
    except ValueError as error:
        raise ApiError(f"malformed continue token {token!r}") from error
