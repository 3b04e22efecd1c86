"""Storage classes: the one of claims that name none."""

from __future__ import annotations

from collections.abc import Iterable

from controllers.storage.types import DEFAULT_CLASS, StorageClass

STANDARD = "standard"
SIMULATED = "listwatch/simulated"


def default_of(classes: Iterable[StorageClass]) -> StorageClass | None:
    """Of those marked as the default the newest, by name where several were made at once; as kube-apiserver."""
    marked = sorted((each for each in classes if each.is_default), key=lambda each: each.name)
    return max(marked, key=lambda each: each.raw["metadata"].get("creationTimestamp") or "", default=None)


def default_class() -> StorageClass:
    """What a cluster comes with: volumes are made at once, can grow, and go with their claims."""
    return StorageClass.from_raw(
        {
            "metadata": {"name": STANDARD, "annotations": {DEFAULT_CLASS: "true"}},
            "provisioner": SIMULATED,
            "allowVolumeExpansion": True,
        }
    )
