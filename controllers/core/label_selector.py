"""LabelSelector, as it stands in specs; `informer.selectors` is what evaluates it."""

from __future__ import annotations

from typing import Literal

from informer.objects import Model


class LabelSelectorRequirement(Model):
    """One expression of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str]


class LabelSelector(Model):
    """Which pods: all of `match_labels` and all of `match_expressions`."""

    match_labels: dict[str, str]
    match_expressions: list[LabelSelectorRequirement]
