"""Configuration, and any kind that has no page of its own."""

from __future__ import annotations

from collections.abc import Mapping

from controllers.cli.describers.parts import conditions, head, labels
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import Raw, dig, items, mapping


def _config_map(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    with page.section("Data"):
        for key, value in sorted(mapping(raw, "data").items()):
            with page.section(key):
                for line in str(value).splitlines():
                    page.text(line)
    if binary := mapping(raw, "binaryData"):
        with page.section("Binary Data"):
            for key, value in sorted(binary.items()):
                page.field(key, f"{len(str(value))} characters of base64")


def _secret(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    page.field("Type", raw.get("type"))
    with page.section("Data"):
        for key, value in sorted(mapping(raw, "data").items()):
            page.field(key, f"{len(str(value)) * 3 // 4 - str(value).count('=')} bytes")


def describe_any(page: Page, raw: Raw, related: Related) -> None:
    """All that the object says, as it says it."""
    head(page, raw)
    labels(page, raw)
    page.field("API Version", raw.get("apiVersion"))
    page.field("Kind", raw.get("kind"))
    shown = ("name", "namespace", "labels", "annotations", "managedFields")
    with page.section("Metadata"):
        page.tree({key: value for key, value in mapping(raw, "metadata").items() if key not in shown})
    page.tree({key: value for key, value in raw.items() if key not in ("apiVersion", "kind", "metadata", "status")})
    status = dig(raw, "status")
    if isinstance(status, Mapping) and items(status, "conditions"):
        page.tree({"status": {key: value for key, value in status.items() if key != "conditions"}})
        conditions(page, raw, ("Type", "Status", "LastTransitionTime", "Reason", "Message"))
    elif status is not None:
        page.tree({"status": status})


BY_KIND: dict[str, Describer] = {"configmaps": _config_map, "secrets": _secret}
