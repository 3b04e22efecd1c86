"""NamespaceLifecycle: nothing is created in a namespace that is not there, or that is being deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controllers.admission.lookups import Lookups
from controllers.core.types import BUILTIN_NAMESPACES, Namespace
from informer.admission import AdmissionRequest, Operation, Plugin
from informer.errors import Forbidden, NamespaceTerminating, NotFound
from informer.resources import ResourceType
from kvstore.api import Compare, CompareResult, CompareTarget


class NamespaceLifecycle(Plugin):
    """Kubernetes' plug-in of that name, with one promise more.

    kube-apiserver asks its cache, and the namespace controller waits some seconds for those of other servers. Here the
    transaction that creates an object compares the namespace's revision: what a cache does not know yet counts.
    """

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    def handles(self, kind: ResourceType, operation: Operation) -> bool:
        """Creates of what is in namespaces, and deletes of namespaces."""
        return kind.namespaced if operation == "create" else operation == "delete" and kind == Namespace.TYPE

    async def admit(self, request: AdmissionRequest[Any]) -> None:
        """Raise NotFound or NamespaceTerminating if the object cannot be created where it says."""
        await self.conditions(request, live=False)

    async def conditions(self, request: AdmissionRequest[Any], *, live: bool) -> Sequence[Compare]:
        """The namespace is still as it was judged."""
        obj = request.object
        name: str = obj.raw["metadata"]["namespace"]
        # These are there from the start and cannot be deleted; nearly all is created in them.
        if name in BUILTIN_NAMESPACES:
            return ()
        return await open_namespace(self._lookups, name, f'{obj.TYPE.qualified} "{obj.name}"', live=live)

    async def validate(self, request: AdmissionRequest[Any]) -> None:
        """Raise Forbidden if a namespace must not be deleted."""
        if request.operation == "delete" and request.object.name in BUILTIN_NAMESPACES:
            raise Forbidden(f'namespaces "{request.object.name}" is forbidden: this namespace may not be deleted')


async def open_namespace(lookups: Lookups, name: str, what: str, *, live: bool) -> Sequence[Compare]:
    """What holds in the store while the namespace is the one that was found, and takes new objects.

    what: the object that is to be created, for the error. Raises `NotFound`, `NamespaceTerminating`.
    """
    if name in BUILTIN_NAMESPACES:
        return ()
    namespace = await lookups.namespace(name, live=live)
    if namespace is None:
        raise NotFound(f'namespaces "{name}" not found')
    if namespace.deleting or namespace.status.phase == "Terminating":
        raise NamespaceTerminating(
            f"{what} is forbidden: unable to create new content in namespace {name} because it is being terminated"
        )
    revision = int(namespace.metadata.resource_version or 0)
    return (Compare(Namespace.TYPE.key(None, name), CompareTarget.MOD, CompareResult.EQUAL, revision),)
