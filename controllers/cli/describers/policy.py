"""What limits others: disruption budgets, quotas, limits, priorities; and the namespaces that these hold in."""

from __future__ import annotations

from collections.abc import Sequence

from controllers.cli.describers.parts import conditions, head, labels, noted
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import Raw, dig, items, mapping, name_of, number, selector_text, text, texts

_LIMITS = ("Type", "Resource", "Min", "Max", "Default Request", "Default Limit", "Max Limit/Request Ratio")


def _disruption_budget(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    if dig(raw, "spec", "maxUnavailable") is not None:
        page.field("Max unavailable", dig(raw, "spec", "maxUnavailable"))
    else:
        page.field("Min available", text(raw, "spec", "minAvailable"))
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    with page.section("Status"):
        for field, title in (
            ("disruptionsAllowed", "Allowed disruptions"),
            ("currentHealthy", "Current"),
            ("desiredHealthy", "Desired"),
            ("expectedPods", "Total"),
        ):
            page.field(title, number(raw, "status", field))
    conditions(page, raw, ("Type", "Status", "Reason", "Message"))


def _quota_rows(raw: Raw) -> list[Sequence[str]]:
    used = mapping(raw, "status", "used")
    return [(key, str(used.get(key, 0)), str(hard)) for key, hard in sorted(mapping(raw, "status", "hard").items())]


def _quota(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    if scopes := texts(raw, "spec", "scopes"):
        page.field("Scopes", ", ".join(scopes))
    page.table(("Resource", "Used", "Hard"), _quota_rows(raw))


def _limit_rows(raw: Raw) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    fields = ("min", "max", "defaultRequest", "default", "maxLimitRequestRatio")
    for each in items(raw, "spec", "limits"):
        for resource in sorted({key for field in fields for key in mapping(each, field)}):
            values = [text(each, field, resource, otherwise="-") for field in fields]
            rows.append((text(each, "type"), resource, *values))
    return rows


def _limit_range(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    page.table(_LIMITS, _limit_rows(raw))


def _namespace(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    page.field("Status", text(raw, "status", "phase", otherwise="Active"))
    conditions(page, raw, ("Type", "Status", "LastTransitionTime", "Reason", "Message"))
    page.text("")
    quotas = related.within("resourcequotas", name_of(raw))
    if not quotas:
        page.text("No resource quota.")
    else:
        page.text("Resource Quotas")
        with page.indented():
            for each in quotas:
                page.field("Name", name_of(each))
                page.table(("Resource", "Used", "Hard"), _quota_rows(each))
    page.text("")
    limits = related.within("limitranges", name_of(raw))
    if not limits:
        page.text("No LimitRange resource.")
    else:
        page.text("Resource Limits")
        with page.indented():
            page.table(_LIMITS, [row for each in limits for row in _limit_rows(each)])


def _priority_class(page: Page, raw: Raw, related: Related) -> None:
    page.field("Name", name_of(raw))
    page.field("Value", number(raw, "value"))
    page.field("GlobalDefault", bool(dig(raw, "globalDefault")))
    page.field("PreemptionPolicy", text(raw, "preemptionPolicy", otherwise="PreemptLowerPriority"))
    page.field("Description", text(raw, "description"))
    noted(page, raw)


BY_KIND: dict[str, Describer] = {
    "poddisruptionbudgets.policy": _disruption_budget,
    "resourcequotas": _quota,
    "limitranges": _limit_range,
    "namespaces": _namespace,
    "priorityclasses.scheduling.k8s.io": _priority_class,
}
