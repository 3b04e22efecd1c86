"""HorizontalPodAutoscalers."""

from __future__ import annotations

from controllers.cli.columns.autoscaling import metric_parts, reference_text
from controllers.cli.describers.parts import conditions, created, head, labels
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import UNSET, Raw, dig, items, mapping, number, text


def _autoscaler(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    created(page, raw)
    page.field("Reference", reference_text(raw))
    kinds = [text(each, "type") for each in items(raw, "spec", "metrics")]
    page.field("Metrics", "( current / target )")
    with page.indented():
        for kind, (spec, at, target) in zip(kinds, metric_parts(raw), strict=True):
            page.field(_metric(kind, spec), f"{at} / {target.removesuffix(' (avg)')}")
    page.field("Min replicas", text(raw, "spec", "minReplicas", otherwise=UNSET))
    page.field("Max replicas", number(raw, "spec", "maxReplicas"))
    if behavior := mapping(raw, "spec", "behavior"):
        with page.section("Behavior"):
            for field, title in (("scaleUp", "Scale Up"), ("scaleDown", "Scale Down")):
                if rules := mapping(behavior, field):
                    with page.section(title):
                        _rules(page, rules)
    counts = (number(raw, "status", "currentReplicas"), number(raw, "status", "desiredReplicas"))
    kind = text(raw, "spec", "scaleTargetRef", "kind")
    page.field(f"{kind} pods", f"{counts[0]} current / {counts[1]} desired")
    conditions(page, raw, ("Type", "Status", "Reason", "Message"))


def _metric(kind: str, spec: Raw) -> str:
    name = text(spec, "metric", "name") or text(spec, "name")
    average = dig(spec, "target", "averageUtilization") is not None
    if kind == "Resource":
        return f"resource {name} on pods" + ("  (as a percentage of request)" if average else "")
    if kind == "ContainerResource":
        return f"resource {name} of container {text(spec, 'container')} on pods" + (
            "  (as a percentage of request)" if average else ""
        )
    if kind == "Pods":
        return f'"{name}" on pods'
    if kind == "Object":
        about = mapping(spec, "describedObject")
        return f'"{name}" on {about.get("kind")}/{about.get("name")}'
    return f'"{name}"' + (" (target average value)" if dig(spec, "target", "averageValue") is not None else "")


def _rules(page: Page, rules: Raw) -> None:
    window = dig(rules, "stabilizationWindowSeconds")
    if window is not None:
        page.field("Stabilization Window", f"{window} seconds")
    page.field("Select Policy", text(rules, "selectPolicy", otherwise="Max"))
    with page.section("Policies"):
        for each in items(rules, "policies"):
            shown = f"Value: {each.get('value')}  Period: {each.get('periodSeconds')} seconds"
            page.text(f"- Type: {each.get('type')}  {shown}")


BY_KIND: dict[str, Describer] = {"horizontalpodautoscalers.autoscaling": _autoscaler}
