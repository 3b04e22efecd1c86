"""Which node a pod goes to: filters, then scores. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import add

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import PodInfo

# Of a large cluster's nodes so many that take the pod are compared; kube-scheduler's minFeasibleNodesToFind.
COMPARED = 100
NOT_LOOKED_AT = Refusal(("node(s) didn't satisfy plugin(s) [NodeAffinity]",), final=True)


class Unschedulable(Exception):
    """No node takes the pod; the text says how many refused it why.

    refusals: by node. woken_by: what may change that. Nodes that the pod's affinity does not name are not in it.
    everywhere: why it is refused whatever the node.
    """

    def __init__(
        self, nodes: int, refusals: dict[str, Refusal], woken_by: frozenset[Change], everywhere: Refusal | None = None
    ) -> None:
        self.nodes = nodes
        self.refusals = refusals
        self.woken_by = woken_by
        if not nodes:
            super().__init__("no nodes available to schedule pods")
            return
        if everywhere is not None:
            super().__init__(f"0/{nodes} nodes are available: {', '.join(everywhere.reasons)}.")
            return
        others = nodes - len(refusals)
        told = [*refusals.values(), *([NOT_LOOKED_AT] * others)]
        super().__init__(availability(nodes, (reason for refusal in told for reason in refusal.reasons)))


def availability(nodes: int, reasons: Iterable[str]) -> str:
    """How many nodes refused it why, in kube-scheduler's words.

    >>> availability(3, ["Insufficient cpu", "Insufficient cpu", "Too many pods"])
    '0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu.'
    """
    told = sorted(f"{count} {reason}" for reason, count in Counter(reasons).items())
    return f"0/{nodes} nodes are available: {', '.join(told)}."


class Placer:
    """Asks the plug-ins. Large clusters are looked at from where the last pod's search ended, so that all nodes get
    their turn."""

    def __init__(self, cluster: Cluster, plugins: Sequence[Plugin]) -> None:
        self._cluster = cluster
        self._plugins = list(plugins)
        self._start = 0

    def place(self, pod: PodInfo) -> str:
        """The best of the nodes that take it; of equals the one with the fewest pods. Raises Unschedulable.

        O(nodes) at worst, and a hundred nodes' worth when most take it.
        """
        cluster = self._cluster
        filters = self._filters(pod)
        waiting = cluster.nomination(pod.key)
        if waiting and (node := cluster.node(waiting)) is not None and self._judge(pod, node, filters) is None:
            return waiting
        nodes = self._candidates(pod)
        feasible: list[NodeInfo] = []
        refusals: dict[str, Refusal] = {}
        refused_by: set[Plugin] = set()
        enough = max(COMPARED, 1)
        start = self._start if len(nodes) > enough else 0
        looked = 0
        for node in (*nodes[start:], *nodes[:start]) if start else nodes:
            looked += 1
            for plugin, accept in filters:
                refusal = accept(node)
                if refusal is not None:
                    refusals[node.name] = refusal
                    refused_by.add(plugin)
                    break
            else:
                if cluster.nominated and (refusal := self._room_kept(pod, node)) is not None:
                    refusals[node.name] = refusal
                    refused_by.update(self._plugins)
                    continue
                feasible.append(node)
                if len(feasible) == enough:
                    break
        if len(nodes) > enough:
            self._start = (start + looked) % len(nodes)
        if not feasible:
            woken_by = frozenset([Change.NODE]).union(*(plugin.woken_by for plugin in refused_by))
            raise Unschedulable(len(cluster.nodes), refusals, woken_by)
        return self._best(pod, feasible).name

    def refusal(self, pod: PodInfo, node: NodeInfo) -> Refusal | None:
        """Why this node does not take the pod, None if it does."""
        return self._judge(pod, node, self._filters(pod))

    def _filters(self, pod: PodInfo) -> list[tuple[Plugin, Filter]]:
        found = []
        for plugin in self._plugins:
            accept = plugin.filter(pod, self._cluster)
            if isinstance(accept, Refusal):
                raise Unschedulable(len(self._cluster.nodes), {}, plugin.woken_by | {Change.NODE}, accept)
            if accept is not None:
                found.append((plugin, accept))
        return found

    def _judge(self, pod: PodInfo, node: NodeInfo, filters: Iterable[tuple[Plugin, Filter]]) -> Refusal | None:
        for _, accept in filters:
            refusal = accept(node)
            if refusal is not None:
                return refusal
        return self._room_kept(pod, node) if self._cluster.nominated else None

    def _room_kept(self, pod: PodInfo, node: NodeInfo) -> Refusal | None:
        """Whether it still fits beside those that wait for this node and matter as much."""
        waiting = self._cluster.nominated.get(node.name)
        if not waiting:
            return None
        others = [each for each in waiting.values() if each.priority >= pod.priority and each.key != pod.key]
        if not others:
            return None
        with self._cluster.with_nominated(others, node.name):
            for _, accept in self._filters(pod):
                refusal = accept(node)
                if refusal is not None:
                    return refusal
        return None

    def _candidates(self, pod: PodInfo) -> Sequence[NodeInfo]:
        names = pod.needs.pinned
        if names is None:
            return self._cluster.nodes
        return [node for name in sorted(names) if (node := self._cluster.node(name)) is not None]

    def _best(self, pod: PodInfo, nodes: list[NodeInfo]) -> NodeInfo:
        if len(nodes) == 1:
            return nodes[0]
        totals: Sequence[float] = ()
        for plugin in self._plugins:
            score = plugin.score(pod, self._cluster)
            if score is not None:
                weight = plugin.weight
                scores: Iterable[float] = score(nodes)
                if weight != 1:
                    scores = [weight * each for each in scores]
                totals = list(map(add, totals, scores)) if totals else list(scores)
        if not totals:
            return min(nodes, key=_crowd)
        most = max(totals)
        if totals.count(most) == 1:
            return nodes[totals.index(most)]
        return min((node for node, total in zip(nodes, totals, strict=True) if total == most), key=_crowd)


def _crowd(node: NodeInfo) -> int:
    return len(node.pods)
