"""Conditions of a status.

`set_status_condition` and its like follow apimachinery's meta package and are for everybody; they take a status'
`conditions` as it stands, `list[Condition]` of a kind or a plain list of JSON objects. `set_condition` and its like
follow the Deployment controller, whose rule differs: the same status for the same reason is no news there.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from datetime import datetime
from typing import Any, Literal

from informer.codecs import format_time
from informer.objects import Model

Conditions = list[dict[str, Any]]

# ---- for every kind -------------------------------------------------------------------------------------------------


def set_status_condition(
    conditions: MutableSequence[Any],
    kind: str,
    status: Literal["True", "False", "Unknown"] | bool,
    reason: str,
    message: str = "",
    *,
    now: datetime,
    observed_generation: int | None = None,
) -> bool:
    """Put the condition of that type in, or bring it up to date; whether that changed anything.

    The transition time changes with the status only; the others follow what is given, but for an observed generation
    of None, which leaves the one that is there. As apimachinery's SetStatusCondition.
    """
    text = str(status)
    changed = {"status": text, "reason": reason, "message": message}
    if observed_generation is not None:
        changed["observedGeneration"] = observed_generation  # type: ignore[assignment]
    stamp = format_time(now.replace(microsecond=0))
    place = _place(conditions, kind)
    if place is None:
        conditions.append({"type": kind, **changed, "lastTransitionTime": stamp})
        return True
    current = _raw(conditions[place])
    if current.get("status") != text:
        changed["lastTransitionTime"] = stamp
    if all(current.get(field) == value for field, value in changed.items()):
        return False
    conditions[place] = {**current, **changed}
    return True


def remove_status_condition(conditions: MutableSequence[Any], kind: str) -> bool:
    """Take the condition of that type out; whether it was there."""
    place = _place(conditions, kind)
    if place is not None:
        del conditions[place]
    return place is not None


def find_status_condition(conditions: MutableSequence[Any], kind: str) -> Any | None:
    """The condition of that type as the list has it, or None."""
    place = _place(conditions, kind)
    return None if place is None else conditions[place]


def is_status_condition_true(conditions: MutableSequence[Any], kind: str) -> bool:
    """Whether there is a condition of that type and its status is True."""
    place = _place(conditions, kind)
    return place is not None and _raw(conditions[place]).get("status") == "True"


def _place(conditions: MutableSequence[Any], kind: str) -> int | None:
    return next((index for index, each in enumerate(conditions) if _raw(each).get("type") == kind), None)


def _raw(condition: Any) -> dict[str, Any]:
    return condition.raw if isinstance(condition, Model) else condition


# ---- as the Deployment controller -----------------------------------------------------------------------------------


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
