"""One place that hands out informers: users of the same objects share one, and when the last has left it is gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

import structlog

from informer.cache import InformerStopped
from informer.listwatch import ListWatch, StoreListWatch
from informer.machine import PAGE_SIZE
from informer.reflector import State
from informer.resources import Resource, ResourceType
from informer.selectors import Selector, SelectorLike
from informer.shared import QUEUE_LIMIT, InformerStatistics, SharedInformer
from informer.transforms import Transform
from kvstore.api import Client

_log = structlog.get_logger(__name__)


MakeListWatch: TypeAlias = Callable[[Client, ResourceType, str | None], ListWatch]
"""What shows the objects of a kind in one namespace or (None) in all; `StoreListWatch` is one."""


class _Key(NamedTuple):
    kind: ResourceType
    namespace: str | None
    selector: Selector | None
    transform: Transform | None

    def __str__(self) -> str:
        """As one would ask kubectl: `pods -n default -l app=web`."""
        text = self.kind.qualified
        if self.namespace is not None:
            text += f" -n {self.namespace}"
        if self.selector is not None:
            text += f" -l {self.selector}"
        if self.transform is not None:
            text += f" | {getattr(self.transform, '__qualname__', self.transform)}"
        return text


class Informers:
    """Informers by kind, namespace, label selector and transform, counted by their users.

    As client-go's SharedInformerFactory, but nothing has to be started or stopped apart: an informer runs from its
    first `acquire` until its last `release`, at any time. Use it as `async with`, which ends them all, or `close` it.

    list_watch: how to list and watch a kind. rng, queue_limit, page_size: see `SharedInformer`.
    on_failure: told of an informer that ended with an error, which only a bug in `list_watch` can cause. Without it the
    last `release`, or `close`, raises the error. Either way it is logged, and the next `acquire` starts another one.
    """

    def __init__(
        self,
        client: Client,
        *,
        list_watch: MakeListWatch = StoreListWatch,
        rng: random.Random | None = None,
        queue_limit: int = QUEUE_LIMIT,
        page_size: int = PAGE_SIZE,
        on_failure: Callable[[SharedInformer, BaseException], None] | None = None,
    ) -> None:
        self._client = client
        self._list_watch = list_watch
        self._rng = rng or random.Random()
        self._queue_limit = queue_limit
        self._page_size = page_size
        self._on_failure = on_failure
        self._informers: dict[_Key, SharedInformer] = {}
        self._users: dict[SharedInformer, int] = {}
        self._closed = False

    def acquire(
        self,
        cls: type[Resource],
        namespace: str | None = None,
        *,
        selector: SelectorLike = None,
        transform: Transform | None = None,
    ) -> SharedInformer:
        """The informer of just these objects, with one user more; started if it is the first.

        namespace: None = all. selector: None = all. transform: shared by whoever gives the same function.
        Raises ValueError for a namespace of a kind that has none, `InformerStopped` after `close`.
        """
        if self._closed:
            raise InformerStopped("the informers are closed")
        if namespace and not cls.TYPE.namespaced:
            raise ValueError(f"{cls.TYPE.qualified} are in no namespace, {namespace!r} was asked for")
        wanted = None if selector is None else Selector.of(selector)
        key = _Key(cls.TYPE, namespace or None, None if wanted is None or wanted.empty else wanted, transform)
        informer = self._informers.get(key)
        if informer is None or informer.state is State.STOPPED:
            informer = self._informers[key] = self._make(key)
        self._users[informer] += 1
        return informer

    async def release(self, informer: SharedInformer) -> None:
        """One user less. When the last has left the informer is stopped: its handlers, tasks and watch are gone.

        Handlers of a user that leaves before others are that user's to remove. Cancelling it leaves the informer
        ending by itself. After `close` there is nothing to do. Raises ValueError if the informer has no user.
        """
        if self._closed:
            return
        users = self._users.get(informer, 0)
        if not users:
            raise ValueError(f"the informer {informer.name!r} has no user")
        if users > 1:
            self._users[informer] = users - 1
            return
        del self._users[informer]
        self._forget(informer)
        await self._stop(informer)

    @asynccontextmanager
    async def use(
        self,
        cls: type[Resource],
        namespace: str | None = None,
        *,
        selector: SelectorLike = None,
        transform: Transform | None = None,
    ) -> AsyncIterator[SharedInformer]:
        """`acquire`, wait until its cache is full, and `release` at the end."""
        informer = self.acquire(cls, namespace, selector=selector, transform=transform)
        try:
            await informer.wait_synced()
            yield informer
        finally:
            await self.release(informer)

    def find(self, kind: ResourceType, namespace: str | None = None) -> SharedInformer | None:
        """A running informer that has every object of a kind, or of a namespace, as it is stored; no user is added."""
        whole = self._informers.get(_Key(kind, None, None, None))
        return whole or self._informers.get(_Key(kind, namespace, None, None))

    def of(self, kind: ResourceType) -> list[SharedInformer]:
        """Those that run for a kind or a part of it."""
        return [informer for key, informer in self._informers.items() if key.kind == kind]

    def statistics(self) -> Mapping[str, InformerStatistics]:
        """Everything about each of them, by name: the kind (`deployments.apps`), and what part of it, as for kubectl
        (`pods -n default -l app=web`)."""
        return {informer.name: informer.statistics() for informer in self._informers.values()}

    def users(self, informer: SharedInformer) -> int:
        """How many users an informer has."""
        return self._users.get(informer, 0)

    async def log_statistics(self, every: float) -> None:
        """Log a line about each of them every so many seconds, until cancelled. Give it a task."""
        while True:
            for name, statistics in self.statistics().items():
                reflector, handlers = statistics.reflector, statistics.handlers
                _log.info(
                    "informer",
                    informer=name,
                    state=reflector.state.value,
                    revision=statistics.cache.revision,
                    objects=statistics.cache.objects,
                    lag=round(statistics.lag, 3),
                    relists=reflector.relists,
                    resumes=reflector.resumes,
                    handlers=len(handlers),
                    pending=statistics.pending,
                    oldest=round(max((handler.oldest for handler in handlers), default=0.0), 3),
                    coalesced=sum(handler.coalesced for handler in handlers),
                    failed=sum(handler.failed for handler in handlers),
                )
            await asyncio.sleep(every)

    async def close(self) -> None:
        """Stop them all, whoever uses them. Idempotent. Raises what they ended with, see `on_failure`."""
        self._closed = True
        informers = [*self._users]
        self._users.clear()
        self._informers.clear()
        ended = await asyncio.gather(*map(self._stop, informers), return_exceptions=True)
        if failures := [error for error in ended if isinstance(error, Exception)]:
            raise ExceptionGroup("informers failed", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _make(self, key: _Key) -> SharedInformer:
        name, number = str(key), 1
        names = {informer.name for other, informer in self._informers.items() if other != key}
        while name in names:  # two transforms of the same name
            number += 1
            name = f"{key} #{number}"
        informer = SharedInformer(
            self._list_watch(self._client, key.kind, key.namespace),
            name=name,
            selector=key.selector,
            transform=key.transform,
            rng=self._rng,
            queue_limit=self._queue_limit,
            page_size=self._page_size,
        )
        self._users[informer] = 0
        informer.start().add_done_callback(partial(self._ended, informer))
        return informer

    def _ended(self, informer: SharedInformer, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._forget(informer)
        _log.error("informer_failed", informer=informer.name, error=repr(error), exc_info=error)
        if self._on_failure is not None:
            self._on_failure(informer, error)

    async def _stop(self, informer: SharedInformer) -> None:
        try:
            await informer.stop()
        except Exception:
            if self._on_failure is None:
                raise

    def _forget(self, informer: SharedInformer) -> None:
        for key, known in self._informers.items():
            if known is informer:
                del self._informers[key]
                return
