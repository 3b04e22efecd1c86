"""`CachedClient`: an `ObjectClient` that reads from caches, and never reads less than it has written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from informer.admission import Admission
from informer.cache import Cache, InformerStopped
from informer.client import _PAGE, DEFAULT_NAMESPACE, ObjectClient, ObjectList
from informer.errors import NotFound, Unreachable
from informer.informers import Informers
from informer.listwatch import is_newer
from informer.resources import Resource
from informer.selectors import SelectorLike
from kvstore.api import Client

R = TypeVar("R", bound=Resource)

WAIT = 10.0  # seconds; a watch that is alive shows a write within milliseconds


class CachedClient(ObjectClient):
    """Reads come from the caches of `informers`, writes go to the store, as with controller-runtime's client.

    A read waits until its cache shows every write of this client to the kind in the namespace asked for, and every
    newer state that a write has come upon (a `Conflict` is not answered with what caused it). Other clients' writes
    show when they show.

    A kind of which `informers` has no informer of all objects, or of all of the namespace, as they are stored, is read
    from the store: no read starts a watch. wait: seconds after which a read gives up with `Unreachable`. A write that
    was cancelled may show later. The rest is as in `ObjectClient`.
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        *,
        now: Callable[[], datetime] | None = None,
        rng: random.Random | None = None,
        wait: float = WAIT,
        field_manager: str | None = None,
        admission: Admission | None = None,
    ) -> None:
        super().__init__(client, now=now, rng=rng, field_manager=field_manager, admission=admission)
        self._informers = informers
        self._wait = wait
        self._seen: dict[bytes, str] = {}  # what the keys of a kind in a namespace begin with -> revision

    async def get(self, cls: type[R], name: str, namespace: str | None = None, *, revision: str | None = None) -> R:
        """The object as its cache has it; with `revision`, as the store had it. Raises `NotFound`, `Unreachable`."""
        namespace = (namespace or DEFAULT_NAMESPACE) if cls.TYPE.namespaced else None
        cache = await self._cache(cls, namespace) if revision is None else None
        if cache is None:
            return await super().get(cls, name, namespace, revision=revision)
        stored = cache.get(name if namespace is None else f"{namespace}/{name}")
        if stored is None:
            raise NotFound(f'{cls.TYPE.qualified} "{name}" not found')
        return cls.decode(stored.data, stored.revision)

    async def list(
        self, cls: type[R], namespace: str | None = None, selector: SelectorLike = None, *, page_size: int = _PAGE
    ) -> ObjectList[R]:
        """The objects as their cache has them, in key order, and its revision. Raises `Unreachable`, `Invalid`."""
        namespace = (namespace or None) if cls.TYPE.namespaced else None
        cache = await self._cache(cls, namespace)
        if cache is None:
            return await super().list(cls, namespace, selector, page_size=page_size)
        found = sorted(cache.list(namespace, selector=selector), key=lambda stored: stored.key.encode())
        return ObjectList([cls.decode(stored.data, stored.revision) for stored in found], cache.revision)

    async def _cache(self, cls: type[Resource], namespace: str | None) -> Cache | None:
        """A cache that has what was asked for and what this client knows of; None if the store has to be read."""
        informer = self._informers.find(cls.TYPE, namespace)
        if informer is None:
            return None
        wanted = self._known(cls, namespace)
        try:
            async with asyncio.timeout(self._wait):
                await informer.wait_synced()
                await informer.cache.wait_for(wanted)
        except InformerStopped:
            return None
        except TimeoutError:
            had = informer.cache.revision or "none"
            raise Unreachable(
                f"the cache of {informer.name} is at revision {had} after {self._wait:g} s, {wanted or 'any'} is needed"
            ) from None
        return informer.cache

    def _known(self, cls: type[Resource], namespace: str | None) -> str:
        """The newest revision that this client knows of; "" for none."""
        prefix = cls.TYPE.prefix(namespace)
        if namespace is not None or not cls.TYPE.namespaced:
            return self._seen.get(prefix, "")
        newest = ""
        for place, revision in self._seen.items():
            if place.startswith(prefix) and is_newer(revision, newest):
                newest = revision
        return newest

    def _saw(self, key: bytes, revision: int) -> None:
        place = key[: key.rindex(b"/") + 1]
        if is_newer(str(revision), self._seen.get(place, "")):
            self._seen[place] = str(revision)
