"""Ports of the machine itself: two pods cannot both have one."""

from __future__ import annotations

from typing import Final

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import HostPort, PodInfo

EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - what it means is the point here
REFUSAL: Final = Refusal(("node(s) didn't have free ports for the requested pod ports",))


class NodePorts(Plugin):
    """`hostPort`: the same number and protocol on the same address; 0.0.0.0 is every address."""

    woken_by = frozenset([Change.NODE, Change.POD_GONE])

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Nothing to do for a pod without host ports."""
        wanted = pod.needs.ports
        if not wanted:
            return None

        def judge(node: NodeInfo) -> Refusal | None:
            return REFUSAL if any(_clash(has, asked) for has in node.ports for asked in wanted) else None

        return judge


def _clash(one: HostPort, other: HostPort) -> bool:
    same = one.port == other.port and one.protocol == other.protocol
    return same and (one.ip == other.ip or EVERY_ADDRESS in (one.ip, other.ip))
