"""Pods of one controller lie on different nodes when they can."""

from __future__ import annotations

from collections.abc import Sequence

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Plugin, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import PodInfo


class OwnerSpread(Plugin):
    """Score: the fewer pods of the same controller a node has the better. For pods that do not say how they spread.

    Kube-scheduler's default constraints (of PodTopologySpread) look at zones besides.
    """

    weight = 2

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Nothing to do for a pod without a controller, or with constraints of its own."""
        owner = pod.owner
        if not owner or pod.needs.constraints:
            return None

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            siblings = [node.owners.get(owner, 0) for node in nodes]
            most = max(siblings)
            return [100 - 100 * number / most for number in siblings] if most else [100.0] * len(siblings)

        return judge
