"""What a PodDisruptionBudget may say."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.policy.types import budgets_for, scaled_size
from informer.errors import Invalid
from tests.controllers.policy.budgets import budget


@pytest.mark.parametrize("size", [0, 3, "0%", "50%", "100%"])
@pytest.mark.parametrize("field", ["minAvailable", "maxUnavailable"])
def test_numbers_and_percentages(field: str, size: Any) -> None:
    budget(**{field: size}).validate()


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"minAvailable": 1, "maxUnavailable": 1}, "spec"),
        ({"minAvailable": -1}, "spec.minAvailable"),
        ({"maxUnavailable": "half"}, "spec.maxUnavailable"),
        ({"maxUnavailable": "-5%"}, "spec.maxUnavailable"),
        ({"minAvailable": "101%"}, "spec.minAvailable"),
        (
            {"selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}},
            "spec.selector.matchExpressions[0].values",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        budget(**spec).validate()
    assert refused.value.path == path


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(Invalid, match="unhealthyPodEvictionPolicy"):
        budget(unhealthyPodEvictionPolicy="Never")


def test_percentages_are_rounded_up() -> None:
    assert [scaled_size("34%", 3), scaled_size("33%", 3), scaled_size("0%", 3), scaled_size(5, 3)] == [2, 1, 0, 5]


def test_an_empty_selector_selects_all_with_labels_none_selects_nothing() -> None:
    every, none, web = budget("every", {}), budget("none"), budget("web")
    none.raw["spec"].pop("selector")
    assert [each.name for each in budgets_for({"app": "web"}, [every, none, web])] == ["every", "web"]
    assert budgets_for({}, [every, none, web]) == []
