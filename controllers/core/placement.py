"""Where a pod may run and where it runs best: the scheduler's state and its decision, without I/O."""

from __future__ import annotations

from collections import Counter

import msgspec

from controllers.core.quantities import scaled
from controllers.core.taints import Taint, Toleration

Quantity = int | float | str


class _Resources(msgspec.Struct, gc=False):
    requests: dict[str, Quantity] | None = None


class _Container(msgspec.Struct, gc=False):
    resources: _Resources | None = None


class _PodSpec(msgspec.Struct, gc=False, rename="camel"):
    containers: list[_Container] = []
    init_containers: list[_Container] | None = None
    node_name: str = ""
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    scheduler_name: str = ""


class _PodStatus(msgspec.Struct, gc=False):
    phase: str = ""


class _Pod(msgspec.Struct, gc=False):
    spec: _PodSpec
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class Needs(msgspec.Struct, frozen=True):
    """What a pod asks of a node. cpu in millicores, memory in bytes; node "" = it has none yet."""

    node: str
    cpu: int
    memory: int
    selector: dict[str, str]
    tolerations: tuple[Toleration, ...]
    scheduler: str
    finished: bool


_decode_pod = msgspec.json.Decoder(_Pod).decode


def needs_of(data: bytes) -> Needs:
    """What a stored pod asks for: the sum of its containers, or one init container if that asks for more.

    Raises Invalid for a quantity that is none, msgspec.ValidationError for other fields that do not fit.
    """
    pod = _decode_pod(data)
    spec = pod.spec
    return Needs(
        node=spec.node_name,
        cpu=_request(spec, "cpu", 1000),
        memory=_request(spec, "memory", 1),
        selector=spec.node_selector or {},
        tolerations=tuple(spec.tolerations or ()),
        scheduler=spec.scheduler_name,
        finished=pod.status.phase in ("Succeeded", "Failed"),
    )


def _request(spec: _PodSpec, resource: str, scale: int) -> int:
    def of(container: _Container) -> int:
        requests = (container.resources.requests if container.resources is not None else None) or {}
        return scaled(requests.get(resource, 0), scale)

    return max(sum(map(of, spec.containers)), max(map(of, spec.init_containers or ()), default=0))


class _Condition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _NodeMetadata(msgspec.Struct, gc=False):
    labels: dict[str, str] | None = None


class _NodeSpec(msgspec.Struct, gc=False):
    unschedulable: bool = False
    taints: list[Taint] | None = None


class _NodeStatus(msgspec.Struct, gc=False):
    allocatable: dict[str, Quantity] | None = None
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct, gc=False):
    metadata: _NodeMetadata
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


_decode_node = msgspec.json.Decoder(_Node).decode


class _Machine:
    """A node and what is used of it."""

    __slots__ = ("cpu", "exists", "labels", "memory", "pods", "ready", "taints", "unschedulable", "used")

    def __init__(self) -> None:
        self.exists = self.ready = self.unschedulable = False
        self.labels: dict[str, str] = {}
        self.taints: list[Taint] = []
        self.cpu = self.memory = self.pods = 0
        self.used = [0, 0, 0]  # cpu, memory, pods

    def refuses(self, needs: Needs) -> str | None:
        """Why a pod cannot run here, in kube-scheduler's words; None if it can."""
        if not self.ready:
            return "node(s) were not ready"
        if self.unschedulable:
            return "node(s) were unschedulable"
        for taint in self.taints:
            if taint.effect != "PreferNoSchedule" and not any(each.covers(taint) for each in needs.tolerations):
                return f"node(s) had untolerated taint {taint}"
        if any(self.labels.get(key) != value for key, value in needs.selector.items()):
            return "node(s) didn't match Pod's node affinity/selector"
        cpu, memory, pods = self.used
        if pods + 1 > self.pods:
            return "Too many pods"
        if needs.cpu and cpu + needs.cpu > self.cpu:
            return "Insufficient cpu"
        if needs.memory and memory + needs.memory > self.memory:
            return "Insufficient memory"
        return None


class Unschedulable(Exception):
    """No node takes the pod; the text says how many refused it why."""


class Cluster:
    """Nodes, and the pods that are on them or about to be.

    Invariant (`_check`): what is used of each node is the sum of the needs of the pods noted on it.
    """

    def __init__(self) -> None:
        self._machines: dict[str, _Machine] = {}
        self._pods: dict[str, tuple[str, Needs]] = {}

    def set_node(self, name: str, data: bytes) -> None:
        """A node as it is stored. Pods noted on it stay. Raises msgspec.ValidationError, Invalid."""
        node = _decode_node(data)
        machine = self._machine(name)
        machine.exists = True
        machine.labels = node.metadata.labels or {}
        machine.unschedulable = node.spec.unschedulable
        machine.taints = node.spec.taints or []
        machine.ready = any(c.type == "Ready" and c.status == "True" for c in node.status.conditions or ())
        allocatable = node.status.allocatable or {}
        machine.cpu = scaled(allocatable.get("cpu", 0), 1000)
        machine.memory = scaled(allocatable.get("memory", 0))
        machine.pods = scaled(allocatable.get("pods", 110))

    def remove_node(self, name: str) -> None:
        """A node that is gone takes no pods; what is noted on it is remembered, should it come back."""
        machine = self._machines.get(name)
        if machine is not None:
            machine.exists = False
            if not machine.used[2]:
                del self._machines[name]

    def note(self, key: str, node: str, needs: Needs) -> None:
        """The pod is, or is about to be, on that node."""
        before = self._pods.get(key)
        if before is not None:
            if before[0] == node:
                return
            self.forget(key)
        self._pods[key] = (node, needs)
        self._use(node, needs, 1)

    def forget(self, key: str) -> bool:
        """The pod is on no node any more; whether it was."""
        before = self._pods.pop(key, None)
        if before is None:
            return False
        self._use(before[0], before[1], -1)
        return True

    def __contains__(self, key: object) -> bool:
        return key in self._pods

    def place(self, needs: Needs) -> str:
        """The node with the fewest pods of those that take it. O(nodes). Raises Unschedulable."""
        best: str | None = None
        fewest = 0
        for name, machine in self._machines.items():
            if machine.exists and (best is None or machine.used[2] < fewest) and machine.refuses(needs) is None:
                best, fewest = name, machine.used[2]
        if best is not None:
            return best
        known = [machine for machine in self._machines.values() if machine.exists]
        if not known:
            raise Unschedulable("no nodes available to schedule pods")
        reasons = Counter(machine.refuses(needs) for machine in known)
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda r: str(r[0])))
        raise Unschedulable(f"0/{len(known)} nodes are available: {told}.")

    def pods_on(self, node: str) -> int:
        """How many pods are noted on it."""
        machine = self._machines.get(node)
        return machine.used[2] if machine is not None else 0

    def _machine(self, name: str) -> _Machine:
        found = self._machines.get(name)
        if found is None:
            found = self._machines[name] = _Machine()
        return found

    def _use(self, node: str, needs: Needs, sign: int) -> None:
        used = self._machine(node).used
        used[0] += sign * needs.cpu
        used[1] += sign * needs.memory
        used[2] += sign

    def _check(self) -> None:
        """Raise AssertionError if the invariant does not hold. O(pods)."""
        expected: dict[str, list[int]] = {name: [0, 0, 0] for name in self._machines}
        for node, needs in self._pods.values():
            for index, amount in enumerate((needs.cpu, needs.memory, 1)):
                expected[node][index] += amount
        assert expected == {name: machine.used for name, machine in self._machines.items()}
