"""Many watches on one gRPC stream: who gets which response."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from kvstore.client.endpoint import REQUIRE_LEADER, Endpoint, Metadata, client_closed, received
from kvstore.errors import BY_MESSAGE, Code, Compacted, KvError, Unavailable, WatchCanceled
from kvstore.proto import messages as pb

if TYPE_CHECKING:
    from kvstore.client.watch import RemoteWatch

# Far from the ids that a server gives by itself, so that none of those is taken for one that we have chosen.
FIRST_ID: Final = 1 << 20
ASK_AGAIN_AFTER: Final = 1.0  # seconds; etcd says nothing at all when a watch of the stream is not up to date

_STATUS_TEXT: Final = re.compile(r"rpc error: code = \w+ desc = (.*)")


class WatchStream:
    """One stream of a client's watches, from the first that is created on it to the last that leaves.

    The reader never waits for a consumer while the stream has other watches: a watch whose buffer is full is cancelled
    on the server (it is a victim, as in etcd's server) and comes back when it has been read. A watch that has the
    stream to itself holds it up instead, and so the server by gRPC's flow control: no history is read twice.

    `on_end` is called once, when the stream takes no more watches: with the error by which it was lost, or None.
    """

    def __init__(
        self, endpoint: Endpoint, metadata: Metadata, on_end: Callable[[WatchStream, KvError | None], None]
    ) -> None:
        self.endpoint = endpoint
        self._on_end = on_end
        self._call = endpoint.stream("/etcdserverpb.Watch/Watch", (*REQUIRE_LEADER, *metadata))
        self._ids = itertools.count(FIRST_ID)
        # A watch is in one of the next three, from `create` on until it is removed, a victim or ended by the server.
        self._waiting: dict[RemoteWatch, None] = {}
        self._creating: dict[int, RemoteWatch | None] = {}  # asked for, in this order; None: it has left since
        self._watches: dict[int, RemoteWatch] = {}
        self._takes_ids = False
        # Who waits for the answer that is under way, and who asked after that was asked for.
        self._asking: set[RemoteWatch] = set()
        self._asking_next: set[RemoteWatch] = set()
        self._asked_again = False
        self._ask_timer: asyncio.TimerHandle | None = None
        self._outgoing: deque[pb.WatchRequest] = deque()
        self._to_write = asyncio.Event()
        self._changed = asyncio.Event()
        self._ended = False
        self._tasks = [
            asyncio.create_task(self._read(), name="kvstore watch reader"),
            asyncio.create_task(self._write(), name="kvstore watch writer"),
        ]

    @property
    def idle(self) -> bool:
        """Whether no watch is on it."""
        return not self._watches and not self._waiting and not any(self._creating.values())

    def create(self, watch: RemoteWatch) -> None:
        """Ask the server for a watch; `watch` is told by `created` or `refused`."""
        self._waiting[watch] = None
        self._changed.set()
        self._ask_for_watches()

    def remove(self, watch: RemoteWatch) -> None:
        """Let the server end a watch. Responses for it that are under way are ignored."""
        if self._watches.get(watch.id) is watch:
            self._forget(watch)
            self._cancel(watch.id)
        elif self._creating.get(watch.id) is watch:
            self._creating[watch.id] = None
        else:
            self._waiting.pop(watch, None)

    def has_room(self) -> None:
        """The consumer of a watch that was full has read."""
        self._changed.set()

    def request_progress(self, watch: RemoteWatch) -> None:
        """Ask for progress. The answer is the stream's, and true for the watches that were on it when it was asked."""
        self._asking_next.add(watch)
        if self._ask_timer is None:
            self._ask_for_progress()

    async def close(self, error: KvError | None = None) -> None:
        """End the stream; watches that are still on it are told of `error`."""
        self._end(error)
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    # ---- requests

    def _ask_for_watches(self) -> None:
        # etcd takes the ids that we choose, so its answers can be told apart. What does not (etcd's own gRPC proxy) may
        # answer in any order: there one watch is created at a time, as by etcd's client. The first answer tells which.
        while self._waiting and (self._takes_ids or not self._creating):
            watch = next(iter(self._waiting))
            del self._waiting[watch]
            watch.id = next(self._ids)
            self._creating[watch.id] = watch
            self._send(pb.WatchRequest(create_request=watch.create_request()))

    def _forget(self, watch: RemoteWatch) -> None:
        del self._watches[watch.id]
        self._asking.discard(watch)
        self._asking_next.discard(watch)
        self._changed.set()

    def _cancel(self, watch_id: int) -> None:
        self._send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))

    def _ask_for_progress(self) -> None:
        self._ask_timer = None
        if self._asking:
            self._asked_again = True
        else:
            self._asking, self._asking_next = self._asking_next, self._asking
            self._asked_again = False
        if self._asking and not self._ended:
            self._send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
            self._ask_timer = asyncio.get_running_loop().call_later(ASK_AGAIN_AFTER, self._ask_for_progress)

    def _send(self, request: pb.WatchRequest) -> None:
        self._outgoing.append(request)
        self._to_write.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                while self._outgoing:
                    await self._call.write(self._outgoing.popleft().SerializeToString())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over, and reading tells why

    # ---- responses

    async def _read(self) -> None:
        error: KvError = Unavailable(f"the stream of {self.endpoint.target} could not be read")
        try:
            while (data := await received(self._call)) is not None:
                full = self._dispatch(pb.WatchResponse.FromString(data), len(data))
                if full is not None:
                    await self._make_room(full)
            error = await self.endpoint.ended(self._call)
        except grpc.aio.AioRpcError as failure:
            error = self.endpoint.failed(failure)
        except DecodeError as failure:
            error = Unavailable(f"{self.endpoint.target} sent a watch response that is none: {failure}")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = client_closed()  # closing the channel cancels its calls
        finally:
            if error.code is Code.INTERNAL:
                error = Unavailable(error.message)  # of HTTP/2: a proxy reset the stream; etcd's client resumes, too
            self._end(error)
            self._call.cancel()
            self._tasks[1].cancel()

    def _dispatch(self, response: pb.WatchResponse, size: int) -> RemoteWatch | None:
        """Hand a response to whom it concerns; gives the watch if that is now full."""
        watch_id = response.watch_id
        if response.created or (response.canceled and watch_id == -1):
            self._created(response)
            return None
        if response.canceled:
            canceled = self._watches.get(watch_id)
            if canceled is not None:
                self._forget(canceled)
                canceled.ended(_reason(response))
            return None
        if watch_id == -1:
            self._progress(response, size)
            return None
        watch = self._watches.get(watch_id)  # None: it has left, and the server does not know yet
        if watch is None:
            return None
        watch.receive(response, size)
        return watch if watch.full else None

    def _created(self, response: pb.WatchResponse) -> None:
        asked: int | None = response.watch_id
        if asked in self._creating:
            self._takes_ids = True
        else:
            asked = next(iter(self._creating), None)  # refusals have no id, and come in order
        if asked is None:
            return
        watch = self._creating.pop(asked)
        if response.canceled:
            if watch is not None:
                watch.refused(_reason(response))
        elif watch is None:
            self._cancel(response.watch_id)
        else:
            watch.id = response.watch_id
            self._watches[watch.id] = watch
            watch.created(response)
        self._ask_for_watches()

    def _progress(self, response: pb.WatchResponse, size: int) -> None:
        asking, self._asking = self._asking, set()
        for watch in asking:
            if watch.unfinished:
                self._asking_next.add(watch)
            else:
                watch.receive(response, size)
        if self._asked_again or self._ask_timer is None:
            return  # a second answer may be under way: until the timer has run, an answer is nobody's
        self._ask_timer.cancel()
        self._ask_for_progress()

    async def _make_room(self, watch: RemoteWatch) -> None:
        while watch.full and self._watches.get(watch.id) is watch:
            if len(self._watches) > 1 or self._waiting or self._creating:
                wants_progress = watch in self._asking or watch in self._asking_next
                self.remove(watch)
                watch.victim(wants_progress)
                return
            self._changed.clear()
            await self._changed.wait()

    def _end(self, error: KvError | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._on_end(self, error)
        if self._ask_timer is not None:
            self._ask_timer.cancel()
        left = [*self._watches.values(), *filter(None, self._creating.values()), *self._waiting]
        self._watches.clear()
        self._creating.clear()
        self._waiting.clear()
        for watch in left:
            watch.ended(error or Unavailable("the watch was closed"))


def _reason(response: pb.WatchResponse) -> KvError:
    if response.compact_revision:
        return Compacted(response.compact_revision)
    reason = response.cancel_reason
    if reason in BY_MESSAGE:
        return BY_MESSAGE[reason]()
    status = _STATUS_TEXT.fullmatch(reason)  # the reason is the text of a gRPC error when permission is refused
    if status is not None and status[1] in BY_MESSAGE:
        return BY_MESSAGE[status[1]]()
    return WatchCanceled(reason or None)
