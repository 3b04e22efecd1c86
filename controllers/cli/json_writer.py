"""JSON as `-o json` shows it, and what of an object is shown. Apart from YAML, which takes its time to import."""

from __future__ import annotations

from typing import Any

import msgspec


def without_managed_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """The object as kubectl shows it: who manages which fields is left out."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return raw
    return {**raw, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def to_json(value: Any) -> str:
    """Indented by four, as kubectl's; ends in a newline."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=4).decode() + "\n"
