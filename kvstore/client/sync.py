"""Clients for scripts: every call blocks until its answer is there. No `async` in sight.

The calls run on an event loop of their own, on one daemon thread; the client is the same one that asynchronous code
uses, so what it promises holds here, too.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from kvstore.api import Client, Watch, WatchResponse
from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from kvstore.node import NodeOptions

P = ParamSpec("P")
T = TypeVar("T")


def connect_sync(store: str, **options: Any) -> SyncClient:
    """A blocking client of the servers that `store` names; arguments and errors are those of `kvstore.client.connect`.

    Close it, or use it in `with`. Nothing is dialled before the first call.
    """
    from kvstore.client import connect

    return SyncClient(connect(store, **options))


def open_sync(data_dir: Path | str, options: NodeOptions | None = None) -> SyncClient:
    """A blocking client of the store in a directory, which is opened in this process. Closing it closes the store.

    Raises `DataDirError`, and what else `Node.open` raises.
    """
    return SyncClient(_embedded(Path(data_dir), options))


@asynccontextmanager
async def _embedded(data_dir: Path, options: NodeOptions | None) -> AsyncIterator[Client]:
    from kvstore.client.embedded import EmbeddedClient
    from kvstore.node import Node, NodeOptions

    async with Node.open(data_dir, options or NodeOptions()) as node:
        client = EmbeddedClient(node)
        try:
            yield client
        finally:
            await client.close()


class _Call(Generic[T]):
    """A coroutine on its way through a portal. It is made on the loop, where nothing interrupts its making."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._make = make
        self._task: asyncio.Task[None] | None = None
        self._canceled = False

    def begin(self) -> None:
        if not self._canceled:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        self._canceled = True
        if self._task is not None:
            self._task.cancel()

    def end(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    async def _run(self) -> None:
        try:
            self.outcome.set_result(await self._make())
        except asyncio.CancelledError:
            self.end(Unavailable("the client is closed"))  # or its caller was interrupted, and does not wait
            raise
        except BaseException as error:  # noqa: BLE001  # it is raised where it was called
            self.end(error)


class Portal:
    """An event loop on a daemon thread, within which `opening` is entered; any thread may run coroutines on it."""

    def __init__(self, opening: AbstractAsyncContextManager[T]) -> None:
        self._pid = os.getpid()
        self._ready: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._calls: set[_Call[Any]] = set()
        self._thread = threading.Thread(target=self._run, args=(opening,), name="kvstore client", daemon=True)

    def start(self) -> Any:
        """What entering gave; raises what it raised."""
        self._thread.start()
        try:
            return self._ready.result()
        except BaseException:
            if self._ready.done():
                self._thread.join()
            raise

    def _run(self, opening: AbstractAsyncContextManager[Any]) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            try:
                async with opening as entered:
                    self._ready.set_result(entered)
                    await self._stop.wait()
            except BaseException as error:
                if self._ready.done():
                    raise
                self._ready.set_exception(error)

        try:
            asyncio.run(main())
        finally:
            for call in list(self._calls):
                call.end(Unavailable("the client is closed"))

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine and wait for it. Ctrl-C cancels it and is raised as KeyboardInterrupt."""
        if os.getpid() != self._pid:
            raise RuntimeError("this client belongs to the process that was forked: make one in this process")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call from the client's own event loop would never end")
        call = _Call(make)
        self._calls.add(call)
        try:
            self._loop.call_soon_threadsafe(call.begin)
            return call.outcome.result()
        except BaseException as error:
            if call.outcome.done():
                raise
            if isinstance(error, RuntimeError):  # the loop is closed
                raise Unavailable("the client is closed") from None
            self._loop.call_soon_threadsafe(call.cancel)
            raise
        finally:
            self._calls.discard(call)

    def stop(self) -> None:
        """Leave `opening`, cancel what still runs, end the thread. Idempotent."""
        if self._thread.is_alive() and os.getpid() == self._pid:
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:
                return  # it ends just now
            self._thread.join()


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    name = method.__name__

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        def make() -> Coroutine[Any, Any, T]:
            made: Coroutine[Any, Any, T] = getattr(self._client, name)(*args, **kwargs)
            return made

        return self._portal.run(make)

    return call


def _blocking_watch(method: Callable[Concatenate[Client, P], Watch]) -> Callable[Concatenate[SyncClient, P], SyncWatch]:
    name = method.__name__

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> SyncWatch:
        async def make() -> Watch:
            watch: Watch = getattr(self._client, name)(*args, **kwargs)
            return watch

        return SyncWatch(self._portal, self._portal.run(make))

    return call


class SyncClient:
    """`kvstore.api.Client` with methods that block. Made by `connect_sync` and `open_sync`.

    Arguments, results and errors are those of the asynchronous client. Any number of threads may share one; a process
    that was forked may not. Ctrl-C ends a call that blocks; a write that it interrupts may or may not have happened.
    After `close`, which also a call under way in another thread is ended by, every call raises `Unavailable`.
    """

    def __init__(self, opening: AbstractAsyncContextManager[Client]) -> None:
        self._portal = Portal(opening)
        self._client: Client = self._portal.start()
        atexit.register(self.close)

    get = _blocking(Client.get)
    range = _blocking(Client.range)
    put = _blocking(Client.put)
    delete = _blocking(Client.delete)
    txn = _blocking(Client.txn)
    compact = _blocking(Client.compact)
    watch = _blocking_watch(Client.watch)
    lease_grant = _blocking(Client.lease_grant)
    lease_revoke = _blocking(Client.lease_revoke)
    lease_keep_alive = _blocking(Client.lease_keep_alive)
    lease_time_to_live = _blocking(Client.lease_time_to_live)
    leases = _blocking(Client.leases)
    status = _blocking(Client.status)
    member_list = _blocking(Client.member_list)

    def close(self) -> None:
        """End watches and calls with `Unavailable`, close the client (and the store), end the thread. Idempotent."""
        atexit.unregister(self.close)
        self._portal.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncWatch:
    """`kvstore.api.Watch` that blocks: enter it to register, iterate over its responses, leave it to cancel.

    with client.watch(b"k") as watch:
        for response in watch.within(5.0):
            ...
    """

    def __init__(self, portal: Portal, watch: Watch) -> None:
        self._portal = portal
        self._watch = watch

    @property
    def created_revision(self) -> int:
        """The store's revision when the watch was registered."""
        return self._watch.created_revision

    def __enter__(self) -> Self:
        self._portal.run(self._watch.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._portal.run(lambda: self._watch.__aexit__(None, None, None))
        except Unavailable:
            return  # the client was closed before, and its watches with it

    def __iter__(self) -> Iterator[WatchResponse]:
        while True:
            yield self.next()

    def within(self, seconds: float) -> Iterator[WatchResponse]:
        """The responses, until none has come for so long."""
        while True:
            try:
                response = self.next(seconds)
            except TimeoutError:
                return
            yield response

    def next(self, timeout: float | None = None) -> WatchResponse:
        """The next response. Raises TimeoutError when none comes within `timeout` seconds; nothing is lost by that."""

        async def read() -> WatchResponse:
            async with asyncio.timeout(timeout):
                return await self._watch.__anext__()

        return self._portal.run(read)

    def request_progress(self) -> None:
        """Ask for a progress response; it comes through the iteration."""
        self._portal.run(self._watch.request_progress)
