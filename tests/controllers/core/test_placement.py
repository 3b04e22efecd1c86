"""Where a pod may run: the scheduler's decision, without a store."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controllers.core.placement import Cluster, Needs, Toleration, Unschedulable, needs_of
from controllers.core.quantities import scaled
from informer import patch
from informer.errors import Invalid


def node(ready: bool = True, labels: dict[str, str] | None = None, **spec: Any) -> bytes:
    return patch.encode(
        {
            "metadata": {"labels": labels or {}},
            "spec": spec,
            "status": {
                "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"},
                "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            },
        }
    )


def needs(cpu: int = 0, memory: int = 0, selector: dict[str, str] | None = None, *tolerations: Toleration) -> Needs:
    return Needs("", cpu, memory, selector or {}, tolerations, "", finished=False)


def refusal(cluster: Cluster, asked: Needs) -> str:
    with pytest.raises(Unschedulable) as refused:
        cluster.place(asked)
    return str(refused.value)


def test_the_emptiest_node_gets_the_pod() -> None:
    cluster = Cluster()
    for name in ("a", "b", "c"):
        cluster.set_node(name, node())
    places = []
    for number in range(6):
        places.append(cluster.place(needs()))
        cluster.note(f"pod-{number}", places[-1], needs())
    assert sorted(places) == ["a", "a", "b", "b", "c", "c"]
    cluster.forget("pod-1")
    assert cluster.place(needs()) == places[1]


def test_why_no_node_takes_it_is_told_as_in_kubernetes() -> None:
    cluster = Cluster()
    assert refusal(cluster, needs()) == "no nodes available to schedule pods"
    cluster.set_node("a", node())
    cluster.set_node("b", node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]))
    cluster.set_node("c", node(unschedulable=True))
    cluster.set_node("d", node(ready=False))
    assert refusal(cluster, needs(cpu=3000)) == (
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: yes}, "
        "1 node(s) were not ready, 1 node(s) were unschedulable."
    )
    assert "1 Insufficient memory" in refusal(cluster, needs(memory=2**31))
    assert "1 node(s) didn't match Pod's node affinity/selector" in refusal(cluster, needs(selector={"disk": "ssd"}))


def test_what_is_used_counts() -> None:
    cluster = Cluster()
    cluster.set_node("a", node())
    cluster.note("one", "a", needs(cpu=1500))
    assert cluster.place(needs(cpu=500)) == "a"
    assert "Insufficient cpu" in refusal(cluster, needs(cpu=501))
    cluster.note("two", "a", needs())
    cluster.note("three", "a", needs())
    assert "Too many pods" in refusal(cluster, needs())


@pytest.mark.parametrize(
    ("toleration", "covered"),
    [
        (Toleration(key="gpu", operator="Exists"), True),
        (Toleration(key="gpu", value="yes"), True),
        (Toleration(key="gpu", value="no"), False),
        (Toleration(operator="Exists"), True),
        (Toleration(key="gpu", operator="Exists", effect="NoExecute"), False),
        (Toleration(key="other", operator="Exists"), False),
    ],
)
def test_tolerations(toleration: Toleration, covered: bool) -> None:
    cluster = Cluster()
    cluster.set_node("a", node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]))
    if covered:
        assert cluster.place(needs(0, 0, None, toleration)) == "a"
    else:
        refusal(cluster, needs(0, 0, None, toleration))


def test_a_soft_taint_keeps_nobody_off_and_labels_attract() -> None:
    cluster = Cluster()
    cluster.set_node("a", node(taints=[{"key": "slow", "effect": "PreferNoSchedule"}]))
    cluster.set_node("b", node(labels={"disk": "ssd"}))
    cluster.note("one", "b", needs())
    assert cluster.place(needs()) == "a"
    assert cluster.place(needs(selector={"disk": "ssd"})) == "b"


def test_a_pod_needs_what_its_containers_need_together_or_the_largest_init_container() -> None:
    def container(cpu: str, memory: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}}}

    spec = {
        "containers": [container("250m", "64Mi"), container("0.5", "64Mi"), {}],
        "initContainers": [container("100m", "1Gi")],
    }
    found = needs_of(patch.encode({"spec": spec}))
    assert (found.cpu, found.memory) == (750, 2**30)


@pytest.mark.parametrize("text", ["", "much", "1.2.3", "5 Mi", "1Zi", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        scaled(text)


class ClusterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()

    @rule(name=st.sampled_from("abc"), ready=st.booleans())
    def set_node(self, name: str, ready: bool) -> None:
        self.cluster.set_node(name, node(ready))

    @rule(name=st.sampled_from("abc"))
    def remove_node(self, name: str) -> None:
        self.cluster.remove_node(name)

    @rule(key=st.sampled_from("12345"), name=st.sampled_from("abc"), cpu=st.integers(0, 900))
    def note(self, key: str, name: str, cpu: int) -> None:
        self.cluster.note(key, name, needs(cpu))

    @rule(key=st.sampled_from("12345"))
    def forget(self, key: str) -> None:
        self.cluster.forget(key)

    @rule(cpu=st.integers(0, 900))
    def place(self, cpu: int) -> None:
        try:
            name = self.cluster.place(needs(cpu))
        except Unschedulable:
            return
        assert self.cluster.pods_on(name) < 3

    @invariant()
    def adds_up(self) -> None:
        self.cluster._check()


TestCluster = ClusterMachine.TestCase
