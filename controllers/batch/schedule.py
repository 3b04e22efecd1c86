"""Schedules of cron: which minutes they name. As robfig/cron, which Kubernetes uses.

Five fields (minute, hour, day of the month, month, day of the week) of numbers, names, `*`, `?`, ranges, steps and
lists; or `@yearly @annually @monthly @weekly @daily @midnight @hourly`, or `@every 1h30m`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FIELDS: Final[tuple[tuple[str, int, int, dict[str, int]], ...]] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_YEARS_AHEAD = 5  # robfig/cron: a day that does not come in five years (30 February) never comes
_MINUTE = timedelta(minutes=1)


class Schedule(msgspec.Struct, frozen=True):
    """The minutes that a text names. `every` is set for `@every`, and all else is unused then."""

    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    any_day: bool = True  # the day of the month is `*` ...
    any_weekday: bool = True  # ... or that of the week is: then both have to fit, else one of them is enough
    every: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Raises ValueError, which says what is wrong with which field."""
        if "TZ=" in text:
            raise ValueError("the time zone belongs into timeZone")
        if text.startswith("@every "):
            return cls(every=_duration(text.removeprefix("@every ")))
        if text.startswith("@") and text not in _NAMED:
            raise ValueError(f'expected one of {", ".join(_NAMED)} or @every, got "{text}"')
        fields = _NAMED.get(text, text).split()
        if len(fields) != len(_FIELDS):
            raise ValueError(f'expected 5 fields, such as "*/5 * * * *", got "{text}"')
        minutes, hours, days, months, weekdays = (
            _field(part, *rule) for part, rule in zip(fields, _FIELDS, strict=True)
        )
        return cls(minutes, hours, days, months, weekdays, _is_any(fields[2]), _is_any(fields[4]))

    def after(self, moment: datetime, zone: tzinfo = UTC) -> datetime | None:
        """The first time after `moment`, in UTC; None if none comes within five years. O(days until then).

        Fields are those of the clocks of `zone`: what these leave out when they are put forward does not take place,
        what they show twice when they are put back takes place twice.
        """
        if self.every is not None:
            return moment.replace(microsecond=0) + self.every
        at = moment.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        last = at.year + _YEARS_AHEAD
        while at.year <= last:
            local = at.astimezone(zone)
            day = local.replace(hour=0, minute=0, fold=0)
            if local.month not in self.months:
                at = (day + timedelta(days=32 - local.day)).replace(day=1).astimezone(UTC)
            elif not self._on(local):
                at = (day + timedelta(days=1)).astimezone(UTC)
            elif local.hour not in self.hours:
                at += _MINUTE * (60 - local.minute)
            elif local.minute not in self.minutes:
                at += _MINUTE
            else:
                return at
        return None

    def _on(self, day: datetime) -> bool:
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month and of_week if self.any_day or self.any_weekday else of_month or of_week


def load_zone(name: str) -> tzinfo:
    """The time zone of that name. Raises ValueError."""
    if not name or name.lower() == "local":
        raise ValueError(f'unknown time zone "{name}"')
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f'unknown time zone "{name}"') from None


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    seconds = 0
    if found is not None:
        hours, minutes, rest = (int(each or 0) for each in found.groups())
        seconds = hours * 3600 + minutes * 60 + rest
    if not 0 < seconds < 10**9:
        raise ValueError(f'expected a time such as "1h30m", got "{text}"')
    return timedelta(seconds=seconds)


def _is_any(part: str) -> bool:
    return any(each.partition("/")[0] in ("*", "?") for each in part.split(","))


def _field(text: str, name: str, least: int, most: int, names: dict[str, int]) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if first in ("*", "?") and not dash:
            low, high = least, most
        else:
            low = _number(first, name, names)
            # `5/15`: from 5 on.
            high = _number(last, name, names) if dash else most if slash else low
        every = _number(step, name, {}) if slash else 1
        if low < least or high > most or low > high or not every:
            raise ValueError(f'{name}: expected numbers from {least} to {most} in order, got "{part}"')
        found.update(range(low, high + 1, every))
    return frozenset(found)


def _number(text: str, name: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f'{name}: expected a number, got "{text}"')
    return int(text)
