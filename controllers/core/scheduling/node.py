"""A node as the scheduler sees it: what it offers, and what is used of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from controllers.core.scheduling.pod import CPU, MEMORY, HostPort, PodInfo, amounts
from controllers.core.taints import Taint

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
K = TypeVar("K")

MOST_PODS = 110  # of a node that does not say; the kubelet's default


class _Condition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _Metadata(msgspec.Struct, gc=False):
    labels: dict[str, str] | None = None


class _Spec(msgspec.Struct, gc=False):
    unschedulable: bool | None = None
    taints: list[Taint] | None = None


class _Status(msgspec.Struct, gc=False):
    allocatable: dict[str, int | float | str] | None = None
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


_decode: Final = msgspec.json.Decoder(_Node).decode


class NodeInfo:
    """A node and the pods on it or about to be. Plug-ins read it; only the Cluster changes it.

    allocatable and used: by resource, cpu in millicores. compared_cpu, compared_memory: the sums of the pods'. pods: by
    key. owners: how many pods of each controller, by its uid. ports: how many pods have each.
    """

    __slots__ = (
        "allocatable",
        "compared_cpu",
        "compared_memory",
        "cpu",
        "exists",
        "labels",
        "memory",
        "most_pods",
        "name",
        "owners",
        "pods",
        "ports",
        "taints",
        "unschedulable",
        "used",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.exists = self.unschedulable = False
        self.labels: Mapping[str, str] = {}
        self.taints: list[Taint] = []
        self.allocatable: dict[str, int] = {}
        self.cpu = self.memory = self.most_pods = 0
        self.used: dict[str, int] = {CPU: 0, MEMORY: 0}
        self.compared_cpu = self.compared_memory = 0
        self.pods: dict[str, PodInfo] = {}
        self.owners: dict[str, int] = {}
        self.ports: dict[HostPort, int] = {}

    def describe(self, data: bytes) -> bool:
        """Take over what a stored node says; whether that is news. Raises msgspec.ValidationError, Invalid."""
        node = _decode(data)
        taints = [*(node.spec.taints or ()), *_implied(node)]
        allocatable = amounts(node.status.allocatable)
        said = (node.metadata.labels or {}, bool(node.spec.unschedulable), taints, allocatable)
        if self.exists and said == (self.labels, self.unschedulable, self.taints, self.allocatable):
            return False
        self.exists = True
        self.labels, self.unschedulable, self.taints, self.allocatable = said
        self.cpu, self.memory = allocatable.get(CPU, 0), allocatable.get(MEMORY, 0)
        self.most_pods = allocatable.get("pods", MOST_PODS)
        return True

    def add(self, pod: PodInfo) -> None:
        """The pod is on it."""
        self.pods[pod.key] = pod
        self._use(pod, 1)

    def remove(self, key: str) -> None:
        """The pod is not on it any more."""
        self._use(self.pods.pop(key), -1)

    def _use(self, pod: PodInfo, sign: int) -> None:
        needs, used = pod.needs, self.used
        for resource, amount in needs.requests.items():
            used[resource] = used.get(resource, 0) + sign * amount
        self.compared_cpu += sign * needs.compared_cpu
        self.compared_memory += sign * needs.compared_memory
        if pod.owner:
            count(self.owners, pod.owner, sign)
        for port in needs.ports:
            count(self.ports, port, sign)


def count(counts: dict[K, int], key: K, by: int) -> None:
    """Add to a count; one that comes to 0 is dropped."""
    number = counts.get(key, 0) + by
    if number:
        counts[key] = number
    else:
        del counts[key]


def _implied(node: _Node) -> list[Taint]:
    """The taint that a node which is not ready is about to get by the node lifecycle controller."""
    ready = next((each.status for each in node.status.conditions or () if each.type == "Ready"), "")
    if ready == "True":
        return []
    if any(each.key in (NOT_READY, UNREACHABLE) and each.effect == "NoSchedule" for each in node.spec.taints or ()):
        return []
    return [Taint(UNREACHABLE if ready == "Unknown" else NOT_READY, "", "NoSchedule")]
