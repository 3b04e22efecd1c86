"""Events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.durations import age
from controllers.cli.raw import Raw, mapping, name_of


def event_time(raw: Raw) -> str:
    """When an event was last seen."""
    return raw.get("lastTimestamp") or raw.get("eventTime") or raw.get("firstTimestamp") or ""


def event_order(raw: Raw) -> tuple[str, int]:
    """Sorts events by when they were last seen, those of one second by when that was written."""
    return event_time(raw), int(raw["metadata"].get("resourceVersion") or 0)


def _event(raw: Raw, now: datetime) -> Sequence[str]:
    about, source = mapping(raw, "involvedObject"), mapping(raw, "source")
    said_by = [part for part in (source.get("component") or raw.get("reportingComponent"), source.get("host")) if part]
    return (
        age(event_time(raw), now),
        raw.get("type") or "",
        raw.get("reason") or "",
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        about.get("fieldPath") or "",
        ", ".join(said_by),
        str(raw.get("message") or "").strip(),
        age(raw.get("firstTimestamp") or raw.get("eventTime"), now),
        str(raw.get("count") or 1),
        name_of(raw),
    )


COLUMNS = {
    "events": Columns(
        (
            "LAST SEEN",
            "TYPE",
            "REASON",
            "OBJECT",
            "SUBOBJECT",
            "SOURCE",
            "MESSAGE",
            "FIRST SEEN",
            "COUNT",
            "NAME",
        ),
        _event,
        wide=("SUBOBJECT", "SOURCE", "FIRST SEEN", "COUNT", "NAME"),
    ),
}
