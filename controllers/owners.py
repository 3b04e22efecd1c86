"""Owner references: who manages an object, and with whom it goes."""

from __future__ import annotations

from controllers.errors import AlreadyOwned
from informer import OwnerReference, Resource, controller_reference


def controller_of(obj: Resource) -> OwnerReference | None:
    """The reference to the one owner that manages the object, or None."""
    return obj.metadata.controller


def is_controlled_by(obj: Resource, owner: Resource) -> bool:
    """Whether `owner` manages the object: this very one, by its uid, not another of the same name."""
    reference = controller_of(obj)
    return reference is not None and bool(reference.uid) and reference.uid == owner.metadata.uid


def set_controller_reference(owner: Resource, obj: Resource) -> bool:
    """Make `owner` the controller of `obj`, in memory; whether that changed anything.

    A reference to an owner of the same group, kind and name is brought up to date (`blockOwnerDeletion` included).
    Raises AlreadyOwned if another controller manages `obj`; Invalid if `owner` is in another namespace, is namespaced
    while `obj` is not, or was never stored.
    """
    wanted = OwnerReference.from_raw(controller_reference(owner, type(obj).TYPE, obj.namespace))
    references = list(obj.metadata.owner_references)
    others = [reference for reference in references if not _same_owner(reference, wanted)]
    for reference in others:
        if reference.controller:
            raise AlreadyOwned(f"{obj!r} is controlled by {reference.kind} {reference.name}, not by {owner!r}")
    if len(others) == len(references) - 1 and wanted in references:
        return False
    obj.metadata.owner_references = [*others, wanted]
    return True


def _same_owner(a: OwnerReference, b: OwnerReference) -> bool:
    return (_group(a), a.kind, a.name) == (_group(b), b.kind, b.name)


def _group(reference: OwnerReference) -> str:
    return reference.api_version.rpartition("/")[0]
