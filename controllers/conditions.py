"""Conditions of a status, as the list of plain JSON objects that they are there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from informer.codecs import format_time

Conditions = list[dict[str, Any]]


def new_condition(
    kind: str, status: str, reason: str, message: str, now: datetime, *, updated: bool = False
) -> dict[str, Any]:
    """A condition as of now. updated: with `lastUpdateTime`, which Deployments have besides."""
    stamp = format_time(now.replace(microsecond=0))
    condition = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": stamp}
    if updated:
        condition["lastUpdateTime"] = stamp
    return condition


def find_condition(conditions: Conditions, kind: str) -> dict[str, Any] | None:
    """The condition of that type."""
    return next((each for each in conditions if each["type"] == kind), None)


def set_condition(conditions: Conditions, condition: dict[str, Any]) -> Conditions:
    """The conditions with this one put in.

    The same status for the same reason is no news. The transition time changes with the status only.
    """
    current = find_condition(conditions, condition["type"])
    if current is not None and current["status"] == condition["status"]:
        if current.get("reason") == condition["reason"]:
            return conditions
        condition = {**condition, "lastTransitionTime": current.get("lastTransitionTime")}
    return [*without_condition(conditions, condition["type"]), condition]


def without_condition(conditions: Conditions, kind: str) -> Conditions:
    """The conditions but for that type."""
    return [each for each in conditions if each["type"] != kind]
