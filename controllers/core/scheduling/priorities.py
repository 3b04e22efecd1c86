"""From the name of a priority class to a pod's priority."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from controllers.core.scheduling.types import SYSTEM_CLASSES, PriorityClass

LOWER = "PreemptLowerPriority"


class Priority(msgspec.Struct, frozen=True):
    """What a pod gets by its class: `spec.priorityClassName`, `spec.priority` and `spec.preemptionPolicy`."""

    class_name: str
    value: int
    preemption_policy: str = LOWER


NO_PRIORITY = Priority("", 0)


def resolve_priority(class_name: str, classes: Iterable[PriorityClass]) -> Priority | None:
    """The priority of a pod that names this class, or none (""); None if there is no such class.

    Without a name the global default counts, of several the lowest; without one the priority is 0. As kube-apiserver's
    Priority admission. O(number of classes).
    """
    if not class_name:
        return min(
            (_of(each) for each in classes if each.global_default),
            key=lambda priority: (priority.value, priority.class_name),
            default=NO_PRIORITY,
        )
    for each in classes:
        if each.name == class_name:
            return _of(each)
    if class_name in SYSTEM_CLASSES:
        return Priority(class_name, SYSTEM_CLASSES[class_name])
    return None


def _of(found: PriorityClass) -> Priority:
    return Priority(found.name, found.value, found.preemption_policy)
