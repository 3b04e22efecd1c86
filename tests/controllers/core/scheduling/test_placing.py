"""How plug-ins decide together, what a refusal says, and the cluster's bookkeeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controllers.core.quantities import scaled
from controllers.core.scheduling import Change, Cluster, Filter, NodeInfo, Plugin, PodInfo, Refusal, Score
from controllers.core.scheduling.placing import COMPARED, Placer, Unschedulable
from controllers.core.scheduling.plugins import default_plugins
from informer import patch
from informer.errors import Invalid
from tests.controllers.core.scheduling.cases import Case, node, pod


def test_why_no_node_takes_it_is_told_as_in_kubernetes() -> None:
    case = Case()
    assert case.refusal() == "no nodes available to schedule pods"
    case = Case(
        a=node(),
        b=node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
        c=node(unschedulable=True),
        d=node(),
        e=node(ready="False"),
    )
    assert case.refusal(requests={"cpu": "3"}) == (
        "0/5 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, "
        "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, "
        "1 node(s) were unschedulable, 2 Insufficient cpu."
    )


def refused(case: Case, **options: Any) -> Unschedulable:
    with pytest.raises(Unschedulable) as caught:
        case.place(**options)
    return caught.value


def test_a_refusal_knows_what_may_change_it() -> None:
    case = Case(a=node({"disk": "ssd"}), b=node(unschedulable=True))
    assert refused(case, nodeSelector={"disk": "hdd"}).woken_by == {Change.NODE}
    assert refused(case, requests={"cpu": "3"}).woken_by == {Change.NODE, Change.POD_GONE}
    far = {"topologyKey": "zone", "labelSelector": {}}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [far]}}
    assert refused(case, affinity=affinity).woken_by == frozenset(Change)


def test_more_than_a_node_has_is_final() -> None:
    case = Case(a=node(), b=node())
    case.on("a", "one", requests={"cpu": "1"})
    found = refused(case, requests={"cpu": "3"}).refusals
    assert {name: refusal.final for name, refusal in found.items()} == {"a": True, "b": True}
    case.on("b", "two", requests={"cpu": "1"})
    found = refused(case, requests={"cpu": "2"}).refusals
    assert {name: refusal.final for name, refusal in found.items()} == {"a": False, "b": False}


def test_of_many_nodes_some_are_compared_and_all_get_their_turn() -> None:
    asked: list[int] = []

    class Watching(Plugin):
        def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
            def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
                asked.append(len(nodes))
                return [0.0] * len(nodes)

            return judge

    names = [f"node-{number}" for number in range(250)]
    case = Case([*default_plugins(), Watching()], **{name: node() for name in names})
    places = [case.bind(f"pod-{number}") for number in range(500)]
    assert set(asked) == {COMPARED}
    assert set(Counter(places).values()) == {2}
    # However few take it, they are found.
    case.node("node-77", node({"disk": "ssd"}))
    for number in range(3):
        assert case.place(nodeSelector={"disk": "ssd"}) == "node-77", number


class Rack(Plugin):
    """A user's: pods with a rack go there, and like even nodes."""

    weight = 1000

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        rack = pod.labels.get("rack")
        if rack is None:
            return None
        return lambda node: None if node.labels.get("rack") == rack else Refusal((f"node(s) were not in rack {rack}",))

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        return lambda nodes: [100.0 if node.name in ("b", "d") else 0.0 for node in nodes]


def test_a_users_plugin_filters_and_scores() -> None:
    case = Case([*default_plugins(), Rack()], a=node({"rack": "1"}), b=node({"rack": "1"}), c=node(), d=node())
    case.on("d", "one")
    assert case.place(labels={"rack": "1"}) == "b"
    assert case.refusal(labels={"rack": "2"}) == "0/4 nodes are available: 4 node(s) were not in rack 2."
    assert case.place() == "b"


def test_without_any_plugin_the_node_with_the_fewest_pods_is_taken() -> None:
    case = Case([], a=node(), b=node())
    case.on("a", "one", requests={"cpu": "100"})
    assert case.place() == "b"


def test_room_is_kept_for_who_waits_for_it() -> None:
    case = Case(a=node(), b=node(unschedulable=True))
    case.cluster.nominate(pod("waits", priority=5, requests={"cpu": "1500m"}), "a")
    assert case.takers(requests={"cpu": "500m"}) == ["a"]
    assert case.takers(requests={"cpu": "501m"}) == []
    assert case.takers(requests={"cpu": "501m"}, priority=5) == []
    assert case.takers(requests={"cpu": "501m"}, priority=6) == ["a"]
    assert case.takers("waits", requests={"cpu": "1500m"}, priority=5) == ["a"]
    assert "1 Insufficient cpu" in case.refusal(requests={"cpu": "501m"})
    case.cluster._check()
    case.cluster.withdraw("default/waits")
    assert case.takers(requests={"cpu": "501m"}) == ["a"]


def test_who_waits_for_a_node_takes_it_before_a_better_one() -> None:
    case = Case(a=node(), b=node())
    case.on("a", "one", requests={"cpu": "1"})
    case.cluster.nominate(pod("waits"), "a")
    assert case.place("waits") == "a"
    case.on("a", "two", requests={"cpu": "1"})
    assert case.place("waits", requests={"cpu": "1"}) == "b"


@pytest.mark.parametrize("text", ["", "much", "1.2.3", "5 Mi", "1Zi", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        scaled(text)
    with pytest.raises(Invalid):
        pod(requests={"cpu": text})


AFFINITY = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}
        ]
    }
}


class ClusterMachine(RuleBasedStateMachine):
    """Whatever happens to nodes and pods, the sums are right, and a placement is one that the node takes."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.placer = Placer(self.cluster, default_plugins())

    @rule(
        name=st.sampled_from("abc"),
        ready=st.sampled_from(["True", "False"]),
        zone=st.sampled_from("xyz"),
        cordoned=st.booleans(),
    )
    def set_node(self, name: str, ready: str, zone: str, cordoned: bool) -> None:
        self.cluster.set_node(name, patch.encode(node({"zone": zone}, ready=ready, unschedulable=cordoned)))

    @rule(name=st.sampled_from("abc"))
    def remove_node(self, name: str) -> None:
        self.cluster.remove_node(name)

    @rule(
        key=st.sampled_from("12345"),
        name=st.sampled_from("abc"),
        cpu=st.integers(0, 900),
        app=st.sampled_from("xy"),
        leaving=st.booleans(),
        priority=st.integers(0, 2),
        port=st.sampled_from([None, 80]),
    )
    def note(self, key: str, name: str, cpu: int, app: str, leaving: bool, priority: int, port: int | None) -> None:
        options: dict[str, Any] = {"affinity": AFFINITY} if app == "y" else {}
        containers = [{"resources": {"requests": {"cpu": f"{cpu}m"}}, "ports": [{"hostPort": port}] if port else []}]
        made = pod(key, labels={"app": app}, deleting=leaving, priority=priority, containers=containers, **options)
        self.cluster.note(made, name)

    @rule(key=st.sampled_from("12345"))
    def forget(self, key: str) -> None:
        self.cluster.forget(f"default/{key}")

    @rule(key=st.sampled_from("12345"), name=st.sampled_from("abc"), priority=st.integers(0, 2))
    def nominate(self, key: str, name: str, priority: int) -> None:
        if f"default/{key}" not in self.cluster:
            self.cluster.nominate(pod(key, priority=priority), name)

    @rule(key=st.sampled_from("12345"), cpu=st.integers(0, 900), app=st.sampled_from("xy"))
    def place(self, key: str, cpu: int, app: str) -> None:
        if f"default/{key}" in self.cluster:
            return
        asked = pod(key, requests={"cpu": f"{cpu}m"}, labels={"app": app}, affinity=AFFINITY)
        before = self.cluster.version
        try:
            name = self.placer.place(asked)
        except Unschedulable:
            assert all(self.placer.refusal(asked, each) is not None for each in self.cluster.nodes)
        else:
            chosen = self.cluster.node(name)
            assert chosen is not None
            assert len(chosen.pods) < chosen.most_pods
            assert chosen.used["cpu"] + cpu <= chosen.cpu
        assert self.cluster.version == before

    @invariant()
    def adds_up(self) -> None:
        for group in self.cluster.groups():
            group.domains("zone", self.cluster)
        self.cluster._check()


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
