"""Deployments and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import TEMPLATE, Columns
from controllers.cli.raw import (
    NONE,
    Raw,
    age_of,
    containers_of,
    controller_of,
    dig,
    labels_text,
    name_of,
    number,
    selector_text,
)


def _deployment(raw: Raw, now: datetime) -> Sequence[str]:
    return (
        name_of(raw),
        f"{number(raw, 'status', 'readyReplicas')}/{number(raw, 'spec', 'replicas')}",
        str(number(raw, "status", "updatedReplicas")),
        str(number(raw, "status", "availableReplicas")),
        age_of(raw, now),
        *containers_of(raw),
        selector_text(dig(raw, "spec", "selector")),
    )


def _replica_set(raw: Raw, now: datetime) -> Sequence[str]:
    return (
        name_of(raw),
        str(number(raw, "spec", "replicas")),
        str(number(raw, "status", "replicas")),
        str(number(raw, "status", "readyReplicas")),
        age_of(raw, now),
        *containers_of(raw),
        selector_text(dig(raw, "spec", "selector")),
    )


def _stateful_set(raw: Raw, now: datetime) -> Sequence[str]:
    return (
        name_of(raw),
        f"{number(raw, 'status', 'readyReplicas')}/{number(raw, 'spec', 'replicas')}",
        age_of(raw, now),
        *containers_of(raw),
    )


def _daemon_set(raw: Raw, now: datetime) -> Sequence[str]:
    counts = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    return (
        name_of(raw),
        *(str(number(raw, "status", field)) for field in counts),
        labels_text(dig(raw, "spec", "template", "spec", "nodeSelector")),
        age_of(raw, now),
        *containers_of(raw),
        selector_text(dig(raw, "spec", "selector")),
    )


def _controller_revision(raw: Raw, now: datetime) -> Sequence[str]:
    owner = controller_of(raw)
    shown = NONE
    if owner is not None:
        group = str(owner.get("apiVersion") or "").rpartition("/")[0]
        kind = str(owner.get("kind") or "").lower()
        shown = f"{kind}.{group}/{owner.get('name')}" if group else f"{kind}/{owner.get('name')}"
    return name_of(raw), shown, str(number(raw, "revision")), age_of(raw, now)


COLUMNS = {
    "deployments.apps": Columns(
        ("NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", *TEMPLATE), _deployment, wide=TEMPLATE
    ),
    "replicasets.apps": Columns(("NAME", "DESIRED", "CURRENT", "READY", "AGE", *TEMPLATE), _replica_set, wide=TEMPLATE),
    "statefulsets.apps": Columns(
        ("NAME", "READY", "AGE", "CONTAINERS", "IMAGES"), _stateful_set, wide=("CONTAINERS", "IMAGES")
    ),
    "daemonsets.apps": Columns(
        ("NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE", "NODE SELECTOR", "AGE", *TEMPLATE),
        _daemon_set,
        wide=TEMPLATE,
    ),
    "controllerrevisions.apps": Columns(("NAME", "CONTROLLER", "REVISION", "AGE"), _controller_revision),
}
