"""DefaultStorageClass: the class of claims that name none."""

from __future__ import annotations

from typing import Any

from controllers.admission.lookups import Lookups
from controllers.core.types import PersistentVolumeClaim
from controllers.storage.classes import default_of
from controllers.storage.types import StorageClass
from informer.admission import AdmissionRequest, Operation, Plugin
from informer.resources import ResourceType


class DefaultStorageClass(Plugin):
    """Kubernetes' plug-in of that name. Where no class is the default the binder finds one, or makes it."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    def handles(self, kind: ResourceType, operation: Operation) -> bool:
        """Creates of claims."""
        return kind == PersistentVolumeClaim.TYPE and operation == "create"

    async def admit(self, request: AdmissionRequest[Any]) -> None:
        """Name the default class in a claim that says nothing of it."""
        spec = request.object.raw["spec"]
        if spec.get("storageClassName") is None:
            found = default_of(await self._lookups.of(StorageClass, None))
            if found is not None:
                spec["storageClassName"] = found.name
