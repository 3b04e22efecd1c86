"""What admission has to know of a namespace: from a manager's caches, or from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from controllers.core.types import Namespace
from informer.client import ObjectClient
from informer.errors import NotFound
from informer.resources import Resource

if TYPE_CHECKING:
    from controllers.manager import Manager
    from informer.cache import Cache

R = TypeVar("R", bound=Resource)


class Lookups(Protocol):
    """Where plug-ins look things up. What they are given is not theirs to change."""

    @property
    def client(self) -> ObjectClient:
        """Reads the store itself, and writes the usage of quotas."""

    async def namespace(self, name: str, *, live: bool = False) -> Namespace | None:
        """The namespace, if there is one. live: as the store has it now."""

    async def of(self, cls: type[R], namespace: str | None) -> Sequence[R]:
        """The objects of a kind in a namespace, or all of a kind that has none."""


class StoreLookups:
    """Asks the store each time: for a command that writes a few objects and ends."""

    def __init__(self, client: ObjectClient) -> None:
        self._client = client

    @property
    def client(self) -> ObjectClient:
        """See `Lookups.client`."""
        return self._client

    async def namespace(self, name: str, *, live: bool = False) -> Namespace | None:
        """See `Lookups.namespace`."""
        return await _get(self.client, name)

    async def of(self, cls: type[R], namespace: str | None) -> Sequence[R]:
        """See `Lookups.of`."""
        return (await self.client.list(cls, namespace)).items


class CachedLookups:
    """Asks the caches of a manager, which it starts when they are needed first.

    A namespace that its cache does not have yet is looked for in the store, as in Kubernetes: it may have been made a
    moment ago.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._namespaces: dict[str, Namespace] = {}  # as last decoded, of those that are there

    @property
    def client(self) -> ObjectClient:
        """See `Lookups.client`."""
        return self._manager.client

    async def namespace(self, name: str, *, live: bool = False) -> Namespace | None:
        """See `Lookups.namespace`. O(1) when the cache has it."""
        if not live:
            informer = self._manager.informer(Namespace)
            if not informer.has_synced:
                await informer.wait_synced()
            stored = informer.cache.get(name)
            if stored is not None:
                known = self._namespaces.get(name)
                if known is None or known.metadata.resource_version != stored.revision:
                    known = self._namespaces[name] = Namespace.decode(stored.data, stored.revision)
                    self._forget_others(informer.cache)
                return known
        return await _get(self.client, name)

    def _forget_others(self, cache: Cache) -> None:
        if len(self._namespaces) > len(cache):
            there = {name: each for name, each in self._namespaces.items() if cache.get(name) is not None}
            self._namespaces = there

    async def of(self, cls: type[R], namespace: str | None) -> Sequence[R]:
        """See `Lookups.of`. O(number found)."""
        informer = self._manager.informer(cls)
        if not informer.has_synced:
            await informer.wait_synced()
        found = informer.cache.list() if namespace is None else informer.cache.by_index("namespace", namespace)
        return [cls.decode(stored.data, stored.revision) for stored in found] if found else ()


async def _get(client: ObjectClient, name: str) -> Namespace | None:
    try:
        return await client.get(Namespace, name)
    except NotFound:
        return None
