"""The pods of a DaemonSet: how they are made, and which node each is for. No I/O."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from controllers.apps.daemonset.nodes import tolerations_for
from controllers.apps.daemonset.types import DaemonSet
from controllers.apps.history import REVISION_HASH
from controllers.core.node_affinity import NodeAffinity
from controllers.core.pods import PodView
from controllers.core.types import Pod
from controllers.owners import set_controller_reference
from informer.cache import Stored

GENERATION_LABEL = "pod-template-generation"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"

Raw = dict[str, Any]


class _Affinity(msgspec.Struct, gc=False, rename="camel"):
    node_affinity: NodeAffinity | None = None


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    node_name: str = ""
    affinity: _Affinity | None = None


class _Placed(msgspec.Struct, gc=False):
    spec: _Spec = msgspec.field(default_factory=_Spec)


class DaemonPod(msgspec.Struct, gc=False):
    """What a DaemonSet looks at of a pod at one revision; every sync looks at all of them, so it is worked out once.

    target: the node it is on or for, "" if it does not say. bound: whether it has that node. since: when it became
    ready. age: sorts pods of one node: those that have it before those that wait for it, then the older ones.
    """

    name: str
    uid: str
    labels: dict[str, str]
    target: str
    bound: bool
    deleting: bool
    phase: str
    ready: bool
    since: datetime | None
    age: tuple[bool, datetime | None, str]

    @property
    def finished(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def runs(self) -> bool:
        """Whether it runs or will: it has not ended, and nobody has asked for its end."""
        return not self.deleting and not self.finished


_decode_view: Final = msgspec.json.Decoder(PodView).decode
_decode_placed: Final = msgspec.json.Decoder(_Placed).decode


def decode_daemon_pod(stored: Stored) -> DaemonPod:
    """The view of a stored pod. Raises msgspec.ValidationError if a field does not fit."""
    view = _decode_view(stored.data)
    return DaemonPod(
        name=view.name,
        uid=view.uid,
        labels=view.metadata.labels or {},
        target=view.node or _pinned_to(_decode_placed(stored.data).spec),
        bound=bool(view.node),
        deleting=view.deleting,
        phase=view.phase,
        ready=view.ready,
        since=view.ready_since,
        age=(not view.node, view.metadata.creation_timestamp, view.name),
    )


def _pinned_to(spec: _Spec) -> str:
    """The node that the pod's affinity names, if it is one."""
    affinity = spec.affinity.node_affinity if spec.affinity is not None else None
    for term in affinity.required.node_selector_terms if affinity is not None and affinity.required is not None else ():
        for field in term.match_fields or ():
            if field.key == "metadata.name" and field.operator == "In" and len(field.values) == 1:
                return field.values[0]
    return ""


def pinned(affinity: Raw | None, node: str) -> Raw:
    """The affinity with one node as all that it requires of nodes; what it prefers, and other pods, stay.

    The node was chosen by what was required before, so nothing is lost.
    """
    before = affinity or {}
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    required = {_REQUIRED: {"nodeSelectorTerms": [term]}}
    return {**before, "nodeAffinity": {**(before.get("nodeAffinity") or {}), **required}}


class PodMaker:
    """Makes the pods of one DaemonSet at one revision; only the affinity differs between them."""

    def __init__(self, ds: DaemonSet, revision_hash: str) -> None:
        template = ds.raw["spec"]["template"]
        described = template.get("metadata") or {}
        copied = {field: described[field] for field in ("annotations", "finalizers") if described.get(field)}
        labels = {
            **(described.get("labels") or {}),
            GENERATION_LABEL: str(ds.template_generation),
            REVISION_HASH: revision_hash,
        }
        self._ds = ds
        self._metadata = {**copied, "labels": labels, "generateName": f"{ds.name}-", "namespace": ds.namespace}
        self._spec = {**template["spec"], "tolerations": tolerations_for(template["spec"])}

    def pod_for(self, node: str) -> Pod:
        """A pod for that node, yet to be named. The scheduler binds it, when there is room."""
        spec = {**self._spec, "affinity": pinned(self._spec.get("affinity"), node)}
        pod = Pod.from_raw({"metadata": dict(self._metadata), "spec": spec})
        set_controller_reference(self._ds, pod)
        return pod
