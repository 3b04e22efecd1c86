"""The kinds of Kubernetes' policy group, with their rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from controllers.apps.types import LabelSelector
from controllers.conditions import set_status_condition
from controllers.core.types import Condition
from informer.codecs import show
from informer.errors import Invalid
from informer.objects import Model
from informer.resources import Resource
from informer.selectors import Selector

DISRUPTION_ALLOWED = "DisruptionAllowed"

_PERCENT = re.compile(r"[0-9]+%")


class PodDisruptionBudgetSpec(Model):
    """Which pods, and how many of them must stay: one of `min_available` and `max_unavailable`, a number or a
    percentage of the pods that there should be."""

    min_available: int | str | None
    max_unavailable: int | str | None
    selector: LabelSelector | None
    unhealthy_pod_eviction_policy: Literal["IfHealthyBudget", "AlwaysAllow"] | None


class PodDisruptionBudgetStatus(Model):
    """How far it could be drawn on at `observed_generation`.

    disrupted_pods: name -> when its eviction was granted, of pods that have not been seen to go yet.
    """

    observed_generation: int = 0
    disrupted_pods: dict[str, datetime]
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    conditions: list[Condition]


class PodDisruptionBudget(Resource, group="policy", version="v1", short_names=("pdb",)):
    """How many of some pods may be away at the same time on purpose."""

    spec: PodDisruptionBudgetSpec
    status: PodDisruptionBudgetStatus

    def validate(self) -> None:
        """As kube-apiserver. A selector that is empty selects every pod of the namespace, none at all no pod."""
        spec = self.raw.get("spec") or {}
        if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
            raise Invalid("spec", "minAvailable and maxUnavailable cannot be both set")
        for field in ("minAvailable", "maxUnavailable"):
            _check_size(spec.get(field), f"spec.{field}")
        try:
            Selector.of(spec.get("selector"))
        except Invalid as error:
            raise Invalid(f"spec.selector.{error.path}", error.problem) from None

    def tell_allowed(self, now: datetime) -> None:
        """Put the condition that says whether the status allows a disruption into the status, in memory."""
        allowed = self.status.disruptions_allowed > 0
        set_status_condition(
            self.raw["status"].setdefault("conditions", []),
            DISRUPTION_ALLOWED,
            allowed,
            "SufficientPods" if allowed else "InsufficientPods",
            now=now,
            observed_generation=self.status.observed_generation,
        )


def _check_size(value: int | str | None, path: str) -> None:
    if isinstance(value, int) and value < 0:
        raise Invalid(path, f"must be greater than or equal to 0, got {value}")
    if isinstance(value, str):
        if not _PERCENT.fullmatch(value):
            raise Invalid(path, f'expected a number or a percentage such as "50%", got {show(value)}')
        if int(value[:-1]) > 100:
            raise Invalid(path, f"must not be greater than 100%, got {show(value)}")


def scaled_size(value: int | str, total: int) -> int:
    """A number as it is, a percentage of `total` rounded up.

    >>> scaled_size("50%", 7), scaled_size(3, 7)
    (4, 3)
    """
    return -(-int(value[:-1]) * total // 100) if isinstance(value, str) else value


def budgets_for(labels: Mapping[str, str], budgets: Iterable[PodDisruptionBudget]) -> list[PodDisruptionBudget]:
    """Those of a namespace's budgets that count a pod with these labels. A pod without labels has none."""
    if not labels:
        return []
    return [each for each in budgets if Selector.of((each.raw.get("spec") or {}).get("selector")).matches(labels)]
