"""DefaultTolerationSeconds: for how long a pod stays on a node that is not ready or cannot be reached."""

from __future__ import annotations

import math
from typing import Any

from controllers.core.types import Pod
from informer.admission import AdmissionRequest, Operation, Plugin
from informer.resources import ResourceType

TOLERATION_SECONDS = 300.0  # kube-apiserver's --default-not-ready-toleration-seconds
TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class DefaultTolerationSeconds(Plugin):
    """Kubernetes' plug-in of that name. seconds: rounded up, since tolerations count whole ones."""

    def __init__(self, seconds: float) -> None:
        self._seconds = max(0, math.ceil(seconds))

    def handles(self, kind: ResourceType, operation: Operation) -> bool:
        """Creates of pods. A pod's tolerations are never taken from it, so that an update needs none."""
        return operation == "create" and kind == Pod.TYPE

    async def admit(self, request: AdmissionRequest[Any]) -> None:
        """Add a toleration for each of the two taints that the pod says nothing about."""
        spec = request.object.raw["spec"]
        tolerations = spec.get("tolerations") or []
        missing = [taint for taint in TAINTS if not any(_tolerates(each, taint) for each in tolerations)]
        if missing:
            added = [
                {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": self._seconds}
                for taint in missing
            ]
            spec["tolerations"] = [*tolerations, *added]


def _tolerates(toleration: dict[str, Any], taint: str) -> bool:
    return toleration.get("key", "") in (taint, "") and toleration.get("effect", "") in ("NoExecute", "")
