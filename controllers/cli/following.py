"""Waiting for something in the store to become true, by watching and not by asking again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controllers.cli.session import Session
from informer.cache import Cache, Stored
from informer.listwatch import StoreListWatch
from informer.resources import Resource
from informer.shared import Handler, SharedInformer


class _Wake(Handler):
    def __init__(self) -> None:
        self.event = asyncio.Event()

    def on_add(self, new: Stored, initial: bool) -> None:
        self.event.set()

    def on_update(self, old: Stored, new: Stored) -> None:
        self.event.set()

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self.event.set()


async def until(
    session: Session,
    cls: type[Resource],
    namespace: str | None,
    reached: Callable[[Cache], bool],
    timeout: float | None,
) -> None:
    """Wait until the objects of a kind are as wanted, in one namespace or (None) all. Raises TimeoutError.

    reached: asked once at the start and again after each change; what it raises ends the wait.
    timeout: in seconds; None waits for ever.
    """
    informer = SharedInformer(StoreListWatch(session.client, cls.TYPE, namespace if cls.TYPE.namespaced else None))
    wake = _Wake()
    informer.add_handler(wake)
    async with asyncio.timeout(timeout), informer:
        await informer.wait_synced()
        while not reached(informer.cache):
            await wake.event.wait()
            wake.event.clear()


def cache_key(cls: type[Resource], namespace: str | None, name: str) -> str:
    """The key of an object in a cache of its kind."""
    return f"{namespace}/{name}" if cls.TYPE.namespaced else name


def cached(cache: Cache, obj: Resource) -> Resource | None:
    """The object as the cache has it; None if it is gone, also if another one has its name."""
    stored = cache.get(cache_key(type(obj), obj.namespace, obj.name))
    if stored is None or stored.meta.uid != obj.metadata.uid:
        return None
    return type(obj).decode(stored.data, stored.revision)
