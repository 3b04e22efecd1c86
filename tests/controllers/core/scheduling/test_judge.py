"""No placement breaks a hard rule, and none is missed: judged by a slow reading of the rules that shares no code with
the plug-ins. It looks at the JSON of nodes and pods alone."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.core.scheduling.placing import Unschedulable
from controllers.core.scheduling.pod import pod_info
from controllers.core.scheduling.preemption import Unpreemptable, preempt
from tests.controllers.core.scheduling.cases import Case, Raw, raw_pod, stored
from tests.controllers.core.scheduling.cases import node as raw_node

# More with SIMULATION_SEEDS=100.
EFFORT = int(os.environ.get("SIMULATION_SEEDS", "1"))

# ---- the judge: everything is about `there`, the pods of each node by the node's name -----------------------------

There = dict[str, list[Raw]]


def allowed(pod: Raw, name: str, nodes: dict[str, Raw], there: There) -> bool:
    spec, labels = pod["spec"], nodes[name]["metadata"]["labels"]
    return (
        tolerable(spec, nodes[name])
        and selected(spec, name, labels)
        and roomy(pod, nodes[name], there[name])
        and near_enough(pod, name, nodes, there)
        and even_enough(pod, name, nodes, there)
    )


def tolerable(spec: Raw, node: Raw) -> bool:
    taints = list(node["spec"].get("taints", []))
    if node["spec"].get("unschedulable"):
        taints.append({"key": "node.kubernetes.io/unschedulable", "value": "", "effect": "NoSchedule"})
    for taint in taints:
        if taint["effect"] == "PreferNoSchedule":
            continue
        put_up_with = False
        for each in spec.get("tolerations", []):
            if each.get("effect") and each["effect"] != taint["effect"]:
                continue
            if each.get("operator") == "Exists":
                put_up_with |= each.get("key", "") in ("", taint["key"])
            else:
                put_up_with |= (each.get("key"), each.get("value", "")) == (taint["key"], taint["value"])
        if not put_up_with:
            return False
    return True


def selected(spec: Raw, name: str, labels: dict[str, str]) -> bool:
    if not spec.get("nodeSelector", {}).items() <= labels.items():
        return False
    node_affinity = spec.get("affinity", {}).get("nodeAffinity")
    if not node_affinity:
        return True
    for term in node_affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]:
        facts = [(each, labels) for each in term.get("matchExpressions", [])]
        facts += [(each, {"metadata.name": name}) for each in term.get("matchFields", [])]
        if facts and all(
            {"In": source.get(each["key"]) in each["values"], "NotIn": source.get(each["key"]) not in each["values"]}[
                each["operator"]
            ]
            for each, source in facts
        ):
            return True
    return False


def roomy(pod: Raw, node: Raw, there: list[Raw]) -> bool:
    def cpu(each: Raw) -> int:
        return int(each["spec"]["containers"][0]["resources"]["requests"].get("cpu", "0m")[:-1])

    def ports(each: Raw) -> set[int]:
        return {port["hostPort"] for port in each["spec"]["containers"][0].get("ports", [])}

    if len(there) + 1 > int(node["status"]["allocatable"]["pods"]):
        return False
    if cpu(pod) and sum(map(cpu, there)) + cpu(pod) > 1000 * int(node["status"]["allocatable"]["cpu"]):
        return False
    return not any(ports(pod) & ports(each) for each in there)


def required_terms(pod: Raw, side: str) -> list[Raw]:
    found = pod["spec"].get("affinity", {}).get(side, {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    return list(found)


def meant(term: Raw, owner: Raw, other: Raw) -> bool:
    if other["metadata"]["namespace"] not in term.get("namespaces", [owner["metadata"]["namespace"]]):
        return False
    return bool(term["labelSelector"]["matchLabels"].items() <= other["metadata"]["labels"].items())


def near_enough(pod: Raw, name: str, nodes: dict[str, Raw], there: There) -> bool:
    def label(node: str, key: str) -> str | None:
        found: str | None = nodes[node]["metadata"]["labels"].get(key)
        return found

    def neighbours(key: str) -> list[Raw]:
        value = label(name, key)
        return [each for node in nodes for each in there[node] if value is not None and label(node, key) == value]

    for term in required_terms(pod, "podAntiAffinity"):
        if any(meant(term, pod, each) for each in neighbours(term["topologyKey"])):
            return False
    for node in nodes:
        for each in there[node]:
            for term in required_terms(each, "podAntiAffinity"):
                key = term["topologyKey"]
                if meant(term, each, pod) and label(node, key) is not None and label(node, key) == label(name, key):
                    return False
    terms = required_terms(pod, "podAffinity")
    if not terms:
        return True
    if any(label(name, term["topologyKey"]) is None for term in terms):
        return False

    def friend(each: Raw) -> bool:
        return all(meant(term, pod, each) for term in terms)

    if all(any(map(friend, neighbours(term["topologyKey"]))) for term in terms):
        return True
    placed = [
        each
        for node in nodes
        for each in there[node]
        if friend(each) and any(label(node, term["topologyKey"]) is not None for term in terms)
    ]
    return not placed and friend(pod)


def even_enough(pod: Raw, name: str, nodes: dict[str, Raw], there: There) -> bool:
    constraints = pod["spec"].get("topologySpreadConstraints", [])
    for constraint in constraints:
        key = constraint["topologyKey"]
        counts: Counter[str] = Counter()
        for node, raw in nodes.items():
            labels = raw["metadata"]["labels"]
            if not all(each["topologyKey"] in labels for each in constraints):
                continue
            if constraint.get("nodeAffinityPolicy") != "Ignore" and not selected(pod["spec"], node, labels):
                continue
            if constraint.get("nodeTaintsPolicy") == "Honor" and not tolerable_taints(pod["spec"], raw):
                continue
            counts[labels[key]] += sum(counted(constraint, pod, each) for each in there[node])
        value = nodes[name]["metadata"]["labels"].get(key)
        if value is None:
            return False
        least = min(counts.values(), default=0) if len(counts) >= constraint.get("minDomains", 1) else 0
        itself = constraint["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        if counts[value] + itself - least > constraint["maxSkew"]:
            return False
    return True


def tolerable_taints(spec: Raw, node: Raw) -> bool:
    return tolerable(spec, {**node, "spec": {**node["spec"], "unschedulable": False}})


def counted(constraint: Raw, pod: Raw, other: Raw) -> bool:
    same = other["metadata"]["namespace"] == pod["metadata"]["namespace"]
    selected = constraint["labelSelector"]["matchLabels"].items() <= other["metadata"]["labels"].items()
    return same and selected and "deletionTimestamp" not in other["metadata"]


# ---- what is judged -------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["zone", "host"])
SELECTORS = st.fixed_dictionaries({"matchLabels": st.sampled_from([{"app": "x"}, {"app": "y"}, {}])})


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Raw]:
    found = {}
    for number in range(draw(st.integers(1, 5))):
        labels = {"host": str(number)}
        if draw(st.integers(0, 4)):
            labels["zone"] = draw(st.sampled_from("ab"))
        spec: Raw = {}
        if not draw(st.integers(0, 3)):
            effect = draw(st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"]))
            spec["taints"] = [{"key": "k", "value": draw(st.sampled_from(["v", "w"])), "effect": effect}]
        if not draw(st.integers(0, 7)):
            spec["unschedulable"] = True
        found[f"node-{number}"] = raw_node(labels, allocatable={"pods": draw(st.sampled_from(["2", "5"]))}, **spec)
    return found


TERMS = st.lists(
    st.fixed_dictionaries(
        {"topologyKey": KEYS, "labelSelector": SELECTORS},
        optional={"namespaces": st.sampled_from([["default"], ["other"], ["default", "other"]])},
    ),
    min_size=1,
    max_size=2,
)
CONSTRAINTS = st.lists(
    st.fixed_dictionaries(
        {
            "topologyKey": KEYS,
            "labelSelector": SELECTORS,
            "maxSkew": st.integers(1, 2),
            "whenUnsatisfiable": st.just("DoNotSchedule"),
        },
        optional={
            "minDomains": st.integers(1, 3),
            "nodeAffinityPolicy": st.sampled_from(["Honor", "Ignore"]),
            "nodeTaintsPolicy": st.sampled_from(["Honor", "Ignore"]),
        },
    ),
    min_size=1,
    max_size=2,
)
FACTS = st.fixed_dictionaries(
    {"key": KEYS, "operator": st.sampled_from(["In", "NotIn"]), "values": st.sampled_from([["a"], ["b", "1"], ["0"]])}
)
NAMED = st.fixed_dictionaries(
    {
        "key": st.just("metadata.name"),
        "operator": st.sampled_from(["In", "NotIn"]),
        "values": st.sampled_from([["node-0"], ["node-1"]]),
    }
)
NODE_TERMS = st.lists(
    st.fixed_dictionaries(
        {}, optional={"matchExpressions": st.lists(FACTS, max_size=2), "matchFields": st.lists(NAMED, max_size=1)}
    ),
    min_size=1,
    max_size=2,
)


@st.composite
def pods(draw: st.DrawFn, number: int) -> Raw:
    spec: Raw = {"priority": draw(st.integers(0, 2))}
    if draw(st.booleans()):
        spec["tolerations"] = draw(
            st.sampled_from(
                [[{"operator": "Exists"}], [{"key": "k", "value": "v"}], [{"key": "k", "operator": "Exists"}]]
            )
        )
    if not draw(st.integers(0, 4)):
        spec["nodeSelector"] = draw(st.sampled_from([{"zone": "a"}, {"host": "1"}]))
    affinity: Raw = {}
    for side in ("podAffinity", "podAntiAffinity"):
        if not draw(st.integers(0, 3)):
            affinity[side] = {"requiredDuringSchedulingIgnoredDuringExecution": draw(TERMS)}
    if not draw(st.integers(0, 5)):
        required = {"nodeSelectorTerms": draw(NODE_TERMS)}
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": required}
    if affinity:
        spec["affinity"] = affinity
    if not draw(st.integers(0, 2)):
        spec["topologySpreadConstraints"] = draw(CONSTRAINTS)
    cpu = draw(st.sampled_from([0, 100, 700, 1500]))
    container: Raw = {"name": "a", "resources": {"requests": {"cpu": f"{cpu}m"} if cpu else {}}}
    if not draw(st.integers(0, 5)):
        container["ports"] = [{"hostPort": 80}]
    return raw_pod(
        f"pod-{number}",
        namespace=draw(st.sampled_from(["default", "default", "other"])),
        labels={"app": draw(st.sampled_from("xyz"))},
        deleting=not draw(st.integers(0, 9)),
        **{**spec, "containers": [container]},
    )


@settings(max_examples=40 * EFFORT, deadline=None)
@given(data=st.data())
def test_every_placement_is_allowed_and_every_refusal_is_due(data: Any) -> None:
    machines = data.draw(nodes())
    case = Case(**machines)
    there: There = {name: [] for name in machines}
    for number in range(data.draw(st.integers(1, 9))):
        raw = data.draw(pods(number))
        asks = pod_info(stored(raw))
        takers = [name for name in machines if allowed(raw, name, machines, there)]
        try:
            chosen = case.placer.place(asks)
        except Unschedulable as refused:
            assert not takers
            chosen = preempted(case, asks, raw, refused, machines, there)
            if not chosen:
                continue
        assert chosen in takers or not takers
        assert {each.name for each in case.cluster.nodes if case.placer.refusal(asks, each) is None} == {
            name for name in machines if allowed(raw, name, machines, there)
        }
        case.cluster.note(asks, chosen)
        there[chosen].append(raw)
    case.cluster._check()


def preempted(case: Case, asks: Any, raw: Raw, refused: Unschedulable, machines: dict[str, Raw], there: There) -> str:
    """Let the victims go, who have to be of lower priority, and enough; the node they left, or ""."""
    mine = raw["spec"]["priority"]
    try:
        found = preempt(asks, case.cluster, case.placer, refused)
    except Unpreemptable:
        for name in machines:
            stay = [each for each in there[name] if each["spec"]["priority"] >= mine]
            assert not allowed(raw, name, machines, {**there, name: stay})
        return ""
    victims = {each.uid for each in found.victims}
    assert all(each.priority < mine for each in found.victims)
    stay = [each for each in there[found.node] if each["metadata"]["uid"] not in victims]
    assert allowed(raw, found.node, machines, {**there, found.node: stay})
    there[found.node] = stay
    for each in found.victims:
        case.cluster.forget(each.key)
    return found.node
