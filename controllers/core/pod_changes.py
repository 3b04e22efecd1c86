"""What may change in a pod that is there."""

from __future__ import annotations

from typing import Any

from informer import patch
from informer.errors import Invalid

Spec = dict[str, Any]

FORBIDDEN = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)"
)
# Volumes: a StatefulSet gives a pod that it adopts its claims.
_FREE = ("activeDeadlineSeconds", "containers", "initContainers", "schedulingGates", "tolerations", "volumes")
_FREE_WHILE_GATED = ("affinity", "nodeSelector")


def validate_pod_changes(old: Spec, new: Spec) -> None:
    """Raise `Invalid` for a change that kube-apiserver would refuse. A pod gets its node once."""
    if old == new:
        return
    tolerated = _tolerations(new)
    if any(each not in tolerated for each in _tolerations(old)):
        raise Invalid("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
    free: tuple[str, ...] = _FREE if old.get("nodeName") else (*_FREE, "nodeName")
    if old.get("schedulingGates"):
        free += _FREE_WHILE_GATED
    if not patch.semantic_equal(_kept(old, free), _kept(new, free)):
        raise Invalid("spec", FORBIDDEN)


def _tolerations(spec: Spec) -> list[Spec]:
    return [
        {field: value for field, value in each.items() if field != "tolerationSeconds"}
        for each in spec.get("tolerations") or ()
    ]


def _kept(spec: Spec, free: tuple[str, ...]) -> Spec:
    kept = {field: value for field, value in spec.items() if field not in free}
    for field in ("containers", "initContainers"):
        kept[field] = [{**each, "image": ""} for each in spec.get(field) or ()]
    return kept
