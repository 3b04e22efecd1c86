"""The order in which pods go, rule by rule: in each pair the first goes first."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controllers.apps.ranking import Rank, pods_to_delete
from controllers.core.pods import PodView, decode_pod
from informer import patch
from informer.cache import Metadata, Stored
from informer.codecs import format_time

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pod(uid: str = "u", node: str = "n", phase: str = "Running", ready: float | None = 100, **more: Any) -> PodView:
    """ready: seconds since it is, None = it is not. age, restarts, cost: of the pod."""
    ready_at = format_time(NOW - timedelta(seconds=ready or 0))
    raw = {
        "metadata": {
            "name": uid,
            "uid": uid,
            "creationTimestamp": format_time(NOW - timedelta(seconds=more.get("age", 1000))),
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": str(more.get("cost", 0))},
        },
        "spec": {"nodeName": node},
        "status": {
            "phase": phase,
            "conditions": [
                {"type": "Ready", "status": "False" if ready is None else "True", "lastTransitionTime": ready_at}
            ],
            "containerStatuses": [{"restartCount": more.get("restarts", 0)}],
        },
    }
    return decode_pod(Stored("default/" + uid, patch.encode(raw), "1", Metadata()))


PAIRS = [
    ("unassigned", pod(node=""), pod()),
    ("unassigned before phase", pod(node="", phase="Running"), pod(phase="Pending")),
    ("pending before unknown", pod(phase="Pending"), pod(phase="Unknown")),
    ("unknown before running", pod(phase="Unknown"), pod(phase="Running")),
    ("not ready", pod(ready=None, cost=5), pod()),
    ("cheaper", pod(cost=-10, node="rare"), pod(cost=1, node="full")),
    ("crowded node", pod(node="full", ready=1000), pod(node="rare", ready=1)),
    ("ready for a shorter time", pod(ready=10), pod(ready=1000, restarts=9)),
    ("ready for about as long: by uid", pod("a", ready=1000), pod("b", ready=1010, restarts=9)),
    ("ready at the same moment: restarts", pod("b", restarts=2), pod("a", restarts=1)),
    ("newer", pod("b", age=10), pod("a", age=1000)),
    ("about as old: by uid", pod("a", age=1010), pod("b", age=1000)),
]


@pytest.mark.parametrize(("first", "second"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_the_first_goes_first(first: PodView, second: PodView) -> None:
    on_node = Counter({"full": 9, "rare": 1, "n": 2})
    assert Rank(first, on_node, NOW) < Rank(second, on_node, NOW)
    assert not Rank(second, on_node, NOW) < Rank(first, on_node, NOW)


def test_a_cost_that_is_no_number_costs_nothing() -> None:
    assert pod(cost="much").deletion_cost == 0


def test_pods_on_crowded_nodes_go_counting_those_of_sibling_replica_sets() -> None:
    mine = [pod("a", node="one"), pod("b", node="two")]
    sibling = [pod("c", node="two")]
    assert [each.uid for each in pods_to_delete(mine, [*mine, *sibling], 1, NOW)] == ["b"]


def test_all_go_when_all_are_too_many() -> None:
    mine = [pod("a"), pod("b")]
    assert pods_to_delete(mine, mine, 2, NOW) == mine
