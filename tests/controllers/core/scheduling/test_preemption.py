"""Who has to leave for whom."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.core.scheduling.placing import Unschedulable
from controllers.core.scheduling.pod import PodInfo
from controllers.core.scheduling.preemption import Budget, Candidate, Unpreemptable, budget_of, preempt
from informer import patch
from informer.selectors import Selector
from tests.controllers.core.scheduling.cases import Case, node, pod

STARTED: dict[str, str] = {}


def half(priority: int = 0, **options: Any) -> dict[str, Any]:
    """A pod that needs half a node."""
    return {"requests": {"cpu": "1"}, "priority": priority, **options}


def whole(priority: int = 0, **options: Any) -> dict[str, Any]:
    return {"requests": {"cpu": "2"}, "priority": priority, **options}


def preempted(case: Case, budgets: list[Budget] | None = None, **options: Any) -> Candidate:
    asks = pod("asks", **options)
    with pytest.raises(Unschedulable) as refused:
        case.placer.place(asks)
    version = case.cluster.version
    try:
        return preempt(asks, case.cluster, case.placer, refused.value, budgets or [], started)
    finally:
        case.cluster._check()
        assert case.cluster.version == version


def started(pod: PodInfo) -> str:
    return STARTED.get(pod.uid, "2026-01-01T00:00:00Z")


def names(found: Candidate) -> list[str]:
    return [each.uid for each in found.victims]


def why_not(case: Case, **options: Any) -> str:
    with pytest.raises(Unpreemptable) as refused:
        preempted(case, **options)
    return str(refused.value)


def test_only_lower_priorities_leave() -> None:
    case = Case(a=node(), b=node())
    case.on("a", "same", **whole(5))
    case.on("b", "lower", **whole(4))
    found = preempted(case, **half(5))
    assert (found.node, names(found)) == ("b", ["lower"])
    assert why_not(case, **half(4)) == ("0/2 nodes are available: 2 No preemption victims found for incoming pod.")


def test_no_more_than_needed_leave_and_those_that_matter_more_stay() -> None:
    case = Case(a=node())
    case.on("a", "zero", **half(0))
    case.on("a", "one", **half(1))
    assert names(preempted(case, **half(5))) == ["zero"]
    assert names(preempted(case, **whole(5))) == ["one", "zero"]


def test_of_equal_pods_the_younger_leaves() -> None:
    case = Case(a=node())
    case.on("a", "new", **half())
    case.on("a", "old", **half())
    STARTED.update(new="2026-01-01T00:00:09Z", old="2026-01-01T00:00:08Z")
    assert names(preempted(case, **half(5))) == ["new"]


def budget(allowed: int, app: str, *disrupted: str) -> Budget:
    return Budget("default", Selector.of({"matchLabels": {"app": app}}), allowed, frozenset(disrupted))


def test_a_node_without_violated_budgets_comes_first() -> None:
    case = Case(a=node(), b=node())
    case.on("a", "cheap", **whole(0, labels={"app": "db"}))
    case.on("b", "dear", **whole(3))
    assert preempted(case, [budget(1, "db")], **half(5)).node == "a"
    assert preempted(case, [budget(0, "db")], **half(5)).node == "b"
    # One that is disrupted already costs nothing more.
    assert preempted(case, [budget(0, "db", "cheap")], **half(5)).node == "a"
    case.cluster.forget("default/dear")
    case.cluster.remove_node("b")
    found = preempted(case, [budget(0, "db")], **half(5))
    assert (found.node, found.violations) == ("a", 1)


def test_protected_pods_are_kept_if_others_do() -> None:
    case = Case(a=node())
    case.on("a", "protected", **half(0, labels={"app": "db"}))
    case.on("a", "other", **half(2))
    found = preempted(case, [budget(0, "db")], **half(5))
    assert (names(found), found.violations) == (["other"], 0)


def test_a_budget_allows_so_many() -> None:
    case = Case(a=node())
    for name in ("one", "two"):
        case.on("a", name, **half(0, labels={"app": "db"}))
    assert preempted(case, [budget(1, "db")], **whole(5)).violations == 1
    assert preempted(case, [budget(2, "db")], **whole(5)).violations == 0


@pytest.mark.parametrize(
    ("a", "b", "chosen"),
    [
        ([whole(3)], [whole(2)], "b"),
        ([half(3), half(1)], [half(3), half(2)], "a"),
        ([half(-2), half(-2)], [whole(-2)], "b"),
    ],
    ids=["lowest highest priority", "smallest sum", "fewest"],
)
def test_where_the_least_is_lost(a: list[dict[str, Any]], b: list[dict[str, Any]], chosen: str) -> None:
    case = Case(a=node(), b=node())
    for where, pods in (("a", a), ("b", b)):
        for number, options in enumerate(pods):
            case.on(where, f"{where}-{number}", **options)
    assert preempted(case, **whole(5)).node == chosen


def test_at_last_the_latest_start_decides() -> None:
    case = Case(a=node(), b=node())
    case.on("a", "longer", **whole())
    case.on("b", "shorter", **whole())
    STARTED.update(longer="2026-01-01T00:00:01Z", shorter="2026-01-01T00:00:02Z")
    assert preempted(case, **whole(5)).node == "b"


def test_what_would_not_help_is_told() -> None:
    case = Case(a=node(), b=node(unschedulable=True), c=node(), d=node())
    for where in "acd":
        case.on(where, f"{where}-low", **half(0, labels={"app": "low"}))
    case.on("a", "a-high", **half(9))
    case.on("c", "c-high", **half(9))
    case.on("d", "d-high", **whole(9))
    case.cluster.forget("default/d-low")
    assert why_not(case, **whole(5)) == (
        "0/4 nodes are available: 1 No preemption victims found for incoming pod, "
        "1 Preemption is not helpful for scheduling, 2 Insufficient cpu."
    )


def test_who_may_not_preempt() -> None:
    case = Case(a=node())
    case.on("a", "low", **whole())
    assert why_not(case, **whole(5, preemptionPolicy="Never")) == "not eligible due to preemptionPolicy=Never."


def test_who_waits_for_its_victims_takes_no_others() -> None:
    case = Case(a=node(), b=node())
    case.on("a", "leaving", deleting=True, **whole())
    case.on("b", "low", **whole())
    asks = pod("asks", **whole(5))
    case.cluster.nominate(asks, "a")
    assert why_not(case, **whole(5)) == "not eligible due to a terminating pod on the nominated node."
    # They have gone, and another came: it may again.
    case.cluster.forget("default/leaving")
    case.on("a", "higher", **whole(9))
    assert preempted(case, **whole(5)).node == "b"


def test_victims_may_keep_a_pod_off_by_more_than_their_room() -> None:
    case = Case(a=node({"zone": "x"}))
    apart = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    case.on("a", "web", labels={"app": "web"})
    case.on("a", "other")
    assert names(preempted(case, affinity=affinity, priority=5)) == ["web"]
    case.cluster.forget("default/web")
    case.on("a", "loner", affinity=affinity)
    assert names(preempted(case, labels={"app": "web"}, priority=5)) == ["loner"]
    case.cluster.forget("default/loner")
    port = [{"ports": [{"hostPort": 80}]}]
    case.on("a", "listens", containers=port)
    assert names(preempted(case, containers=port, priority=5)) == ["listens"]


def test_a_budget_is_read_as_it_is_stored() -> None:
    raw = {
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}},
        "status": {"disruptionsAllowed": 2, "disruptedPods": {"db-1": "2026-01-01T00:00:00Z"}},
    }
    found = budget_of(patch.encode(raw))
    assert found.allowed == 2
    assert found.covers(pod("db-0", labels={"app": "db"}))
    assert not found.covers(pod("db-1", labels={"app": "db"}))
    assert not found.covers(pod("db-0", labels={"app": "db"}, namespace="other"))
    assert not found.covers(pod("db-0", labels={"app": "web"}))
    del raw["status"]
    assert budget_of(patch.encode(raw)).allowed == 0
