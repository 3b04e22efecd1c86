"""nodeSelector and node affinity: by the labels and the names of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from controllers.core.node_affinity import node_fits
from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import PodInfo

REFUSAL: Final = Refusal(("node(s) didn't match Pod's node affinity/selector",), final=True)


class NodeAffinity(Plugin):
    """What is required refuses; the weights of the wishes that a node meets add up to its score."""

    weight = 2
    woken_by = frozenset([Change.NODE])

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Nothing to do for a pod that goes anywhere."""
        needs = pod.needs
        selector, affinity = needs.node_selector, needs.node_affinity
        if not selector and (affinity is None or affinity.required is None):
            return None
        return lambda node: None if node_fits(selector, affinity, node.name, node.labels) else REFUSAL

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Nothing to do for a pod without wishes."""
        affinity = pod.needs.node_affinity
        if affinity is None or not affinity.preferred:
            return None
        # A wish without any expression is every node's; it makes no difference.
        wishes = [(each.weight, each.preference) for each in affinity.preferred]

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            met = [sum(weight for weight, term in wishes if term.matches(node.name, node.labels)) for node in nodes]
            most = max(met) or 1
            return [100 * weight / most for weight in met]

        return judge
