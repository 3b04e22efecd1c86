"""Cordoned nodes take no pods."""

from __future__ import annotations

from typing import Final

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal
from controllers.core.scheduling.pod import PodInfo
from controllers.core.taints import Taint, tolerates

UNSCHEDULABLE: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
REFUSAL: Final = Refusal(("node(s) were unschedulable",), final=True)


class NodeUnschedulable(Plugin):
    """`spec.unschedulable`, unless the pod tolerates the taint that stands for it, as a DaemonSet's do."""

    woken_by = frozenset([Change.NODE])

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Nothing to do while no node is cordoned."""
        if not cluster.cordoned or tolerates(pod.needs.tolerations, UNSCHEDULABLE):
            return None
        return lambda node: REFUSAL if node.unschedulable else None
