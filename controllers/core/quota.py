"""The ResourceQuota controller: counts again what admission has charged."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from controllers.catching_up import catch_up_to
from controllers.context import Context
from controllers.core.limits import ResourceQuota
from controllers.core.pods import decode_pod
from controllers.core.stored_kinds import StoredKind
from controllers.core.types import PersistentVolumeClaim, Pod, Service
from controllers.core.usage import MILLI, Usage, matches_scopes, quantities, usage_of
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from controllers.workqueue import WorkQueue
from informer import patch
from informer.cache import Stored
from informer.errors import UnknownKind, Unreachable
from informer.resources import SCHEME, Resource
from informer.shared import Handler

WORKERS = 5  # kube-controller-manager's --concurrent-resource-quota-syncs
RESYNC = 300.0  # seconds; its --resource-quota-sync-period
# Seconds that a quota has to be left alone before its usage is counted again: what was charged is created a moment
# later, and counting in between would give the same room away twice.
SETTLED = 1.0
CATCH_UP = 10.0  # seconds for the caches to show what was charged
COUNTED = (Pod, Service, PersistentVolumeClaim)  # kinds of which more counts than their number


class ResourceQuotaController:
    """Brings `status.used` of quotas to what is really there: after deletions, and where a charge came to nothing.

    It hears of other kinds' objects only once there is a quota, so that a store without any pays nothing.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._requests: WorkQueue[Request] | None = None
        self._heard: set[str] = set()  # kinds whose objects it hears of
        # Request -> the version last seen, and when on the loop's clock.
        self._seen: dict[Request, tuple[str, float]] = {}

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_controller(
            ResourceQuota, self.reconcile, workers=WORKERS, name="resourcequota", queue=self._queue
        )

    def _queue(self) -> WorkQueue[Request]:
        self._requests = self._manager.settings.queue()
        return self._requests

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """Count what one quota limits."""
        quota = ctx.get(ResourceQuota, request)
        if quota is None:
            self._seen.pop(request, None)
            return None
        spec, status = quota.raw.get("spec") or {}, quota.raw.get("status") or {}
        hard = spec.get("hard") or {}
        self._hear(hard)
        version, moment = quota.metadata.resource_version or "", asyncio.get_running_loop().time()
        if self._seen.get(request, ("", 0.0))[0] != version:
            self._seen[request] = (version, moment)
        left = SETTLED - (moment - self._seen[request][1])
        # A rest that rounding leaves over is none: to wait for it would never end.
        if status.get("hard") == hard and left > 0.001:
            return Result(requeue_after=left)
        used = quantities(await self._count(quota, hard))
        counted = {"hard": hard, "used": used}
        if not patch.semantic_equal(counted, {field: status.get(field) for field in counted}):
            quota.raw["status"] = {**status, **counted}
            written = await ctx.update_status(quota)
            self._seen[request] = (written.metadata.resource_version or "", moment)
        return Result(requeue_after=RESYNC)

    async def _count(self, quota: ResourceQuota, hard: Iterable[str]) -> Usage:
        namespace = quota.namespace or ""
        found: Usage = {}
        for kind, names in _by_kind(hard).items():
            cls = next((cls for cls in COUNTED if _kind_of(cls) == kind), None)
            if cls is None:
                count = await kind.count(self._manager.store_client, namespace)
                plain = quota.raw["spec"].get("scopes") or quota.raw["spec"].get("scopeSelector")
                found |= dict.fromkeys(names, 0 if plain else count * MILLI)
                continue
            total: Counter[str] = Counter()
            for stored in await self._of(cls, namespace, quota.metadata.resource_version or ""):
                raw = cls.decode(stored.data, stored.revision).raw
                if matches_scopes(quota, cls.TYPE, raw):
                    total.update(usage_of(cls.TYPE, raw))
            found |= {name: total[name] for name in names}
        return found

    async def _of(self, cls: type[Resource], namespace: str, revision: str) -> Iterable[Stored]:
        """The objects of a kind, with everything that was charged up to a revision."""
        cache = self._manager.informer(cls).cache
        try:
            async with asyncio.timeout(CATCH_UP):
                await catch_up_to(self._manager.store_client, cache, cls.TYPE.prefix(namespace), revision)
        except TimeoutError:
            raise Unreachable(f"the cache of {cls.TYPE.qualified} does not come to revision {revision}") from None
        return cache.by_index("namespace", namespace)

    # ---- what changes the usage ------------------------------------------------------------------------------------

    def _hear(self, hard: Iterable[str]) -> None:
        for kind in _by_kind(hard):
            name = f"{kind.plural}.{kind.group}".rstrip(".")
            if name not in self._heard:
                self._heard.add(name)
                try:
                    cls = SCHEME.lookup(name)
                except UnknownKind:
                    continue  # counted again every RESYNC seconds
                self._manager.informer(cls).add_handler(_Changes(self, cls), name="resourcequota")

    def changed(self, stored: Stored) -> None:
        """An object is there, gone, or uses something else."""
        assert self._requests is not None
        for quota in self._manager.informer(ResourceQuota).cache.by_index("namespace", stored.namespace):
            self._requests.add(Request(quota.namespace, quota.name))


class _Changes(Handler):
    def __init__(self, controller: ResourceQuotaController, cls: type[Resource]) -> None:
        self._controller = controller
        self._cls = cls

    def on_add(self, new: Stored, initial: bool) -> None:
        if not initial:
            self._controller.changed(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        # Pods change all the time, and use the same until they end.
        if self._cls is not Pod or decode_pod(new).finished != decode_pod(old).finished:
            self._controller.changed(new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._controller.changed(old)


def _kind_of(cls: type[Resource]) -> StoredKind:
    return StoredKind(cls.TYPE.group, cls.TYPE.plural)


def _by_kind(names: Iterable[str]) -> dict[StoredKind, list[str]]:
    """What a quota limits, by the kind that uses it."""
    found: dict[StoredKind, list[str]] = {}
    for name in names:
        if (kind := _kind_that_uses(name)) is not None:
            found.setdefault(kind, []).append(name)
    return found


def _kind_that_uses(name: str) -> StoredKind | None:
    if name.startswith("count/"):
        plural, _, group = name.removeprefix("count/").partition(".")
        return StoredKind(group, plural)
    if name == "persistentvolumeclaims" or name == "requests.storage" or ".storageclass.storage.k8s.io/" in name:
        return _kind_of(PersistentVolumeClaim)
    if name == "services" or name.startswith("services."):
        return _kind_of(Service)
    if name in ("configmaps", "secrets", "resourcequotas", "replicationcontrollers"):
        return StoredKind("", name)
    if name in ("pods", "cpu", "memory", "ephemeral-storage") or name.startswith(
        ("requests.", "limits.", "hugepages-")
    ):
        return _kind_of(Pod)
    return None
