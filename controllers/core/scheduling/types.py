"""PriorityClass: a name for how much pods matter."""

from __future__ import annotations

from typing import Annotated, Literal

from informer.constraints import Immutable
from informer.errors import Invalid
from informer.resources import Resource

HIGHEST_USER_VALUE = 1_000_000_000  # above it is the system's own
# kube-apiserver makes these two; here they are known without being objects.
SYSTEM_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


class PriorityClass(
    Resource, group="scheduling.k8s.io", version="v1", namespaced=False, short_names=("pc",), status=False
):
    """What pods of this class are worth against others. `global_default`: the class of pods that name none."""

    value: Annotated[int, Immutable] = 0
    global_default: bool = False
    description: str = ""
    preemption_policy: Annotated[Literal["PreemptLowerPriority", "Never"], Immutable] = "PreemptLowerPriority"

    def default(self) -> None:
        """As kube-apiserver."""
        self.raw.setdefault("preemptionPolicy", "PreemptLowerPriority")
        self.raw.setdefault("value", 0)

    def validate(self) -> None:
        """What is the system's own is not for users."""
        value = self.raw["value"]
        if self.name in SYSTEM_CLASSES:
            if value != SYSTEM_CLASSES[self.name]:
                raise Invalid("value", f"{self.name} has the value {SYSTEM_CLASSES[self.name]}")
            return
        if self.name.startswith("system-"):
            raise Invalid("metadata.name", "names that begin with system- are reserved for the system")
        if not -(2**31) <= value <= HIGHEST_USER_VALUE:
            raise Invalid("value", f"must be from {-(2**31)} to {HIGHEST_USER_VALUE}, what is above is the system's")
