"""The claims of a StatefulSet's pods: their names, what they are made of, and with whom they go. Pure functions.

A claim goes with what owns it, so the retention policy is a matter of owner references:

| whenDeleted | whenScaled | the pod is wanted   | it is beyond the number |
|-------------|------------|---------------------|-------------------------|
| Retain      | Retain     | nobody              | nobody                  |
| Delete      | Retain     | the StatefulSet     | the StatefulSet         |
| Retain      | Delete     | nobody              | the pod                 |
| Delete      | Delete     | the StatefulSet     | the pod                 |
"""

from __future__ import annotations

from typing import Any

from controllers.apps.statefulset.pods import StatefulPod, claim_name, pod_name
from controllers.apps.statefulset.types import StatefulSet
from controllers.core.types import PersistentVolumeClaim, Pod
from informer import patch
from informer.metadata import controller_reference

Raw = dict[str, Any]


def claim_of(sts: StatefulSet, template: Raw, ordinal: int) -> PersistentVolumeClaim:
    """The claim of a template for the pod with that number, which is one of those wanted."""
    described = template["metadata"]
    labels = {**(described.get("labels") or {}), **(sts.raw["spec"]["selector"].get("matchLabels") or {})}
    metadata = {
        **patch.copy(described),
        "name": claim_name(sts, described["name"], ordinal),
        "namespace": sts.namespace,
        "labels": labels,
    }
    claim = PersistentVolumeClaim.from_raw({"metadata": metadata, "spec": patch.copy(template["spec"])})
    if references := wanted_references(sts, None, None, wanted=True):
        claim.raw["metadata"]["ownerReferences"] = references
    return claim


def is_stale(sts: StatefulSet, claim: PersistentVolumeClaim, ordinal: int) -> bool:
    """Whether the claim is about to go with an earlier pod of that name: it must not be used again."""
    if sts.spec.persistent_volume_claim_retention_policy.when_scaled == "Retain":
        return False
    return any(_names(each, Pod.TYPE.kind, "v1", pod_name(sts, ordinal)) for each in references_of(claim))


def wanted_references(
    sts: StatefulSet, claim: PersistentVolumeClaim | None, pod: StatefulPod | None, *, wanted: bool
) -> list[Raw]:
    """The owner references that a claim is to have. claim: the stored one. pod: the one that uses it, if there is one.
    wanted: whether its ordinal is one of those that are to exist."""
    references = references_of(claim) if claim is not None else []
    ours = [each for each in references if _is_ours(sts, pod, each)]
    if any(each.get("uid") not in (sts.metadata.uid, pod.uid if pod is not None else None) for each in ours):
        # It is about to go with an earlier one of the same name.
        return references
    others = [each for each in references if each not in ours]
    if conflicting(sts, claim, pod):
        return others
    policy = sts.spec.persistent_volume_claim_retention_policy
    if not wanted and policy.when_scaled == "Delete":
        return [*others, _pod_reference(pod)] if pod is not None else references
    if policy.when_deleted == "Delete":
        return [*others, controller_reference(sts, PersistentVolumeClaim.TYPE, sts.namespace)]
    return others


def conflicting(sts: StatefulSet, claim: PersistentVolumeClaim | None, pod: StatefulPod | None) -> bool:
    """Whether somebody else controls a claim that the policy may delete."""
    policy = sts.spec.persistent_volume_claim_retention_policy
    if claim is None or (policy.when_scaled, policy.when_deleted) == ("Retain", "Retain"):
        return False
    return any(each.get("controller") and not _is_ours(sts, pod, each) for each in references_of(claim))


def references_of(claim: PersistentVolumeClaim) -> list[Raw]:
    """The owner references that it has."""
    return list(claim.raw["metadata"].get("ownerReferences") or ())


def _is_ours(sts: StatefulSet, pod: StatefulPod | None, reference: Raw) -> bool:
    if _names(reference, sts.TYPE.kind, sts.TYPE.api_version, sts.name):
        return True
    return pod is not None and _names(reference, Pod.TYPE.kind, Pod.TYPE.api_version, pod.name)


def _names(reference: Raw, kind: str, version: str, name: str) -> bool:
    return (reference.get("kind"), reference.get("apiVersion"), reference.get("name")) == (kind, version, name)


def _pod_reference(pod: StatefulPod) -> Raw:
    return {
        "apiVersion": Pod.TYPE.api_version,
        "kind": Pod.TYPE.kind,
        "name": pod.name,
        "uid": pod.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
