"""Which nodes a DaemonSet's pods may run on. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from controllers.core.node_affinity import NodeAffinity, node_fits
from controllers.core.taints import Taint, Toleration, untolerated
from informer.cache import Stored

Raw = dict[str, Any]

NO_SCHEDULE, NO_EXECUTE = "NoSchedule", "NoExecute"

# What every pod of a DaemonSet puts up with: it belongs to its node, whatever becomes of that.
AUTOMATIC = (
    ("node.kubernetes.io/not-ready", NO_EXECUTE),
    ("node.kubernetes.io/unreachable", NO_EXECUTE),
    ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
)
ON_HOST_NETWORK = (("node.kubernetes.io/network-unavailable", NO_SCHEDULE),)


class _Metadata(msgspec.Struct, gc=False):
    name: str = ""
    labels: dict[str, str] = {}


class _Spec(msgspec.Struct, gc=False):
    taints: list[Taint] | None = None


class DaemonNode(msgspec.Struct, gc=False):
    """What a DaemonSet looks at of a node. Not whether it is cordoned: its pods tolerate that."""

    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)

    @property
    def name(self) -> str:
        """metadata.name."""
        return self.metadata.name

    @property
    def labels(self) -> dict[str, str]:
        """metadata.labels."""
        return self.metadata.labels

    @property
    def taints(self) -> Sequence[Taint]:
        """spec.taints."""
        return self.spec.taints or ()


_decode = msgspec.json.Decoder(DaemonNode).decode


def node_changed(old: Stored | None, new: Stored | None) -> bool:
    """A predicate: updates of a node's labels or taints, not those of its status."""
    if old is None or new is None:
        return True
    if old.meta.labels != new.meta.labels:
        return True
    return old.meta.generation != new.meta.generation and _decode(old.data).spec != _decode(new.data).spec


class KnownNodes:
    """Nodes, decoded once for each revision, for all DaemonSets. A node that looks the same stays the same object."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, DaemonNode]] = {}

    def of(self, nodes: Iterable[Stored]) -> list[DaemonNode]:
        """All that there are; the others are forgotten. O(nodes)."""
        known, self._known = self._known, {}
        for stored in nodes:
            self._known[stored.name] = _current(known.get(stored.name), stored)
        return [node for _, node in self._known.values()]

    def one(self, stored: Stored) -> DaemonNode:
        """One of them."""
        entry = self._known[stored.name] = _current(self._known.get(stored.name), stored)
        return entry[1]


def _current(entry: tuple[str, DaemonNode] | None, stored: Stored) -> tuple[str, DaemonNode]:
    if entry is not None and entry[0] == stored.revision:
        return entry
    node = _decode(stored.data)
    return (stored.revision, entry[1] if entry is not None and entry[1] == node else node)


class Place(enum.Enum):
    """What a node is to a DaemonSet."""

    RUN = "a pod should run there"
    STAY = "no pod is made there, one that is there stays"
    LEAVE = "no pod may run there"


class _TemplateAffinity(msgspec.Struct, rename="camel"):
    node_affinity: NodeAffinity | None = None


class _TemplateSpec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    node_selector: dict[str, str] | None = None
    affinity: _TemplateAffinity | None = None
    tolerations: list[Toleration] | None = None


class Judge:
    """Judges nodes by the template of one DaemonSet, each again only when it has changed.

    spec: the pod spec of the template. Raises msgspec.ValidationError if a field of it does not fit.
    """

    def __init__(self, spec: Raw) -> None:
        template = msgspec.convert({**spec, "tolerations": tolerations_for(spec)}, _TemplateSpec)
        self._node_name = template.node_name
        self._selector = template.node_selector
        self._affinity = template.affinity.node_affinity if template.affinity is not None else None
        self._tolerations = template.tolerations or []
        self._judged: dict[str, tuple[DaemonNode, Place]] = {}

    def judge(self, node: DaemonNode) -> Place:
        """The node's name, labels and taints against the template's."""
        if self._node_name not in ("", node.name):
            return Place.LEAVE
        if not node_fits(self._selector, self._affinity, node.name, node.labels):
            return Place.LEAVE
        if untolerated(node.taints, self._tolerations, NO_EXECUTE) is not None:
            return Place.LEAVE
        return Place.RUN if untolerated(node.taints, self._tolerations, NO_SCHEDULE) is None else Place.STAY

    def of(self, nodes: Iterable[DaemonNode]) -> dict[str, Place]:
        """All nodes that there are, by name; the others are forgotten. O(nodes)."""
        judged, self._judged = self._judged, {}
        for node in nodes:
            entry = judged.get(node.name)
            self._judged[node.name] = entry if entry is not None and entry[0] is node else (node, self.judge(node))
        return {name: place for name, (_, place) in self._judged.items()}

    def is_news(self, name: str, node: DaemonNode | None) -> bool:
        """Whether the node is something else to the DaemonSet than at the last `of`. None: there is no such node."""
        entry = self._judged.get(name)
        if entry is None or node is None:
            return entry is not None or node is not None
        return entry[0] is not node and entry[1] is not self.judge(node)


def tolerations_for(spec: Raw) -> list[Raw]:
    """The tolerations of a pod spec with the automatic ones, which replace those that differ only in their time."""
    found = list(spec.get("tolerations") or ())
    for key, effect in AUTOMATIC + (ON_HOST_NETWORK if spec.get("hostNetwork") else ()):
        added = {"key": key, "operator": "Exists", "effect": effect}
        same = [index for index, each in enumerate(found) if _identity(each) == _identity(added)]
        for index in same:
            found[index] = added
        if not same:
            found.append(added)
    return found


def _identity(toleration: Raw) -> tuple[str, ...]:
    return tuple(toleration.get(field) or "" for field in ("key", "operator", "value", "effect"))
