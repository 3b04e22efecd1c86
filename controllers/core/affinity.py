"""What a pod spec says about where the pod goes: the models of these fields, and what they may say."""

from __future__ import annotations

from typing import Any, Literal

from controllers.core.label_selector import LabelSelector
from informer.errors import Invalid
from informer.names import key_problem
from informer.objects import Model
from informer.selectors import Selector

Raw = dict[str, Any]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


class NodeSelectorRequirement(Model):
    """One expression about a node."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: list[str]


class NodeSelectorTerm(Model):
    """All expressions have to hold; `match_fields` are about `metadata.name`."""

    match_expressions: list[NodeSelectorRequirement]
    match_fields: list[NodeSelectorRequirement]


class NodeSelector(Model):
    """One of the terms has to match."""

    node_selector_terms: list[NodeSelectorTerm]


class PreferredSchedulingTerm(Model):
    """A wish, and its weight from 1 to 100."""

    weight: int
    preference: NodeSelectorTerm


class NodeAffinity(Model):
    """Which nodes a pod may and likes to run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None
    preferred_during_scheduling_ignored_during_execution: list[PreferredSchedulingTerm]


class PodAffinityTerm(Model):
    """Pods, and the label of nodes whose equal value makes them neighbours."""

    topology_key: str
    label_selector: LabelSelector | None
    namespaces: list[str]
    namespace_selector: LabelSelector | None
    match_label_keys: list[str]
    mismatch_label_keys: list[str]


class WeightedPodAffinityTerm(Model):
    """A wish, and its weight from 1 to 100."""

    weight: int
    pod_affinity_term: PodAffinityTerm


class PodAffinity(Model):
    """Which pods' neighbour a pod has to be or likes to be; in `podAntiAffinity`, must not be or dislikes to be."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm]
    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm]


class Affinity(Model):
    """What draws a pod to nodes and other pods, and what keeps it off them."""

    node_affinity: NodeAffinity | None
    pod_affinity: PodAffinity | None
    pod_anti_affinity: PodAffinity | None


class TopologySpreadConstraint(Model):
    """How evenly pods are to lie over the values of a node label."""

    max_skew: int
    topology_key: str
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    label_selector: LabelSelector | None
    min_domains: int | None
    node_affinity_policy: Literal["Honor", "Ignore"] | None
    node_taints_policy: Literal["Honor", "Ignore"] | None
    match_label_keys: list[str]


class PodSchedulingGate(Model):
    """While a pod has one the scheduler leaves it alone."""

    name: str


def validate_placement(spec: Raw, path: str) -> None:
    """Raise `Invalid` for what kube-apiserver refuses in these fields of a pod spec. `path` is where it stands."""
    affinity = spec.get("affinity")
    if affinity:
        _node_affinity(affinity.get("nodeAffinity") or {}, f"{path}.affinity.nodeAffinity")
        for field in ("podAffinity", "podAntiAffinity"):
            _pod_affinity(affinity.get(field) or {}, f"{path}.affinity.{field}")
    if constraints := spec.get("topologySpreadConstraints"):
        _constraints(constraints, f"{path}.topologySpreadConstraints")
    if gates := spec.get("schedulingGates"):
        _gates(gates, f"{path}.schedulingGates")
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        _toleration(toleration, f"{path}.tolerations[{index}]")


def _node_affinity(affinity: Raw, path: str) -> None:
    required = affinity.get(REQUIRED)
    if required is not None:
        where = f"{path}.{REQUIRED}.nodeSelectorTerms"
        terms = required.get("nodeSelectorTerms")
        if not terms:
            raise Invalid(where, "must have at least one node selector term")
        for index, term in enumerate(terms):
            _node_term(term, f"{where}[{index}]")
    for index, wish in enumerate(affinity.get(PREFERRED) or ()):
        where = f"{path}.{PREFERRED}[{index}]"
        _weight(wish, where)
        _node_term(wish["preference"], f"{where}.preference")


def _node_term(term: Raw, path: str) -> None:
    for index, each in enumerate(term.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        if problem := key_problem(each["key"]):
            raise Invalid(f"{where}.key", problem)
        count = len(each.get("values") or ())
        match each["operator"]:
            case "In" | "NotIn" if not count:
                raise Invalid(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            case "Exists" | "DoesNotExist" if count:
                raise Invalid(f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
            case "Gt" | "Lt" if count != 1:
                raise Invalid(f"{where}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
    for index, each in enumerate(term.get("matchFields") or ()):
        where = f"{path}.matchFields[{index}]"
        if each["key"] != "metadata.name":
            raise Invalid(f"{where}.key", "not a valid field selector key")
        if each["operator"] not in ("In", "NotIn"):
            raise Invalid(f"{where}.operator", "not a valid selector operator")
        if len(each.get("values") or ()) != 1:
            raise Invalid(f"{where}.values", "must have one element")


def _weight(wish: Raw, path: str) -> None:
    if not 1 <= wish["weight"] <= 100:
        raise Invalid(f"{path}.weight", "must be in the range 1-100")


def _pod_affinity(affinity: Raw, path: str) -> None:
    for index, term in enumerate(affinity.get(REQUIRED) or ()):
        _pod_term(term, f"{path}.{REQUIRED}[{index}]")
    for index, wish in enumerate(affinity.get(PREFERRED) or ()):
        where = f"{path}.{PREFERRED}[{index}]"
        _weight(wish, where)
        _pod_term(wish["podAffinityTerm"], f"{where}.podAffinityTerm")


def _pod_term(term: Raw, path: str) -> None:
    _topology_key(term, path)
    _selector(term.get("labelSelector"), f"{path}.labelSelector")
    _selector(term.get("namespaceSelector"), f"{path}.namespaceSelector")
    same, other = term.get("matchLabelKeys") or (), term.get("mismatchLabelKeys") or ()
    if (same or other) and term.get("labelSelector") is None:
        field = "matchLabelKeys" if same else "mismatchLabelKeys"
        raise Invalid(f"{path}.{field}", "must not be specified when labelSelector is not set")
    for key in same:
        if key in other:
            raise Invalid(f"{path}.matchLabelKeys", f'"{key}" exists in both matchLabelKeys and mismatchLabelKeys')


def _topology_key(term: Raw, path: str) -> None:
    if not term["topologyKey"]:
        raise Invalid(f"{path}.topologyKey", "can not be empty")
    if problem := key_problem(term["topologyKey"]):
        raise Invalid(f"{path}.topologyKey", problem)


def _selector(selector: Raw | None, path: str) -> None:
    try:
        Selector.of(selector)
    except Invalid as error:
        raise Invalid(f"{path}.{error.path}", error.problem) from None


def _constraints(constraints: list[Raw], path: str) -> None:
    seen = set()
    for index, each in enumerate(constraints):
        where = f"{path}[{index}]"
        if each["maxSkew"] <= 0:
            raise Invalid(f"{where}.maxSkew", "must be greater than zero")
        _topology_key(each, where)
        least = each.get("minDomains")
        if least is not None:
            if least <= 0:
                raise Invalid(f"{where}.minDomains", "must be greater than zero")
            if each["whenUnsatisfiable"] != "DoNotSchedule":
                problem = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {each['whenUnsatisfiable']}"
                raise Invalid(f"{where}.minDomains", problem)
        pair = (each["topologyKey"], each["whenUnsatisfiable"])
        if pair in seen:
            raise Invalid(f"{where}.{{topologyKey, whenUnsatisfiable}}", f'"{{{pair[0]}, {pair[1]}}}" is there already')
        seen.add(pair)
        _selector(each.get("labelSelector"), f"{where}.labelSelector")
        keys = each.get("matchLabelKeys") or ()
        if keys and each.get("labelSelector") is None:
            raise Invalid(f"{where}.matchLabelKeys", "must not be specified when labelSelector is not set")
        expressions = (each.get("labelSelector") or {}).get("matchExpressions") or ()
        selected = {*((each.get("labelSelector") or {}).get("matchLabels") or ()), *(e["key"] for e in expressions)}
        for key in keys:
            if key in selected:
                raise Invalid(f"{where}.matchLabelKeys", f'"{key}" exists in both matchLabelKeys and labelSelector')


def _gates(gates: list[Raw], path: str) -> None:
    seen = set()
    for index, gate in enumerate(gates):
        if problem := key_problem(gate["name"]):
            raise Invalid(f"{path}[{index}].name", problem)
        if gate["name"] in seen:
            raise Invalid(f"{path}[{index}].name", f'"{gate["name"]}" is there already')
        seen.add(gate["name"])


def _toleration(toleration: Raw, path: str) -> None:
    exists = toleration.get("operator") == "Exists"
    if not toleration.get("key") and not exists:
        raise Invalid(
            f"{path}.operator",
            'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        )
    if exists and toleration.get("value"):
        raise Invalid(f"{path}.value", "value must be empty when `operator` is 'Exists'")
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect", "") != "NoExecute":
        raise Invalid(f"{path}.effect", "effect must be 'NoExecute' when `tolerationSeconds` is set")
