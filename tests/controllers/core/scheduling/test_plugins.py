"""Each rule of the scheduler: given nodes and pods, which nodes take a pod, and which gets it."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.core.scheduling.plugins.owner_spread import OwnerSpread
from tests.controllers.core.scheduling.cases import Case, Raw, node

WEB = {"matchLabels": {"app": "web"}}
HOST = "kubernetes.io/hostname"


def zoned(*zones: str) -> Case:
    """Nodes a, b, c, ... in these zones, each a host of its own."""
    names = "abcdefgh"[: len(zones)]
    large = {"pods": "100", "cpu": "64", "memory": "64Gi"}
    return Case(
        **{name: node({"zone": zone, HOST: name}, allocatable=large) for name, zone in zip(names, zones, strict=True)}
    )


# ---- what nodes say -------------------------------------------------------------------------------------------------


def taint(effect: str, key: str = "gpu", value: str = "yes") -> Raw:
    return {"key": key, "value": value, "effect": effect}


@pytest.mark.parametrize(
    ("toleration", "covered"),
    [
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "no"}, False),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_a_taint_needs_a_toleration(toleration: Raw, covered: bool) -> None:
    case = Case(a=node(taints=[taint("NoSchedule")]))
    assert case.takers(tolerations=[toleration]) == (["a"] if covered else [])
    assert case.refusal() == "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}."


def test_a_taint_that_evicts_keeps_off_too() -> None:
    case = Case(a=node(taints=[taint("NoExecute")]), b=node())
    assert case.takers() == ["b"]


def test_a_soft_taint_keeps_nobody_off_but_is_avoided() -> None:
    case = Case(a=node(taints=[taint("PreferNoSchedule")]), b=node())
    case.on("b", "one")
    assert case.place() == "b"
    assert case.takers() == ["a", "b"]
    assert case.place(tolerations=[{"operator": "Exists"}]) == "a"


@pytest.mark.parametrize(
    ("ready", "key"), [("False", "not-ready"), ("", "not-ready"), ("Unknown", "unreachable"), ("True", "")]
)
def test_a_node_that_is_not_ready_counts_as_tainted(ready: str, key: str) -> None:
    case = Case(a=node(ready=ready))
    assert case.takers() == ([] if key else ["a"])
    if key:
        key = f"node.kubernetes.io/{key}"
        assert f"untolerated taint {{{key}: }}" in case.refusal()
        assert case.takers(tolerations=[{"key": key, "operator": "Exists", "effect": "NoSchedule"}]) == ["a"]
        assert case.takers(tolerations=[{"key": key, "operator": "Exists", "effect": "NoExecute"}]) == []


def test_a_cordoned_node_takes_only_who_tolerates_that() -> None:
    case = Case(a=node(unschedulable=True))
    assert case.refusal() == "0/1 nodes are available: 1 node(s) were unschedulable."
    assert case.takers(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]) == ["a"]


# ---- labels and names of nodes --------------------------------------------------------------------------------------


def required(*terms: Raw) -> Raw:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def expression(key: str, operator: str, *values: str) -> Raw:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "takers"),
    [
        ({"nodeSelector": {"disk": "ssd"}}, "a"),
        ({"nodeSelector": {"disk": "ssd", "cores": "8"}}, ""),
        ({"affinity": required(expression("disk", "In", "ssd", "hdd"))}, "ab"),
        ({"affinity": required(expression("disk", "NotIn", "ssd"))}, "bc"),
        ({"affinity": required(expression("disk", "Exists"))}, "ab"),
        ({"affinity": required(expression("disk", "DoesNotExist"))}, "c"),
        ({"affinity": required(expression("cores", "Gt", "4"))}, "b"),
        ({"affinity": required(expression("cores", "Lt", "8"))}, "a"),
        ({"affinity": required(expression("disk", "In", "ssd"), expression("cores", "Gt", "4"))}, "ab"),
        ({"affinity": required(expression("disk", "Exists")), "nodeSelector": {"cores": "8"}}, "b"),
        ({"affinity": required({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]})}, "c"),
    ],
)
def test_node_selectors_and_required_affinity(spec: Raw, takers: str) -> None:
    case = Case(a=node({"disk": "ssd", "cores": "4"}), b=node({"disk": "hdd", "cores": "8"}), c=node())
    assert case.takers(**spec) == list(takers)
    if takers:
        assert case.place(**spec) in takers
    else:
        assert case.refusal(**spec) == ("0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.")


def test_wishes_about_nodes_add_up() -> None:
    def wish(weight: int, term: Raw) -> Raw:
        return {"weight": weight, "preference": term}

    case = Case(a=node({"disk": "ssd"}), b=node({"zone": "x"}), c=node({"disk": "ssd", "zone": "x"}))
    case.on("c", "one")
    wishes = [wish(10, expression("disk", "In", "ssd")), wish(20, expression("zone", "In", "x"))]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wishes}}
    assert case.place(affinity=affinity) == "c"
    case.cluster.remove_node("c")
    assert case.place(affinity=affinity) == "b"


def test_a_pod_pinned_to_a_node_is_not_compared_with_others() -> None:
    case = Case(a=node(), b=node(), c=node())
    for number in range(3):
        case.on("b", f"there-{number}")
    pinned = required({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]})
    assert case.refusal(affinity=pinned) == (
        "0/3 nodes are available: 1 Too many pods, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )


# ---- ports and resources --------------------------------------------------------------------------------------------


def container(*ports: Raw, **requests: str) -> Raw:
    return {"name": "a", "image": "a:1", "ports": list(ports), "resources": {"requests": requests}}


@pytest.mark.parametrize(
    ("port", "free"),
    [
        ({"hostPort": 80}, False),
        ({"hostPort": 81}, True),
        ({"hostPort": 80, "protocol": "UDP"}, True),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, False),
        ({"hostPort": 90, "hostIP": "10.0.0.1"}, False),
        ({"hostPort": 90, "hostIP": "10.0.0.2"}, True),
        ({"hostPort": 90}, False),
        ({"containerPort": 80}, True),
    ],
)
def test_two_pods_cannot_have_one_port_of_a_machine(port: Raw, free: bool) -> None:
    case = Case(a=node())
    case.on("a", "one", containers=[container({"hostPort": 80}, {"hostPort": 90, "hostIP": "10.0.0.1"})])
    assert case.takers(containers=[container(port)]) == (["a"] if free else [])
    if not free:
        assert case.refusal(containers=[container(port)]) == (
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
        )
    case.cluster.forget("default/one")
    assert case.takers(containers=[container(port)]) == ["a"]


def test_a_pod_on_the_hosts_network_has_its_ports_there() -> None:
    case = Case(a=node())
    case.on("a", "one", hostNetwork=True, containers=[container({"containerPort": 80})])
    assert case.takers(containers=[container({"containerPort": 80})]) == ["a"]
    assert case.takers(hostNetwork=True, containers=[container({"containerPort": 80})]) == []


@pytest.mark.parametrize(
    ("requests", "reasons"),
    [
        ({"cpu": "500m"}, ""),
        ({"cpu": "501m"}, "1 Insufficient cpu"),
        ({"memory": "2Gi"}, "1 Insufficient memory"),
        ({"cpu": "3", "memory": "2Gi"}, "1 Insufficient cpu, 1 Insufficient memory"),
        ({"ephemeral-storage": "1Gi"}, "1 Insufficient ephemeral-storage"),
        ({"example.com/gpu": "1"}, ""),
        ({"example.com/gpu": "2"}, "1 Insufficient example.com/gpu"),
        ({"example.com/disk": "1"}, "1 Insufficient example.com/disk"),
        ({"example.com/disk": "0"}, ""),
    ],
)
def test_what_is_asked_for_has_to_be_there(requests: dict[str, str], reasons: str) -> None:
    case = Case(a=node(allocatable={"example.com/gpu": "2"}))
    case.on("a", "one", requests={"cpu": "1500m", "example.com/gpu": "1"})
    if reasons:
        assert case.refusal(requests=requests) == f"0/1 nodes are available: {reasons}."
    else:
        assert case.takers(requests=requests) == ["a"]


def test_a_node_takes_so_many_pods() -> None:
    case = Case(a=node())
    for number in range(3):
        case.bind(f"pod-{number}")
    assert case.refusal() == "0/1 nodes are available: 1 Too many pods."


@pytest.mark.parametrize(
    ("spec", "cpu", "memory"),
    [
        ({"containers": [container(cpu="250m", memory="64Mi"), container(cpu="0.5"), container()]}, 750, 64 << 20),
        ({"initContainers": [container(cpu="100m", memory="1Gi")]}, 100, 1 << 30),
        ({"containers": [container(cpu="1")], "overhead": {"cpu": "250m", "memory": "8Mi"}}, 1250, 8 << 20),
        (
            {
                "containers": [container(cpu="1")],
                "initContainers": [
                    container(cpu="700m"),
                    {**container(cpu="500m"), "restartPolicy": "Always"},
                    container(cpu="2", memory="1Mi"),
                ],
            },
            2500,
            1 << 20,
        ),
        ({"containers": [container(cpu="1")], "resources": {"requests": {"cpu": "3"}}}, 3000, 0),
    ],
    ids=["containers together", "one init container", "overhead", "sidecars", "the pod as a whole"],
)
def test_what_a_pod_asks_for(spec: Raw, cpu: int, memory: int) -> None:
    case = Case(a=node(allocatable={"cpu": "10", "memory": "2Gi"}))
    needs = case.on("a", "one", **spec).needs
    assert (needs.requests.get("cpu", 0), needs.requests.get("memory", 0)) == (cpu, memory)


def test_the_emptiest_node_gets_the_pod() -> None:
    case = Case(a=node(), b=node(), c=node())
    places = [case.bind(f"pod-{number}") for number in range(6)]
    assert sorted(places) == ["a", "a", "b", "b", "c", "c"]
    case.cluster.forget("default/pod-1")
    assert case.place() == places[1]
    # The emptiest by what is asked for, not by how many ask.
    case = Case(a=node(), b=node())
    case.on("a", "large", requests={"cpu": "1500m", "memory": "600Mi"})
    case.on("b", "small", requests={"cpu": "100m", "memory": "50Mi"})
    case.on("b", "small-2", requests={"cpu": "100m", "memory": "50Mi"})
    assert case.place() == "b"


def test_cpu_and_memory_are_used_to_the_same_degree() -> None:
    case = Case(a=node(), b=node())
    case.on("a", "much-cpu", requests={"cpu": "1", "memory": "100Mi"})
    case.on("b", "much-memory", requests={"cpu": "100m", "memory": "512Mi"})
    assert case.place(requests={"cpu": "500m", "memory": "50Mi"}) == "b"
    assert case.place(requests={"cpu": "100m", "memory": "300Mi"}) == "a"


# ---- other pods -----------------------------------------------------------------------------------------------------


def term(key: str = HOST, **more: Any) -> Raw:
    return {"topologyKey": key, "labelSelector": WEB, **more}


def affinity(*terms: Raw, anti: bool = False) -> Raw:
    side = "podAntiAffinity" if anti else "podAffinity"
    return {side: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


def wish(side: str, weight: int, about: Raw) -> Raw:
    return {side: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": about}]}}


def test_pods_that_must_be_near_others_are() -> None:
    case = zoned("x", "x", "y")
    case.on("a", "web", labels={"app": "web"})
    assert case.takers(affinity=affinity(term())) == ["a"]
    assert case.takers(affinity=affinity(term("zone"))) == ["a", "b"]
    assert case.takers(affinity=affinity(term("rack"))) == []
    other = {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "db"}}}
    assert case.refusal(affinity=affinity(other)) == (
        "0/3 nodes are available: 3 node(s) didn't match pod affinity rules."
    )


def test_the_first_of_pods_that_must_be_together_goes_anywhere() -> None:
    case = zoned("x", "y")
    together = {"labels": {"app": "web"}, "affinity": affinity(term("zone"))}
    first = case.bind("one", **together)
    assert {case.bind(f"pod-{number}", **together) for number in range(4)} == {first}


def test_one_pod_has_to_meet_all_terms() -> None:
    case = zoned("x", "y")
    case.on("a", "web", labels={"app": "web"})
    case.on("a", "new", labels={"tier": "new"})
    tier = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"tier": "new"}}}
    assert case.takers("pod", affinity=affinity(term("zone"), tier)) == []
    case.on("b", "both", labels={"app": "web", "tier": "new"})
    assert case.takers("pod", affinity=affinity(term("zone"), tier)) == ["b"]


def test_pods_that_must_be_apart_are() -> None:
    case = zoned("x", "x", "y")
    case.on("a", "web", labels={"app": "web"})
    assert case.takers(affinity=affinity(term(), anti=True)) == ["b", "c"]
    assert case.takers(affinity=affinity(term("zone"), anti=True)) == ["c"]
    case.on("c", "web-2", labels={"app": "web"})
    assert case.refusal(affinity=affinity(term("zone"), anti=True)) == (
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."
    )
    # Where nodes do not bear the label nothing is near.
    assert case.takers(affinity=affinity(term("rack"), anti=True)) == ["a", "b", "c"]


def test_those_that_are_there_keep_others_off() -> None:
    case = zoned("x", "x", "y")
    case.on("a", "loner", affinity=affinity(term("zone"), anti=True))
    assert case.takers(labels={"app": "web"}) == ["c"]
    assert case.takers(labels={"app": "db"}) == ["a", "b", "c"]
    case.cluster.remove_node("c")
    assert case.refusal(labels={"app": "web"}) == (
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
    )
    case.cluster.forget("default/loner")
    assert case.takers(labels={"app": "web"}) == ["a", "b"]


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        ({}, "default"),
        ({"namespaces": ["blue"]}, "blue"),
        ({"namespaces": ["blue", "default"]}, "blue default"),
        ({"namespaceSelector": {"matchLabels": {"team": "reds"}}}, "red"),
        ({"namespaceSelector": {"matchLabels": {"team": "reds"}}, "namespaces": ["blue"]}, "blue red"),
        ({"namespaceSelector": {}}, "blue default red"),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "blue"}}}, "blue"),
    ],
)
def test_whose_pods_a_term_is_about(more: Raw, seen: str) -> None:
    case = zoned("x", "y", "z")
    case.cluster.set_namespace("red", {"team": "reds"})
    for where, namespace in zip("abc", ("default", "blue", "red"), strict=True):
        case.on(where, "web", namespace=namespace, labels={"app": "web"})
    names = dict(zip("abc", ("default", "blue", "red"), strict=True))
    found = sorted(names[each] for each in case.takers(affinity=affinity(term(**more))))
    assert found == seen.split()


def test_terms_can_be_about_pods_with_or_without_the_same_label() -> None:
    case = zoned("x", "y")
    case.on("a", "old", labels={"app": "web", "hash": "1"})
    case.on("b", "new", labels={"app": "web", "hash": "2"})
    labels = {"app": "web", "hash": "2"}
    assert case.takers("pod", labels=labels, affinity=affinity(term(matchLabelKeys=["hash"]))) == ["b"]
    assert case.takers("pod", labels=labels, affinity=affinity(term(mismatchLabelKeys=["hash"]))) == ["a"]


def test_wishes_about_pods_go_both_ways() -> None:
    case = zoned("x", "x", "y")
    case.on("a", "web", labels={"app": "web"})
    case.on("c", "other")
    assert case.place(affinity=wish("podAffinity", 100, term())) == "a"
    assert case.place(affinity=wish("podAntiAffinity", 100, term("zone"))) == "c"
    case = zoned("x", "y")
    case.on("a", "fan", affinity=wish("podAffinity", 100, term()))
    assert case.place(labels={"app": "web"}) == "a"
    case = zoned("x", "y")
    case.on("a", "hermit", affinity=wish("podAntiAffinity", 100, term()))
    case.on("b", "one")
    case.on("b", "two")
    assert case.place(labels={"app": "web"}) == "b"
    # To be required by another is worth a little too.
    case = zoned("x", "y")
    case.on("b", "needy", affinity=affinity(term()))
    case.on("a", "one")
    assert case.place(labels={"app": "web"}) == "b"


# ---- spread ---------------------------------------------------------------------------------------------------------


def spread(key: str = "zone", skew: int = 1, **more: Any) -> Raw:
    constraint = {"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": WEB}
    return {"labels": {"app": "web"}, "topologySpreadConstraints": [{**constraint, **more}]}


def test_pods_lie_evenly() -> None:
    case = zoned("x", "x", "x", "y")
    places = [case.bind(f"web-{number}", **spread()) for number in range(8)]
    assert sum(place == "d" for place in places) == 4
    for number in range(4):
        case.cluster.forget(f"default/web-{number}")
    assert len({case.cluster.node_of(f"default/web-{number}") for number in range(4, 8)}) >= 2


def test_how_uneven_they_may_lie() -> None:
    case = zoned("x", "y")
    case.on("a", "web-1", labels={"app": "web"})
    assert case.takers(**spread()) == ["b"]
    assert case.takers(**spread(skew=2)) == ["a", "b"]
    # A pod that is not counted itself adds nothing.
    assert case.takers(**{**spread(), "labels": {"app": "db"}}) == ["a", "b"]
    case.cluster.remove_node("b")
    assert case.takers(**spread()) == ["a"]


def test_why_it_would_be_too_uneven() -> None:
    case = zoned("x", "y")
    case.node("c", node({"rack": "1"}))
    case.on("a", "web-1", labels={"app": "web"})
    case.node("b", node({"zone": "y"}, unschedulable=True))
    assert case.refusal(**spread()) == (
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, "
        "1 node(s) didn't match pod topology spread constraints (missing required label), "
        "1 node(s) were unschedulable."
    )


@pytest.mark.parametrize(("least", "takers"), [(None, "ab"), (2, "ab"), (3, "")])
def test_fewer_domains_than_wanted_count_as_an_empty_one(least: int | None, takers: str) -> None:
    case = zoned("x", "y")
    case.on("a", "web-1", labels={"app": "web"})
    case.on("b", "web-2", labels={"app": "web"})
    assert case.takers(**spread(minDomains=least)) == list(takers)


def test_which_nodes_are_counted() -> None:
    case = zoned("x", "y", "z")
    case.node("c", node({"zone": "z", "old": "yes"}, taints=[taint("NoSchedule")]))
    case.on("a", "web-1", labels={"app": "web"})
    case.on("b", "web-2", labels={"app": "web"})
    # The tainted node counts, although it takes nobody, unless taints are to be honoured.
    assert case.takers(**spread()) == []
    assert case.takers(**spread(nodeTaintsPolicy="Honor")) == ["a", "b"]
    fresh = {"affinity": required(expression("old", "DoesNotExist"))}
    assert case.takers(**spread(), **fresh) == ["a", "b"]
    assert case.takers(**spread(nodeAffinityPolicy="Ignore"), **fresh) == []


def test_which_pods_are_counted() -> None:
    case = zoned("x", "y")
    case.on("a", "leaving", labels={"app": "web"}, deleting=True)
    case.on("a", "elsewhere", labels={"app": "web"}, namespace="other")
    case.on("a", "other", labels={"app": "db"})
    assert case.takers(**spread()) == ["a", "b"]
    case.on("a", "web-1", labels={"app": "web", "hash": "1"})
    assert case.takers(**spread()) == ["b"]
    mine = spread(matchLabelKeys=["hash"])
    assert case.takers("new", **{**mine, "labels": {"app": "web", "hash": "2"}}) == ["a", "b"]
    assert case.takers("new", **{**mine, "labels": {"app": "web", "hash": "1"}}) == ["b"]
    assert case.takers(**spread(labelSelector=None)) == ["a", "b"]


def test_a_soft_constraint_is_a_wish() -> None:
    case = zoned("x", "y")
    soft = spread(whenUnsatisfiable="ScheduleAnyway")
    case.on("a", "web-1", labels={"app": "web"})
    for number in range(3):
        case.on("b", f"other-{number}")
    assert case.takers(**soft) == ["a", "b"]
    assert case.place(**soft) == "b"


def test_pods_of_one_controller_lie_on_different_nodes() -> None:
    large = {"cpu": "64", "memory": "64Gi"}
    case = Case(a=node(allocatable=large), b=node(allocatable=large))
    case.on("a", "mine", owner="me")
    for number in range(2):
        case.on("b", f"other-{number}", owner="you")
    assert case.place(owner="me") == "b"
    assert case.place(owner="you") == "a"
    assert OwnerSpread().score(case.on("a", "free"), case.cluster) is None
