"""nodeSelector and node affinity, a case a rule of Kubernetes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controllers.core.node_affinity import NodeAffinity, node_fits

LABELS = {"zone": "a", "cores": "8"}


def fits(*terms: dict[str, Any], selector: dict[str, str] | None = None) -> bool:
    raw = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return node_fits(selector, msgspec.convert(raw, NodeAffinity), "node-1", LABELS)


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (expression("zone", "In", "b", "a"), True),
        (expression("zone", "In", "b"), False),
        (expression("disk", "In", "ssd"), False),
        (expression("zone", "NotIn", "b"), True),
        (expression("zone", "NotIn", "a"), False),
        (expression("disk", "NotIn", "ssd"), True),
        (expression("zone", "Exists"), True),
        (expression("disk", "Exists"), False),
        (expression("disk", "DoesNotExist"), True),
        (expression("cores", "Gt", "7"), True),
        (expression("cores", "Gt", "8"), False),
        (expression("cores", "Lt", "9"), True),
        (expression("zone", "Gt", "1"), False),
        (expression("disk", "Lt", "1"), False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-2"]}]}, False),
        ({**expression("zone", "In", "b"), "matchFields": []}, False),
        ({}, False),
    ],
)
def test_a_term(term: dict[str, Any], expected: bool) -> None:
    assert fits(term) is expected


def test_one_term_has_to_match_but_all_of_its_expressions() -> None:
    assert fits(expression("zone", "In", "b"), expression("cores", "Exists"))
    both = expression("zone", "In", "a")["matchExpressions"] + expression("cores", "Gt", "9")["matchExpressions"]
    assert not fits({"matchExpressions": both})


def test_no_terms_match_nothing_and_no_affinity_everything() -> None:
    assert not fits()
    assert node_fits(None, None, "node-1", LABELS)
    assert node_fits(None, NodeAffinity(), "node-1", LABELS)


def test_a_selector_has_to_match_too() -> None:
    assert fits(expression("zone", "Exists"), selector={"cores": "8"})
    assert not fits(expression("zone", "Exists"), selector={"cores": "4"})
