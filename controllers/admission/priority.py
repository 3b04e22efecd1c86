"""Priority: what a pod's class is worth, written into the pod."""

from __future__ import annotations

from typing import Any

from controllers.admission.lookups import Lookups
from controllers.core.scheduling.priorities import resolve_priority
from controllers.core.scheduling.types import PriorityClass
from controllers.core.types import Pod
from informer.admission import AdmissionRequest, Operation, Plugin
from informer.errors import Forbidden
from informer.resources import ResourceType


class PriorityAdmission(Plugin):
    """Kubernetes' plug-in Priority."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    def handles(self, kind: ResourceType, operation: Operation) -> bool:
        """Creates of pods, and writes of their classes."""
        if kind == Pod.TYPE:
            return operation == "create"
        return operation != "delete" and kind == PriorityClass.TYPE

    async def admit(self, request: AdmissionRequest[Any]) -> None:
        """Set the pod's priority and preemption policy. Raises Forbidden for a class that is not there, or another
        priority than that of the class."""
        if request.object.TYPE != Pod.TYPE:
            return
        spec, about = request.object.raw["spec"], f'pods "{request.object.name}" is forbidden:'
        name = spec.get("priorityClassName") or ""
        classes = await self._lookups.of(PriorityClass, None)
        found = resolve_priority(name, classes)
        if found is None:
            raise Forbidden(f"{about} no PriorityClass with name {name} was found")
        given = spec.get("priority")
        if given is not None and given != found.value:
            raise Forbidden(
                f"{about} the integer value of priority ({given}) must not be provided in pod spec; "
                f"priority admission controller computed {found.value} from the given PriorityClass name"
            )
        policy = spec.get("preemptionPolicy")
        if policy is not None and policy != found.preemption_policy:
            raise Forbidden(
                f"{about} the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; "
                f"priority admission controller computed {found.preemption_policy} from the given PriorityClass name"
            )
        spec["priority"], spec["preemptionPolicy"] = found.value, found.preemption_policy
        if found.class_name:
            spec["priorityClassName"] = found.class_name

    async def validate(self, request: AdmissionRequest[Any]) -> None:
        """Raise Forbidden for a second class that is the default."""
        obj = request.object
        if obj.TYPE != PriorityClass.TYPE or not obj.raw.get("globalDefault"):
            return
        for other in await self._lookups.of(PriorityClass, None):
            if other.global_default and other.name != obj.name:
                raise Forbidden(
                    f'{obj.TYPE.qualified} "{obj.name}" is forbidden: PriorityClass {other.name} is already marked as '
                    "default. Only one default can exist"
                )
