"""Owner references: who manages an object, and with whom it goes."""

from __future__ import annotations

from controllers.errors import AlreadyOwned, InvalidOwner
from informer.resources import OwnerReference, Resource


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
    Raises AlreadyOwned if another controller manages `obj`; InvalidOwner if `owner` is in another namespace, is
    namespaced while `obj` is not, or was never stored.
    """
    _check(owner, obj)
    kind = type(owner).TYPE
    wanted = OwnerReference(
        api_version=kind.api_version,
        kind=kind.kind,
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
    references = list(obj.metadata.owner_references)
    same = [i for i, reference in enumerate(references) if _same_owner(reference, wanted)]
    for i, reference in enumerate(references):
        if reference.controller and i not in same:
            raise AlreadyOwned(
                f"{describe(obj)} is controlled by {reference.kind} {reference.name}, not by {describe(owner)}"
            )
    if len(same) == 1 and references[same[0]] == wanted:
        return False
    obj.metadata.owner_references = [*(r for i, r in enumerate(references) if i not in same), wanted]
    return True


def describe(obj: Resource) -> str:
    """`Kind namespace/name`, for error texts."""
    namespace = obj.metadata.namespace
    return (
        f"{type(obj).TYPE.kind} {namespace}/{obj.metadata.name}"
        if namespace
        else f"{type(obj).TYPE.kind} {obj.metadata.name}"
    )


def _check(owner: Resource, obj: Resource) -> None:
    if not owner.metadata.uid:
        raise InvalidOwner(f"{describe(owner)} has no uid: read it from the store before it owns {describe(obj)}")
    if type(owner).TYPE.namespaced:
        if not type(obj).TYPE.namespaced:
            raise InvalidOwner(
                f"{describe(obj)} is cluster-scoped, so {describe(owner)}, which has a namespace, cannot own it"
            )
        if owner.metadata.namespace != obj.metadata.namespace:
            raise InvalidOwner(
                f"{describe(obj)} is in another namespace than {describe(owner)}, which therefore cannot own it"
            )


def _same_owner(a: OwnerReference, b: OwnerReference) -> bool:
    group = a.api_version.rpartition("/")[0]
    return (group, a.kind, a.name) == (b.api_version.rpartition("/")[0], b.kind, b.name)
