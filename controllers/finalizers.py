"""Finalizers of an object in memory: what keeps it until somebody has cleaned up. Store the object afterwards."""

from __future__ import annotations

from informer import Resource


def has_finalizer(obj: Resource, finalizer: str) -> bool:
    """Whether the object bears it."""
    return finalizer in obj.metadata.finalizers


def add_finalizer(obj: Resource, finalizer: str) -> bool:
    """Put it on; whether that changed anything. None can be added to an object that is being deleted."""
    if has_finalizer(obj, finalizer):
        return False
    obj.metadata.finalizers.append(finalizer)
    return True


def remove_finalizer(obj: Resource, finalizer: str) -> bool:
    """Take it off; whether that changed anything."""
    if not has_finalizer(obj, finalizer):
        return False
    obj.metadata.finalizers = [each for each in obj.metadata.finalizers if each != finalizer]
    return True
