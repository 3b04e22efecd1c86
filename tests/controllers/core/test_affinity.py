"""What kube-apiserver refuses in what a pod says about its place."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.core.affinity import validate_placement
from controllers.core.types import Pod
from informer.errors import Invalid

Raw = dict[str, Any]
REQUIRED, PREFERRED = (f"{each}DuringSchedulingIgnoredDuringExecution" for each in ("required", "preferred"))


def node_affinity(*terms: Raw) -> Raw:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


def expression(**fields: Any) -> Raw:
    return node_affinity({"matchExpressions": [{"key": "k", "operator": "In", "values": ["a"], **fields}]})


def field(**fields: Any) -> Raw:
    return node_affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"], **fields}]})


def pod_term(**fields: Any) -> Raw:
    return {"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": "zone", **fields}]}}}


def constraint(**fields: Any) -> Raw:
    said = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", **fields}
    return {"topologySpreadConstraints": [said]}


def toleration(**fields: Any) -> Raw:
    return {"tolerations": [fields]}


SELECTOR = {"matchLabels": {"app": "web"}}


@pytest.mark.parametrize(
    "spec",
    [
        expression(),
        expression(operator="Exists", values=[]),
        expression(operator="Gt", values=["5"]),
        field(),
        pod_term(labelSelector=SELECTOR, matchLabelKeys=["hash"], namespaceSelector={}),
        constraint(labelSelector=SELECTOR, matchLabelKeys=["hash"], minDomains=2),
        {"schedulingGates": [{"name": "example.com/a"}, {"name": "b"}]},
        toleration(operator="Exists"),
        toleration(key="k", operator="Exists", effect="NoExecute", tolerationSeconds=5),
    ],
)
def test_what_is_right_passes(spec: Raw) -> None:
    validate_placement(spec, "spec")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (node_affinity(), f"affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms"),
        (expression(values=[]), "matchExpressions[0].values"),
        (expression(operator="Exists"), "matchExpressions[0].values"),
        (expression(operator="Lt", values=["1", "2"]), "matchExpressions[0].values"),
        (expression(key="a b"), "matchExpressions[0].key"),
        (field(key="spec.unschedulable"), "matchFields[0].key"),
        (field(operator="Exists"), "matchFields[0].operator"),
        (field(values=["a", "b"]), "matchFields[0].values"),
        ({"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 0, "preference": {}}]}}}, "weight"),
        ({"affinity": {"podAffinity": {PREFERRED: [{"weight": 101, "podAffinityTerm": {}}]}}}, "weight"),
        (pod_term(topologyKey=""), "topologyKey"),
        (pod_term(labelSelector={"matchExpressions": [{"key": "k", "operator": "In"}]}), "values"),
        (pod_term(matchLabelKeys=["hash"]), "matchLabelKeys"),
        (pod_term(labelSelector=SELECTOR, matchLabelKeys=["h"], mismatchLabelKeys=["h"]), "matchLabelKeys"),
        (constraint(maxSkew=0), "maxSkew"),
        (constraint(topologyKey=""), "topologyKey"),
        (constraint(minDomains=0), "minDomains"),
        (constraint(minDomains=2, whenUnsatisfiable="ScheduleAnyway"), "minDomains"),
        (constraint(matchLabelKeys=["hash"]), "matchLabelKeys"),
        (constraint(labelSelector=SELECTOR, matchLabelKeys=["app"]), "matchLabelKeys"),
        (
            {"topologySpreadConstraints": constraint()["topologySpreadConstraints"] * 2},
            "topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}",
        ),
        ({"schedulingGates": [{"name": "a"}, {"name": "a"}]}, "schedulingGates[1].name"),
        ({"schedulingGates": [{"name": "a b"}]}, "schedulingGates[0].name"),
        (toleration(value="x"), "tolerations[0].operator"),
        (toleration(key="k", operator="Exists", value="x"), "tolerations[0].value"),
        (toleration(key="k", operator="Exists", tolerationSeconds=5), "tolerations[0].effect"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_stands(spec: Raw, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        validate_placement(spec, "spec")
    assert refused.value.path.startswith("spec.")
    assert refused.value.path.endswith(path)


def test_a_pod_with_gates_has_no_node() -> None:
    spec = {"containers": [{"name": "a", "image": "a:1"}], "schedulingGates": [{"name": "a"}], "nodeName": "n"}
    with pytest.raises(Invalid, match="cannot be set until all schedulingGates have been cleared"):
        Pod.from_raw({"metadata": {"name": "a"}, "spec": spec}).validate()
