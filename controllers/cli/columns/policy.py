"""What limits others: disruption budgets, quotas, priorities."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.raw import Raw, age_of, dig, mapping, name_of, number, text


def _disruption_budget(raw: Raw, now: datetime) -> Sequence[str]:
    return (
        name_of(raw),
        text(raw, "spec", "minAvailable", otherwise="N/A"),
        text(raw, "spec", "maxUnavailable", otherwise="N/A"),
        str(number(raw, "status", "disruptionsAllowed")),
        age_of(raw, now),
    )


def _quota(raw: Raw, now: datetime) -> Sequence[str]:
    used = mapping(raw, "status", "used")
    told = [(key, f"{key}: {used.get(key, 0)}/{hard}") for key, hard in sorted(mapping(raw, "status", "hard").items())]
    return (
        name_of(raw),
        ", ".join(shown for key, shown in told if not key.startswith("limits.")),
        ", ".join(shown for key, shown in told if key.startswith("limits.")),
        age_of(raw, now),
    )


def _priority_class(raw: Raw, now: datetime) -> Sequence[str]:
    return (
        name_of(raw),
        str(number(raw, "value")),
        "true" if dig(raw, "globalDefault") else "false",
        age_of(raw, now),
        text(raw, "preemptionPolicy"),
    )


COLUMNS = {
    "poddisruptionbudgets.policy": Columns(
        ("NAME", "MIN AVAILABLE", "MAX UNAVAILABLE", "ALLOWED DISRUPTIONS", "AGE"), _disruption_budget
    ),
    "resourcequotas": Columns(("NAME", "REQUEST", "LIMIT", "AGE"), _quota),
    "priorityclasses.scheduling.k8s.io": Columns(
        ("NAME", "VALUE", "GLOBAL-DEFAULT", "AGE", "PREEMPTIONPOLICY"), _priority_class
    ),
}
