"""How fast pods that fail are replaced, on each node by itself. No I/O."""

from __future__ import annotations

from collections.abc import Container

import msgspec

FIRST, LAST = 1.0, 900.0  # seconds; kube-controller-manager's


class _Entry(msgspec.Struct):
    generation: int
    delay: float
    since: float


class FailedPods:
    """Of one DaemonSet. Times are of a clock that never goes back, in seconds."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Entry] = {}

    def wait(self, node: str, generation: int, now: float) -> float:
        """How long a pod that has failed there has to stay; 0 = it may go now, and the next one waits for longer.

        A new generation of the DaemonSet begins anew, and so does a node that went well for twice the longest delay.
        """
        entry = self._nodes.get(node)
        if entry is None or entry.generation != generation or now - entry.since > 2 * LAST:
            self._nodes[node] = _Entry(generation, FIRST, now)
            return 0.0
        left = entry.since + entry.delay - now
        if left > 0:
            return left
        entry.delay, entry.since = min(LAST, 2 * entry.delay), now
        return 0.0

    def keep(self, nodes: Container[str]) -> None:
        """Forget the nodes that are not among these."""
        self._nodes = {name: entry for name, entry in self._nodes.items() if name in nodes}
