"""etcdserverpb.Watch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from kvstore.api import WatchFilter
from kvstore.auth import Caller
from kvstore.errors import KvError
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.wire import Headers, integer, nested
from kvstore.turns import Rush
from kvstore.watch import StreamResponse, WatchStream

# gRPC hands over calls in the order they came, one at a time. To open a stream costs several times as much as to be
# handed it: when many come at once, the calls behind them are let in first.
STREAMS_AT_ONCE = 16
RUSH_WINDOW = 0.002  # seconds
RUSH_WAIT = 1.0  # seconds, at most

_FILTERS = {filter_.value: filter_ for filter_ in WatchFilter}


class WatchService:
    """Streams of changes."""

    def __init__(self, node: Node, headers: Headers, fragment_bytes: int) -> None:
        self._node = node
        self._headers = headers
        self._fragment_bytes = fragment_bytes
        self._rush = Rush(STREAMS_AT_ONCE, RUSH_WINDOW, RUSH_WAIT)

    async def watch(
        self,
        requests: AsyncIterator[pb.WatchRequest],
        send: Callable[[bytes], Awaitable[None]],
        caller: Caller | None = None,
    ) -> None:
        """Serve the watches of one stream. With a caller given, it is checked that the caller may read their ranges.

        The end of the requests does not end it: it goes on until cancelled, or until the node closes (`Stopped`).
        """
        await self._rush.over()
        stream = self._node.watch_stream()
        fragments = _Fragments()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(requests, stream, fragments, caller))
                while True:
                    response = await stream.next()
                    for message in self._encode(response, fragments.wanted(response)):
                        await send(message)
        except BaseExceptionGroup as group:
            # One of the two failed and took the other with it: that error is the stream's.
            raise group.exceptions[0] from None
        finally:
            stream.close()

    async def _read(
        self,
        requests: AsyncIterator[pb.WatchRequest],
        stream: WatchStream,
        fragments: _Fragments,
        caller: Caller | None,
    ) -> None:
        async for request in requests:
            await stream.room()
            match request.WhichOneof("request_union"):
                case "create_request":
                    self._create(request.create_request, stream, fragments, caller)
                case "cancel_request":
                    stream.cancel(request.cancel_request.watch_id)
                case "progress_request":
                    stream.request_progress()
                case None:
                    pass

    def _create(
        self, create: pb.WatchCreateRequest, stream: WatchStream, fragments: _Fragments, caller: Caller | None
    ) -> None:
        # etcd reads "no key" as the smallest key.
        key = create.key or b"\0"
        fragments.asked(create.fragment)
        auth = self._node.auth
        if caller is not None and auth.enabled:
            try:
                auth.check_read(auth.user_of(caller), key, create.range_end)
            except KvError as error:
                stream.refuse(f"rpc error: code = {error.code.name.title().replace('_', '')} desc = {error.message}")
                return
        stream.create(
            key=key,
            range_end=create.range_end,
            start_revision=create.start_revision,
            prev_kv=create.prev_kv,
            progress_notify=create.progress_notify,
            filters=[_FILTERS[number] for number in create.filters if number in _FILTERS],
            watch_id=create.watch_id,
        )

    def _encode(self, response: StreamResponse, fragment: bool) -> Iterator[bytes]:
        head = b"".join(
            (
                self._headers.at(response.revision),
                integer(b"\x10", response.watch_id),
                b"\x18\x01" if response.created else b"",
                b"\x20\x01" if response.canceled else b"",
                integer(b"\x28", response.compact_revision),
                nested(b"\x32", response.cancel_reason.encode()) if response.cancel_reason else b"",
            )
        )
        if not fragment:
            yield head + response.wire()
            return
        prev_kv = response.prev_kv
        events = [event.wire(prev_kv) for event in response.events]
        limit = self._fragment_bytes
        batch: list[bytes] = []
        size = len(head)
        for event in events:
            if batch and size + len(event) >= limit:
                yield head + b"\x38\x01" + b"".join(batch)
                batch = []
                size = len(head)
            batch.append(event)
            size += len(event)
        yield head + b"".join(batch)


class _Fragments:
    """Which watches of a stream asked for their responses in fragments. Answers to creates come in their order."""

    def __init__(self) -> None:
        self._asked: deque[bool] = deque()
        self._ids: set[int] = set()

    def asked(self, fragment: bool) -> None:
        self._asked.append(fragment)

    def wanted(self, response: StreamResponse) -> bool:
        if response.created and self._asked.popleft() and not response.canceled:
            self._ids.add(response.watch_id)
        if response.canceled:
            self._ids.discard(response.watch_id)
        return response.watch_id in self._ids
