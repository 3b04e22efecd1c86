"""The pods of a StatefulSet: what decides about them, how they are made, and what they are to be called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from controllers.apps.history import REVISION_HASH
from controllers.apps.statefulset.types import StatefulSet
from controllers.core.pods import PodView, seconds_until_available
from controllers.core.types import Pod
from controllers.owners import set_controller_reference
from informer import patch
from informer.cache import Stored

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"

_NAME = re.compile(r"(.*)-([0-9]+)", re.DOTALL)
_MOST = 2**31 - 1  # Kubernetes counts in int32

Raw = dict[str, Any]


def parent_and_ordinal(name: str) -> tuple[str, int] | None:
    """The name of the StatefulSet that a pod's name belongs to, and its number; None if it belongs to none.

    >>> parent_and_ordinal("web-10"), parent_and_ordinal("web"), parent_and_ordinal("web-0-x")
    (('web', 10), None, None)
    """
    # Asked of every pod there is, and most end with a letter.
    return _split(name) if name[-1:].isdigit() else None


@lru_cache(maxsize=4096)  # each run asks this of each pod several times
def _split(name: str) -> tuple[str, int] | None:
    found = _NAME.fullmatch(name)
    if found is None or int(found[2]) > _MOST:
        return None
    return found[1], int(found[2])


def is_member(sts: StatefulSet, pod_name: str) -> bool:
    """Whether a pod of that name can be one of the StatefulSet's."""
    found = parent_and_ordinal(pod_name)
    return found is not None and found[0] == sts.name


class _Source(msgspec.Struct, gc=False, rename="camel"):
    claim_name: str = ""


class _Volume(msgspec.Struct, gc=False, rename="camel"):
    name: str = ""
    persistent_volume_claim: _Source | None = None


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    node_name: str = ""
    volumes: list[_Volume] | None = None


class StatefulPod(PodView, gc=False, kw_only=True):
    """A pod of a StatefulSet at one revision, to be read only."""

    spec: _Spec = msgspec.field(default_factory=_Spec)  # type: ignore[assignment]

    @property
    def ordinal(self) -> int:
        """Its number; -1 if its name has none."""
        found = parent_and_ordinal(self.name)
        return -1 if found is None else found[1]

    @property
    def revision(self) -> str:
        """The name of the ControllerRevision that it was made of."""
        return (self.metadata.labels or {}).get(REVISION_HASH, "")

    @property
    def running_and_ready(self) -> bool:
        """Whether it serves."""
        return self.phase == "Running" and self.ready

    @property
    def healthy(self) -> bool:
        """Whether it serves and is to go on serving."""
        return self.running_and_ready and not self.deleting

    def available(self, min_ready_seconds: int, now: datetime) -> bool:
        """Whether it has served for long enough."""
        return self.running_and_ready and seconds_until_available(self, min_ready_seconds, now) == 0


_DECODER: Final = msgspec.json.Decoder(StatefulPod)


def decode_pod(stored: Stored) -> StatefulPod:
    """The view of a stored pod. Raises msgspec.ValidationError if a field does not fit."""
    return _DECODER.decode(stored.data)


# ---- identity --------------------------------------------------------------------------------------------------------


def pod_name(sts: StatefulSet, ordinal: int) -> str:
    """The name of the pod with that number."""
    return f"{sts.name}-{ordinal}"


def claim_name(sts: StatefulSet, template: str, ordinal: int) -> str:
    """The name of a claim of the pod with that number."""
    return f"{template}-{sts.name}-{ordinal}"


def templates_of(sts: StatefulSet) -> Sequence[Raw]:
    """The claim templates, not to be changed."""
    return sts.raw["spec"].get("volumeClaimTemplates") or ()


def pod_of(sts: StatefulSet, ordinal: int, template: Raw, revision: str) -> Pod:
    """The pod with that number, of the template of a revision."""
    described = template.get("metadata") or {}
    copied = {field: described[field] for field in ("labels", "annotations", "finalizers") if described.get(field)}
    name = pod_name(sts, ordinal)
    spec = {**template["spec"], "hostname": name}
    if sts.spec.service_name:
        spec["subdomain"] = sts.spec.service_name
    pod = Pod.from_raw(patch.copy({"metadata": {**copied, "name": name, "namespace": sts.namespace}, "spec": spec}))
    pod.metadata.labels[REVISION_HASH] = revision
    repair(sts, pod)
    set_controller_reference(sts, pod)
    return pod


def is_intact(sts: StatefulSet, pod: StatefulPod) -> bool:
    """Whether it has the labels of its identity, and its claims as volumes."""
    labels = pod.metadata.labels or {}
    if labels.get(POD_NAME) != pod.name or labels.get(POD_INDEX) != str(pod.ordinal):
        return False
    mounted = {
        volume.name: volume.persistent_volume_claim.claim_name
        for volume in pod.spec.volumes or ()
        if volume.persistent_volume_claim is not None
    }
    names = (template["metadata"]["name"] for template in templates_of(sts))
    return all(mounted.get(name) == claim_name(sts, name, pod.ordinal) for name in names)


def repair(sts: StatefulSet, pod: Pod) -> None:
    """Give a pod, in memory, the labels of its identity and its claims as volumes."""
    found = parent_and_ordinal(pod.name)
    assert found is not None
    ordinal = found[1]
    pod.metadata.labels[POD_NAME] = pod.name
    pod.metadata.labels[POD_INDEX] = str(ordinal)
    claims = {
        template["metadata"]["name"]: claim_name(sts, template["metadata"]["name"], ordinal)
        for template in templates_of(sts)
    }
    if claims:
        own = [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, claim in claims.items()]
        others = [volume for volume in pod.raw["spec"].get("volumes") or () if volume["name"] not in claims]
        pod.raw["spec"]["volumes"] = own + others
