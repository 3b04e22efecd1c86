"""Lengths of time: `5m30s` as kubectl takes them, and ages as it shows them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import click

from informer.codecs import SCALARS
from informer.errors import Invalid

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s)")


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `1m30s`, `1.5h` or a bare number of seconds. Raises ValueError."""
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        return float(text)
    found = list(_PART.finditer(text))
    if not found or "".join(part[0] for part in found) != text:
        raise ValueError(f'"{text}" is no duration: write 30s, 5m or 1h30m')
    return sum(float(part[1]) * _UNITS[part[2]] for part in found)


class Duration(click.ParamType[float]):
    """An option's value as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def human_duration(seconds: float) -> str:
    """As kubectl's ages: two units where the second still says something, `<invalid>` for the future."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    total = max(total, 0)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    years = days // 365
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return f"{minutes}m" + _rest(total % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + _rest(minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d" + _rest(hours % 24, "h")
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        return f"{years}y" + _rest(days % 365, "d")
    return f"{years}y"


def _rest(value: int, unit: str) -> str:
    return f"{value}{unit}" if value else ""


def age(stamp: Any, now: datetime) -> str:
    """The age of an RFC 3339 time in an object; `<unknown>` for none."""
    when = parse_time(stamp)
    return human_duration((now - when).total_seconds()) if when is not None else "<unknown>"


def parse_time(stamp: Any) -> datetime | None:
    """An RFC 3339 time; None for none, or for what is none."""
    if not stamp:
        return None
    try:
        found: datetime = SCALARS[datetime].load(stamp, None)
    except Invalid:
        return None
    return found
