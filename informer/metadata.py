"""What an API server checks about the metadata of every object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from informer.codecs import Path, Raw, render
from informer.errors import Invalid
from informer.names import key_problem, label_problem, subdomain_problem, value_problem

if TYPE_CHECKING:
    from informer.resources import Resource, ResourceType

_LABELS: Path = ((None, "metadata"), "labels")
_ANNOTATIONS: Path = ((None, "metadata"), "annotations")

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"

MAX_ANNOTATIONS = 256 * 1024  # bytes of all keys and values


def check_metadata(kind: ResourceType, metadata: Raw) -> None:
    """Raise `Invalid` for what Kubernetes refuses. The fields have the right types already."""
    name = metadata.get("name")
    if not name:
        raise Invalid("metadata.name", "name or generateName is required")
    if problem := subdomain_problem(name):
        raise Invalid("metadata.name", problem)
    if kind.namespaced and (problem := label_problem(metadata["namespace"])):
        raise Invalid("metadata.namespace", problem)
    for key, value in (metadata.get("labels") or {}).items():
        if problem := key_problem(key) or value_problem(value):
            raise Invalid(render((_LABELS, key)), problem)
    if annotations := metadata.get("annotations"):
        _check_annotations(annotations)
    if finalizers := metadata.get("finalizers"):
        if ORPHAN in finalizers and FOREGROUND in finalizers:
            raise Invalid("metadata.finalizers", f"{ORPHAN} and {FOREGROUND} exclude each other")
        for index, finalizer in enumerate(finalizers):
            if problem := key_problem(finalizer):
                raise Invalid(f"metadata.finalizers[{index}]", problem)
    if owners := metadata.get("ownerReferences"):
        managing = [f"{owner['kind']} {owner['name']}" for owner in owners if owner.get("controller")]
        if len(managing) > 1:
            raise Invalid("metadata.ownerReferences", f"only one can be the controller, got {' and '.join(managing)}")


def _check_annotations(annotations: dict[str, str]) -> None:
    size = 0
    for key, value in annotations.items():
        if problem := key_problem(key.lower()):
            raise Invalid(render((_ANNOTATIONS, key)), problem)
        # A character is up to four bytes: only a text that may be too long is measured.
        size += len(key) + len(value)
    if size * 4 > MAX_ANNOTATIONS:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
        if size > MAX_ANNOTATIONS:
            raise Invalid("metadata.annotations", f"must have at most {MAX_ANNOTATIONS} bytes in all, got {size}")


def controller_reference(owner: Resource, child: ResourceType, namespace: str | None) -> Raw:
    """The owner reference that makes `owner` manage a child. Raises `Invalid` where it cannot."""
    kind, metadata = owner.TYPE, owner.metadata
    if not metadata.uid:
        raise Invalid("metadata.ownerReferences", f"{owner!r} has no uid: only a stored object can own another")
    if kind.namespaced and not child.namespaced:
        raise Invalid(
            "metadata.ownerReferences", f"{owner!r} has a namespace, {child.plural} have none: it cannot own one"
        )
    if kind.namespaced and metadata.namespace != namespace:
        raise Invalid("metadata.ownerReferences", f"{owner!r} is in another namespace than {namespace}: it cannot own")
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": metadata.name,
        "uid": metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
