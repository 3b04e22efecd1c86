"""A watch of a remote client: what has come for it and was not read yet, and where it goes on."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from kvstore import api
from kvstore.client import messages as convert
from kvstore.errors import KvError, Unavailable
from kvstore.proto import messages as pb

if TYPE_CHECKING:
    from kvstore.client.endpoint import Metadata
    from kvstore.client.remote import RemoteClient
    from kvstore.client.stream import WatchStream

# What a response takes in memory beside the bytes in which it came.
RESPONSE_OVERHEAD: Final = 300
EVENT_OVERHEAD: Final = 200


class RemoteWatch:
    """`kvstore.api.Watch` on a stream that it shares with the other watches of its client.

    Made by `RemoteClient.watch`. It holds at most its share of the client's buffers, and one response more; what does
    not fit is read from the store's history when there is room again. So a consumer that is slow may, as one that was
    away, be told of a compaction: `Compacted`.
    """

    def __init__(self, client: RemoteClient, request: pb.WatchCreateRequest) -> None:
        self._client = client
        self._request = request
        self._next_revision = request.start_revision  # the first that has not come; 0 = from now, not yet registered
        self._created_revision = 0
        self._stream: WatchStream | None = None
        self._registered: asyncio.Future[int] | None = None
        self._registering: asyncio.Task[None] | None = None  # of a victim; it outlives the call that waits for it
        self._is_victim = False
        self._wants_progress = False
        self._buffer: deque[tuple[pb.WatchResponse, int]] = deque()
        self._buffered = 0
        self._part: pb.WatchResponse | None = None
        self._part_size = 0
        self._error: KvError | None = None
        self._came = asyncio.Event()
        self.id = 0  # belongs to the stream

    @property
    def created_revision(self) -> int:
        """The store's revision when the watch was registered."""
        return self._created_revision

    # ---- for its user

    async def __aenter__(self) -> Self:
        self._client._watches.add(self)
        try:
            await self._client._logged_in(self._register, watch=True)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> api.WatchResponse:
        self._check_entered()
        while not self._buffer:
            if self._error is not None:
                raise copy.copy(self._error)  # one that is lost by many watches would gather their tracebacks
            if self._is_victim or self._registering is not None:
                await self._come_back()
            else:
                self._came.clear()
                await self._came.wait()
        was_full = self.full
        response, size = self._buffer.popleft()
        self._buffered -= size
        if was_full and self._stream is not None:
            self._stream.has_room()
        return convert.watch_response(response)

    async def request_progress(self) -> None:
        """Ask for a progress response; it comes through the iteration."""
        self._check_entered()
        if self._error is not None:
            raise copy.copy(self._error)
        if self._is_victim or self._stream is None:
            self._wants_progress = True
        else:
            self._stream.request_progress(self)

    # ---- for its stream

    @property
    def full(self) -> bool:
        """Whether it has its share of what may be buffered."""
        return self._buffered >= self._client._buffer_share

    @property
    def unfinished(self) -> bool:
        """Whether it has a part of a response of which more is to come."""
        return self._part is not None

    def create_request(self) -> pb.WatchCreateRequest:
        """What the server is asked for, under the id that the stream gave."""
        request = pb.WatchCreateRequest()
        request.CopyFrom(self._request)
        request.watch_id = self.id
        request.start_revision = self._next_revision
        request.fragment = True
        return request

    def created(self, response: pb.WatchResponse) -> None:
        """The server has registered it."""
        self._is_victim = False
        revision = response.header.revision
        self._created_revision = self._created_revision or revision
        self._next_revision = self._next_revision or revision + 1
        if self._registered is not None and not self._registered.done():
            self._registered.set_result(revision)

    def refused(self, error: KvError) -> None:
        """The server does not register it."""
        if self._registered is not None and not self._registered.done():
            self._registered.set_exception(error)

    def receive(self, response: pb.WatchResponse, size: int) -> None:
        """Take events or progress."""
        size += EVENT_OVERHEAD * len(response.events)
        if self._part is not None:
            self._part.events.extend(response.events)
            size += self._part_size
            fragment, response, self._part = response.fragment, self._part, None
        else:
            fragment = response.fragment
        if fragment:
            self._part, self._part_size = self._keep_unfinished(response, size)
            return
        self._keep(response, size)

    def victim(self, wants_progress: bool) -> None:
        """It was full and had to leave its stream; it comes back when it has been read."""
        self._is_victim = True
        self._wants_progress = self._wants_progress or wants_progress
        self._part = None
        self._came.set()

    def ended(self, error: KvError) -> None:
        """The server ended it, or the stream was lost. What has come before can still be read."""
        self.refused(error)
        self._error = error
        self._part = None
        self._came.set()

    # ----

    def _keep(self, response: pb.WatchResponse, size: int) -> None:
        if response.events:
            self._next_revision = response.events[-1].kv.mod_revision + 1
        self._buffer.append((response, RESPONSE_OVERHEAD + size))
        self._buffered += RESPONSE_OVERHEAD + size
        self._came.set()

    def _keep_unfinished(self, response: pb.WatchResponse, size: int) -> tuple[pb.WatchResponse, int]:
        """What is held back of a response that has not come whole: all of it, or its last revision if it is large."""
        if size < self._client._buffer_share:
            return response, size
        events = response.events
        last = events[-1].kv.mod_revision
        whole = next((at for at in range(len(events), 0, -1) if events[at - 1].kv.mod_revision != last), 0)
        if not whole:
            return response, size
        rest = pb.WatchResponse(header=response.header, watch_id=response.watch_id, events=events[whole:])
        del events[whole:]
        self._keep(response, size)
        return rest, rest.ByteSize() + EVENT_OVERHEAD * len(rest.events)

    async def _register(self, metadata: Metadata) -> None:
        alone = False
        while True:
            self._stream = stream = await self._client._watch_stream(metadata, alone=alone)
            self._registered = asyncio.get_running_loop().create_future()
            stream.create(self)
            try:
                revision = await self._registered
            except BaseException:
                await self._leave()
                raise
            if alone or self._next_revision <= revision + 1:
                break
            # No watch of a stream is told of progress before the revision at which the last of them begins.
            await self._leave()
            alone = True
        if self._wants_progress:
            self._wants_progress = False
            stream.request_progress(self)

    async def _come_back(self) -> None:
        registering = self._registering
        if registering is None:
            registering = asyncio.create_task(self._client._logged_in(self._register, watch=True))
            self._registering = registering
        await asyncio.wait((registering,))
        if self._registering is not registering:
            return  # closed meanwhile
        self._registering = None
        try:
            registering.result()
        except KvError as error:
            self._error = self._error or error

    async def _leave(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.remove(self)
            if stream.idle:
                await stream.close()

    async def _close(self) -> None:
        self._client._watches.discard(self)
        self._error = self._error or Unavailable("the watch was closed")
        registering, self._registering = self._registering, None
        if registering is not None:
            registering.cancel()
            await asyncio.wait((registering,))
            if not registering.cancelled():
                registering.exception()
        self._buffer.clear()
        self._buffered = 0
        self._came.set()
        await self._leave()

    def _check_entered(self) -> None:
        if self._stream is None and not self._is_victim and self._registering is None and self._error is None:
            raise RuntimeError("this watch is not entered: write `async with client.watch(...) as watch`")
