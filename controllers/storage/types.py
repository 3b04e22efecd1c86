"""Kubernetes' kinds of storage besides the claim, with their defaults and rules."""

from __future__ import annotations

from typing import Any, Literal

from controllers.core.quantities import scaled
from controllers.core.types import ObjectReference
from informer import patch
from informer.errors import Invalid
from informer.objects import Model
from informer.resources import Resource

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

# What a volume's spec says besides where the storage is.
_COMMON = frozenset(
    (
        "capacity",
        "accessModes",
        "claimRef",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "mountOptions",
        "volumeMode",
        "nodeAffinity",
        "volumeAttributesClassName",
    )
)


class PersistentVolumeSpec(Model):
    """How much storage there is and for whom; where it is rides along."""

    capacity: dict[str, int | float | str]
    access_modes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]]
    claim_ref: ObjectReference | None
    persistent_volume_reclaim_policy: Literal["Retain", "Delete", "Recycle"] = "Retain"
    storage_class_name: str = ""
    volume_mode: Literal["Filesystem", "Block"] = "Filesystem"
    mount_options: list[str]
    node_affinity: dict[str, Any] | None


class PersistentVolumeStatus(Model):
    """Whether it is free, taken, or what became of it."""

    phase: Literal["Pending", "Available", "Bound", "Released", "Failed"] = "Pending"
    message: str = ""
    reason: str = ""


class PersistentVolume(Resource, group="", version="v1", namespaced=False, short_names=("pv",)):
    """Some storage."""

    spec: PersistentVolumeSpec
    status: PersistentVolumeStatus

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
        spec.setdefault("volumeMode", "Filesystem")
        self.raw.setdefault("status", {}).setdefault("phase", "Pending")

    def validate(self) -> None:
        """It says how much there is, how it can be used, and where it is."""
        spec = self.raw["spec"]
        if not spec.get("accessModes"):
            raise Invalid("spec.accessModes", "required")
        storage = (spec.get("capacity") or {}).get("storage")
        if storage is None:
            raise Invalid("spec.capacity.storage", "required")
        if scaled(storage) <= 0:
            raise Invalid("spec.capacity.storage", "must be greater than zero")
        sources = _sources(spec)
        if not sources:
            raise Invalid("spec", "must specify a volume type")
        if len(sources) > 1:
            raise Invalid(f"spec.{max(sources)}", "may not specify more than 1 volume type")

    def validate_update(self, old: PersistentVolume) -> None:
        """Where the storage is, and of which sort, stays."""
        before, after = old.raw["spec"], self.raw["spec"]
        if not patch.semantic_equal(_sources(before), _sources(after)):
            raise Invalid("spec.persistentvolumesource", "is immutable after creation")
        if before.get("volumeMode", "Filesystem") != after["volumeMode"]:
            raise Invalid("spec.volumeMode", "field is immutable")


def _sources(spec: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in spec.items() if field not in _COMMON}


class StorageClass(Resource, group="storage.k8s.io", version="v1", namespaced=False, short_names=("sc",), status=False):
    """How volumes are made for claims that name it."""

    provisioner: str
    parameters: dict[str, str]
    reclaim_policy: Literal["Retain", "Delete"] = "Delete"
    volume_binding_mode: Literal["Immediate", "WaitForFirstConsumer"] = "Immediate"
    allow_volume_expansion: bool = False
    mount_options: list[str]

    def default(self) -> None:
        """As kube-apiserver."""
        self.raw.setdefault("reclaimPolicy", "Delete")
        self.raw.setdefault("volumeBindingMode", "Immediate")

    def validate(self) -> None:
        """Somebody has to make the volumes."""
        if not self.raw.get("provisioner"):
            raise Invalid("provisioner", "required")

    def validate_update(self, old: StorageClass) -> None:
        """How volumes were made so far must be true of them later."""
        for field in ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"):
            if not patch.semantic_equal(old.raw.get(field), self.raw.get(field)):
                raise Invalid(field, "updates to this field are forbidden")

    @property
    def is_default(self) -> bool:
        """Whether claims that name no class get this one."""
        return self.metadata.annotations.get(DEFAULT_CLASS) == "true"
