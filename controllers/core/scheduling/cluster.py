"""The nodes and the pods on them, kept so that a pod's place is found quickly. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from controllers.core.scheduling.node import NodeInfo, count
from controllers.core.scheduling.pod import PodInfo, Traits
from informer.cache import Stored
from informer.resources import Resource

Lookup = Callable[[type[Resource], str], Stored | None]


class Group:
    """Pods with the same traits: where there are how many of them. deleting: of those that are on their way out."""

    __slots__ = ("_by_label", "_layout", "deleting", "nodes", "traits")

    def __init__(self, traits: Traits, deleting: bool) -> None:
        self.traits = traits
        self.deleting = deleting
        self.nodes: dict[str, int] = {}
        # By the name of a node label how many pods there are for each of its values, once somebody has asked.
        self._by_label: dict[str, dict[str, int]] = {}
        self._layout = 0

    def domains(self, label: str, cluster: Cluster) -> Mapping[str, int]:
        """How many of the pods are on nodes with each value of the label; to be read only. O(1) but for the first."""
        if self._layout != cluster.layout:
            self._by_label.clear()
            self._layout = cluster.layout
        found = self._by_label.get(label)
        if found is None:
            found = self._by_label[label] = {}
            for name, number in self.nodes.items():
                node = cluster.node(name)
                value = node.labels.get(label) if node is not None else None
                if value is not None:
                    count(found, value, number)
        return found

    def change(self, node: NodeInfo, by: int) -> None:
        """So many more of the pods are on the node."""
        count(self.nodes, node.name, by)
        if node.exists:
            for label, counts in self._by_label.items():
                value = node.labels.get(label)
                if value is not None:
                    count(counts, value, by)


class Cluster:
    """Nodes, the pods that are on them or about to be, and room kept for pods that wait for others to leave.

    Invariants (`_check`): what a node counts is the sum over the pods noted on it; so is what a group counts; `nodes`
    are those that exist, `tainted` and `cordoned` those of them that are; a pod is noted or nominated, never both.
    version changes with everything that could change a decision, layout with the nodes and their labels. stored: finds
    an object of another kind by its key.
    """

    def __init__(self, stored: Lookup = lambda cls, key: None) -> None:
        self.stored = stored
        self.version = self.layout = 0
        self.nodes: list[NodeInfo] = []
        self.tainted: set[str] = set()
        self.cordoned: set[str] = set()
        self.nominated: dict[str, dict[str, PodInfo]] = {}
        self.priorities: dict[int, int] = {}
        self._infos: dict[str, NodeInfo] = {}
        self._places: dict[str, tuple[PodInfo, NodeInfo]] = {}
        self._groups: dict[str, dict[tuple[Traits, bool], Group]] = {}
        self._caring: dict[tuple[Traits, bool], Group] = {}
        self._nominations: dict[str, str] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._values: dict[str, tuple[int, dict[str, int]]] = {}
        self._values_layout = 0

    # ---- nodes ------------------------------------------------------------------------------------------------------

    def set_node(self, name: str, data: bytes) -> bool:
        """A node as it is stored; whether that is news. Pods noted on it stay. Raises msgspec.ValidationError,
        Invalid."""
        node = self._infos.get(name) or NodeInfo(name)
        known = node.exists
        if not node.describe(data):
            return False
        self._infos[name] = node
        if not known:
            self.nodes.append(node)
        (self.tainted.add if node.taints else self.tainted.discard)(name)
        (self.cordoned.add if node.unschedulable else self.cordoned.discard)(name)
        self.version += 1
        self.layout += 1
        return True

    def remove_node(self, name: str) -> None:
        """A node that is gone takes no pods; what is noted on it is remembered, should it come back. O(nodes)."""
        node = self._infos.get(name)
        if node is None or not node.exists:
            return
        node.exists = False
        self.nodes.remove(node)
        self.tainted.discard(name)
        self.cordoned.discard(name)
        self._drop_if_empty(node)
        self.version += 1
        self.layout += 1

    def node(self, name: str) -> NodeInfo | None:
        """The node, if it exists."""
        node = self._infos.get(name)
        return node if node is not None and node.exists else None

    def values(self, label: str) -> tuple[int, Mapping[str, int]]:
        """How many nodes bear the label, and 0 for each value it has; to be read only. O(1) but for the first."""
        if self._values_layout != self.layout:
            self._values.clear()
            self._values_layout = self.layout
        found = self._values.get(label)
        if found is None:
            there = [node.labels[label] for node in self.nodes if label in node.labels]
            found = self._values[label] = len(there), dict.fromkeys(there, 0)
        return found

    # ---- pods -------------------------------------------------------------------------------------------------------

    def note(self, pod: PodInfo, node: str) -> None:
        """The pod is, or is about to be, on that node, in place of what was noted of it before. O(1)."""
        self.withdraw(pod.key)
        self.forget(pod.key)
        info = self._infos.get(node)
        if info is None:
            info = self._infos[node] = NodeInfo(node)
        self._places[pod.key] = pod, info
        info.add(pod)
        count(self.priorities, pod.priority, 1)
        self._group(pod).change(info, 1)
        self.version += 1

    def forget(self, key: str) -> bool:
        """The pod is on no node any more; whether it was. O(1)."""
        found = self._places.pop(key, None)
        if found is None:
            return False
        pod, node = found
        node.remove(key)
        count(self.priorities, pod.priority, -1)
        self._leave_group(pod, node)
        self._drop_if_empty(node)
        self.version += 1
        return True

    def pod(self, key: str) -> PodInfo | None:
        """What is noted of the pod."""
        found = self._places.get(key)
        return found[0] if found is not None else None

    def node_of(self, key: str) -> str:
        """The node that the pod is noted on, or ""."""
        found = self._places.get(key)
        return found[1].name if found is not None else ""

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def groups(self, namespaces: Iterable[str] | None = None) -> Iterator[Group]:
        """The pods by their traits, of these namespaces or of all."""
        for name in self._groups if namespaces is None else namespaces:
            yield from self._groups.get(name, {}).values()

    def caring(self) -> Iterable[Group]:
        """The groups of pods that say something about other pods."""
        return self._caring.values()

    @contextmanager
    def without(self, pods: Iterable[PodInfo]) -> Iterator[None]:
        """As if these pods were not there, to see what that would change. O(pods)."""
        places = [(pod, self.node_of(pod.key)) for pod in pods]
        version = self.version
        for pod, _ in places:
            self.forget(pod.key)
        try:
            yield
        finally:
            for pod, node in places:
                self.note(pod, node)
            self.version = version

    # ---- room that is kept ------------------------------------------------------------------------------------------

    def nominate(self, pod: PodInfo, node: str) -> None:
        """Keep room on a node for a pod that waits for others to leave it."""
        self.withdraw(pod.key)
        self._nominations[pod.key] = node
        self.nominated.setdefault(node, {})[pod.key] = pod
        self.version += 1

    def withdraw(self, key: str) -> None:
        """Keep no room for that pod any more."""
        node = self._nominations.pop(key, None)
        if node is not None:
            del self.nominated[node][key]
            if not self.nominated[node]:
                del self.nominated[node]
            self.version += 1

    def nomination(self, key: str) -> str:
        """The node on which room is kept for the pod, or ""."""
        return self._nominations.get(key, "")

    @contextmanager
    def with_nominated(self, pods: Iterable[PodInfo], node: str) -> Iterator[None]:
        """As if these pods were on the node they wait for."""
        version = self.version
        moved = list(pods)
        for pod in moved:
            self.note(pod, node)
        try:
            yield
        finally:
            for pod in moved:
                self.forget(pod.key)
                self.nominate(pod, node)
            self.version = version

    # ---- namespaces -------------------------------------------------------------------------------------------------

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """The labels of a namespace; None: it is gone."""
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        self.version += 1

    def volumes_changed(self) -> None:
        """Claims, volumes or storage classes are not what they were."""
        self.version += 1

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """The labels of a namespace. One that is no object bears its name, as every one does."""
        found = self._namespaces.get(name)
        return found if found is not None else {"kubernetes.io/metadata.name": name}

    # ---- the inside -------------------------------------------------------------------------------------------------

    def _group(self, pod: PodInfo) -> Group:
        kind = pod.traits, pod.deleting
        groups = self._groups.setdefault(pod.namespace, {})
        group = groups.get(kind)
        if group is None:
            group = groups[kind] = Group(*kind)
            if pod.traits.cares:
                self._caring[kind] = group
        return group

    def _leave_group(self, pod: PodInfo, node: NodeInfo) -> None:
        kind = pod.traits, pod.deleting
        groups = self._groups[pod.namespace]
        groups[kind].change(node, -1)
        if not groups[kind].nodes:
            del groups[kind]
            self._caring.pop(kind, None)
            if not groups:
                del self._groups[pod.namespace]

    def _drop_if_empty(self, node: NodeInfo) -> None:
        if not node.exists and not node.pods:
            self._infos.pop(node.name, None)

    def _check(self) -> None:
        """Raise AssertionError if an invariant does not hold. O(pods)."""
        groups: dict[tuple[Traits, bool], dict[str, int]] = {}
        priorities: dict[int, int] = {}
        sums: dict[str, tuple[dict[str, int], list[int], dict[str, int]]] = {
            name: ({}, [0, 0], {}) for name in self._infos
        }
        for key, (pod, node) in self._places.items():
            assert node.pods[key] is pod
            assert self._infos[node.name] is node
            used, compared, owners = sums[node.name]
            for resource, amount in pod.needs.requests.items():
                used[resource] = used.get(resource, 0) + amount
            compared[0] += pod.needs.compared_cpu
            compared[1] += pod.needs.compared_memory
            if pod.owner:
                owners[pod.owner] = owners.get(pod.owner, 0) + 1
            priorities[pod.priority] = priorities.get(pod.priority, 0) + 1
            where = groups.setdefault((pod.traits, pod.deleting), {})
            where[node.name] = where.get(node.name, 0) + 1
        for name, node in self._infos.items():
            used, compared, owners = sums[name]
            assert {resource: amount for resource, amount in node.used.items() if amount} == used
            assert [node.compared_cpu, node.compared_memory] == compared
            assert node.owners == owners
            assert all(number > 0 for number in node.ports.values())
        assert sum(len(node.pods) for node in self._infos.values()) == len(self._places)
        assert self.priorities == priorities
        assert {kind: group.nodes for found in self._groups.values() for kind, group in found.items()} == groups
        for group in self.groups():
            if group._layout == self.layout:
                for label, counts in group._by_label.items():
                    fresh = Group(group.traits, group.deleting)
                    fresh.nodes = group.nodes
                    assert counts == fresh.domains(label, self)
        assert set(self._caring) == {kind for kind in groups if kind[0].cares}
        assert {node.name for node in self.nodes} == {name for name, node in self._infos.items() if node.exists}
        assert self.tainted == {node.name for node in self.nodes if node.taints}
        assert self.cordoned == {node.name for node in self.nodes if node.unschedulable}
        assert {key: node for node, pods in self.nominated.items() for key in pods} == self._nominations
        assert not self._nominations.keys() & self._places.keys()
