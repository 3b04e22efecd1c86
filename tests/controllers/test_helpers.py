"""Finalizers and conditions, on a kind's own fields and on plain JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from controllers.conditions import (
    find_status_condition,
    is_status_condition_true,
    remove_status_condition,
    set_status_condition,
)
from controllers.core.types import Condition
from controllers.finalizers import add_finalizer, has_finalizer, remove_finalizer
from informer import Resource, Scheme

NOON = datetime(2024, 5, 1, 12, 0, 0, 5, tzinfo=UTC)
LATER = datetime(2024, 5, 1, 13, 0, 0, tzinfo=UTC)


class Site(Resource, group="example.com", version="v1", scheme=Scheme()):
    class Status:
        conditions: list[Condition]


def test_a_finalizer_is_there_once() -> None:
    site = Site(name="a")
    assert not has_finalizer(site, "example.com/x")
    assert add_finalizer(site, "example.com/x")
    assert not add_finalizer(site, "example.com/x")
    assert site.raw["metadata"]["finalizers"] == ["example.com/x"]
    assert add_finalizer(site, "example.com/y")
    assert remove_finalizer(site, "example.com/x")
    assert not remove_finalizer(site, "example.com/x")
    assert site.metadata.finalizers == ["example.com/y"]


@pytest.fixture(params=["kind", "json"])
def conditions(request: pytest.FixtureRequest) -> Any:
    return Site(name="a").status.conditions if request.param == "kind" else []


def plain(conditions: Any) -> list[dict[str, Any]]:
    return [each if isinstance(each, dict) else each.raw for each in conditions]


def ready(
    conditions: Any, status: Literal["True", "False", "Unknown"] | bool = "True", now: datetime = NOON, **more: Any
) -> bool:
    return set_status_condition(conditions, "Ready", status, **{"reason": "Up", **more}, now=now)


def test_a_condition_is_put_in(conditions: Any) -> None:
    assert ready(conditions, True, message="all well", observed_generation=3)
    assert plain(conditions) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Up",
            "message": "all well",
            "observedGeneration": 3,
            "lastTransitionTime": "2024-05-01T12:00:00Z",
        }
    ]


def test_the_transition_time_changes_with_the_status_only(conditions: Any) -> None:
    ready(conditions, observed_generation=1)
    assert not ready(conditions, now=LATER)
    assert ready(conditions, now=LATER, reason="StillUp", message="news", observed_generation=2)
    (found,) = plain(conditions)
    assert (found["reason"], found["message"], found["observedGeneration"]) == ("StillUp", "news", 2)
    assert found["lastTransitionTime"] == "2024-05-01T12:00:00Z"
    assert ready(conditions, "False", now=LATER)
    (found,) = plain(conditions)
    assert (found["status"], found["lastTransitionTime"]) == ("False", "2024-05-01T13:00:00Z")


def test_others_stay_where_they_are(conditions: Any) -> None:
    ready(conditions)
    set_status_condition(conditions, "Synced", "Unknown", "New", now=NOON)
    ready(conditions, "False")
    assert [each["type"] for each in plain(conditions)] == ["Ready", "Synced"]
    assert not is_status_condition_true(conditions, "Ready")
    assert not is_status_condition_true(conditions, "Absent")
    ready(conditions)
    assert is_status_condition_true(conditions, "Ready")
    assert plain([find_status_condition(conditions, "Synced")])[0]["status"] == "Unknown"
    assert find_status_condition(conditions, "Absent") is None
    assert remove_status_condition(conditions, "Ready")
    assert not remove_status_condition(conditions, "Ready")
    assert [each["type"] for each in plain(conditions)] == ["Synced"]


def test_conditions_of_a_kind_become_part_of_the_object() -> None:
    site = Site(name="a")
    ready(site.status.conditions)
    assert site.raw["status"]["conditions"][0]["type"] == "Ready"
