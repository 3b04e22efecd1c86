"""The namespace controller: what is in a namespace goes with it, pods first. And the built-in ones are always there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from controllers.conditions import set_status_condition
from controllers.context import Context
from controllers.core.stored_kinds import StoredKind, stored_kinds
from controllers.core.types import BUILTIN_NAMESPACES, CONTENT_FINALIZER, Namespace, Pod
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from controllers.workqueue import WorkQueue
from informer.client import ObjectClient
from informer.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from informer.metadata import FOREGROUND, ORPHAN
from informer.resources import Resource

WORKERS = 10  # kube-controller-manager's --concurrent-namespace-syncs
FINALIZER_ESTIMATE = 15.0  # seconds; Kubernetes' guess how long somebody else's finalizer takes
SOONEST = 0.25  # seconds until what goes by itself is looked at again, at first
CONCURRENT_DELETES = 100

# Type -> the reason and text of its being False, as Kubernetes words them.
_GOOD = {
    "NamespaceDeletionDiscoveryFailure": ("ResourcesDiscovered", "All resources successfully discovered"),
    "NamespaceDeletionGroupVersionParsingFailure": (
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    "NamespaceDeletionContentFailure": (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
    "NamespaceFinalizersRemaining": ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
}
_BAD = {
    "NamespaceDeletionContentFailure": "ContentDeletionFailed",
    "NamespaceContentRemaining": "SomeResourcesRemain",
    "NamespaceFinalizersRemaining": "SomeFinalizersRemain",
}


class NamespaceStatistics(msgspec.Struct, frozen=True):
    """deleted: objects whose deletion was asked for; finished: namespaces that were emptied; since the start."""

    deleted: int
    finished: int


class _Progress(msgspec.Struct):
    """How far a look at a namespace's content has come. `estimate`: seconds until the rest should be gone."""

    remaining: dict[str, int] = {}
    finalizers: Counter[str] = msgspec.field(default_factory=Counter)
    failures: list[str] = []
    estimate: float = 0.0


class NamespaceController:
    """Deletes the content of namespaces that are being deleted, then lets go of them.

    Which kinds there are is read from the store's keys: also objects of kinds whose definition is gone, or was never
    there, go with their namespace.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._deleted = self._finished = 0

    @property
    def _client(self) -> ObjectClient:
        return self._manager.client.with_field_manager("namespace-controller")

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_controller(Namespace, self.reconcile, workers=WORKERS, name="namespace", queue=self._queue)

    def statistics(self) -> NamespaceStatistics:
        """The controller at this moment."""
        return NamespaceStatistics(deleted=self._deleted, finished=self._finished)

    def _queue(self) -> WorkQueue[Request]:
        queue = self._manager.settings.queue()
        for name in BUILTIN_NAMESPACES:  # those that are not there have no event
            queue.add(Request("", name))
        return queue

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One look at a namespace."""
        namespace = ctx.get(Namespace, request)
        if namespace is None:
            if request.name in BUILTIN_NAMESPACES:
                await _create(ctx, request.name)
            return None
        if not namespace.deleting or CONTENT_FINALIZER not in namespace.spec.finalizers:
            return None
        progress = await self._delete_content(request.name)
        _write_conditions(namespace, progress, ctx.now())
        namespace = await ctx.update_status(namespace)
        if progress.remaining or progress.failures:
            return Result(requeue_after=_pause(namespace, progress, ctx.now()))
        namespace.spec.finalizers = [each for each in namespace.spec.finalizers if each != CONTENT_FINALIZER]
        await ctx.update(namespace)
        self._finished += 1
        return None

    async def _delete_content(self, namespace: str) -> _Progress:
        """Ask for the deletion of all that is there. While pods are left, only of pods: others may need what is there
        besides to come to their end."""
        progress = _Progress({}, Counter(), [], 0.0)
        kinds = await stored_kinds(self._manager.store_client)
        pods = [kind for kind in kinds if (kind.group, kind.plural) == (Pod.TYPE.group, Pod.TYPE.plural)]
        for some in (pods, [kind for kind in kinds if kind not in pods]):
            for kind in some:
                await self._delete_kind(kind, namespace, progress)
            if progress.remaining or progress.failures:
                break
        return progress

    async def _delete_kind(self, kind: StoredKind, namespace: str, progress: _Progress) -> None:
        try:
            there = await kind.objects(self._manager.store_client, namespace)
        except Invalid as error:
            progress.failures.append(str(error))
            return
        left: list[Resource] = []
        for start in range(0, len(there), CONCURRENT_DELETES):
            some = there[start : start + CONCURRENT_DELETES]
            results = await asyncio.gather(*map(self._delete, some), return_exceptions=True)
            for result in results:
                if isinstance(result, ApiError):
                    progress.failures.append(str(result))
                elif isinstance(result, BaseException):
                    raise result
                elif result is not None:
                    left.append(result)
        # What was not there before: nobody creates here any more but those who ask nobody.
        if there and not left:
            left = await kind.objects(self._manager.store_client, namespace)
        if not left:
            return
        progress.remaining[f"{kind.plural}.{kind.group}"] = len(left)
        for obj in left:
            metadata = obj.raw["metadata"]
            for finalizer in metadata.get("finalizers") or ():
                progress.finalizers[finalizer] += 1
                progress.estimate = max(progress.estimate, FINALIZER_ESTIMATE)
            progress.estimate = max(progress.estimate, metadata.get("deletionGracePeriodSeconds") or 0)

    async def _delete(self, obj: Resource) -> Resource | None:
        """Ask for its deletion, in the background; what is left of it."""
        finalizers = obj.raw["metadata"].get("finalizers") or ()
        if obj.deleting and FOREGROUND not in finalizers and ORPHAN not in finalizers:
            return obj
        try:
            deleted = await self._client.delete(
                type(obj), obj.name, obj.namespace, uid=obj.metadata.uid, propagation="background"
            )
        except NotFound:
            return None
        except Conflict:
            return obj  # it is another one by now
        self._deleted += 1
        return deleted.object


async def _create(ctx: Context, name: str) -> None:
    try:
        await ctx.create(Namespace(name=name))
    except AlreadyExists:
        return


def _write_conditions(namespace: Namespace, progress: _Progress, now: datetime) -> None:
    conditions: list[Any] = namespace.raw["status"].setdefault("conditions", [])
    kinds = [f"{kind} has {count} resource instances" for kind, count in sorted(progress.remaining.items())]
    finalizers = [f"{name} in {count} resource instances" for name, count in sorted(progress.finalizers.items())]
    bad = {
        "NamespaceDeletionContentFailure": _together("Failed to delete all resource types", progress.failures),
        "NamespaceContentRemaining": f"Some resources are remaining: {', '.join(kinds)}" if kinds else "",
        "NamespaceFinalizersRemaining": (
            f"Some content in the namespace has finalizers remaining: {', '.join(finalizers)}" if finalizers else ""
        ),
    }
    for kind, (reason, message) in _GOOD.items():
        if told := bad.get(kind):
            set_status_condition(conditions, kind, "True", _BAD[kind], told, now=now)
        else:
            set_status_condition(conditions, kind, "False", reason, message, now=now)


def _together(what: str, failures: Sequence[str]) -> str:
    if not failures:
        return ""
    told = ", ".join(sorted(set(failures))[:10])
    return f"{what}, {len(failures)} remaining: {told}"


def _pause(namespace: Namespace, progress: _Progress, now: datetime) -> float:
    """Seconds until it is looked at again: soon at first, then as Kubernetes after half of what the rest should take.

    >>> from datetime import timedelta
    >>> since = datetime(2026, 1, 1)
    >>> space = Namespace.from_raw({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    >>> start = space.metadata.deletion_timestamp
    >>> [_pause(space, _Progress(estimate=30), start + timedelta(seconds=each)) for each in (0, 4, 100)]
    [0.25, 2.0, 16.0]
    """
    since = namespace.metadata.deletion_timestamp
    elapsed = 0.0 if since is None else (now - since).total_seconds()
    return max(SOONEST, min(elapsed / 2, progress.estimate / 2 + 1))
