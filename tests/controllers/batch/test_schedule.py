"""Schedules: which minutes a text names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controllers.batch.cronjob import TOO_MANY, latest_due
from controllers.batch.indexes import format_indexes, last_index, parse_indexes
from controllers.batch.schedule import Schedule, load_zone


def after(text: str, moment: str, count: int = 1, zone: str = "UTC") -> list[str]:
    """The next times, as the clocks there show them."""
    at = datetime.fromisoformat(moment)
    found = []
    for _ in range(count):
        following = Schedule.parse(text).after(at, load_zone(zone))
        assert following is not None
        at = following
        found.append(at.astimezone(load_zone(zone)).isoformat(timespec="minutes"))
    return found


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01+00:00"),
        ("* * * * *", "2026-01-01T00:00:59.9Z", "2026-01-01T00:01+00:00"),
        ("*/15 * * * *", "2026-01-01T00:45:00Z", "2026-01-01T01:00+00:00"),
        ("5/20 * * * *", "2026-01-01T00:06:00Z", "2026-01-01T00:25+00:00"),
        ("10-20/5 * * * *", "2026-01-01T00:16:00Z", "2026-01-01T00:20+00:00"),
        ("0 3,15 * * *", "2026-01-01T03:00:00Z", "2026-01-01T15:00+00:00"),
        ("30 4 1 * *", "2026-01-31T12:00:00Z", "2026-02-01T04:30+00:00"),
        ("0 0 31 * *", "2026-01-31T12:00:00Z", "2026-03-31T00:00+00:00"),
        ("0 0 29 FEB ?", "2026-01-01T00:00:00Z", "2028-02-29T00:00+00:00"),
        ("0 9 * * MON-FRI", "2026-01-02T09:00:00Z", "2026-01-05T09:00+00:00"),
        ("0 9 * * sun", "2026-01-02T09:00:00Z", "2026-01-04T09:00+00:00"),
        # Both days are named: one of them is enough.
        ("0 0 13 * FRI", "2026-01-01T00:00:00Z", "2026-01-02T00:00+00:00"),
        ("0 0 13 * FRI", "2026-01-09T00:00:00Z", "2026-01-13T00:00+00:00"),
        # A step on `*` still is `*`: both have to fit.
        ("0 0 */2 * FRI", "2026-01-01T00:00:00Z", "2026-01-09T00:00+00:00"),
        ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00+00:00"),
        ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00+00:00"),
        ("@midnight", "2026-01-01T00:00:00Z", "2026-01-02T00:00+00:00"),
        ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00+00:00"),
        ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T00:00+00:00"),
        ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00+00:00"),
        ("@every 1h30m", "2026-01-01T00:10:00Z", "2026-01-01T01:40+00:00"),
    ],
)
def test_the_next_time(text: str, moment: str, expected: str) -> None:
    assert after(text, moment) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 7",
        "5-1 * * * *",
        "*/0 * * * *",
        "a * * * *",
        "-1 * * * *",
        "1,,2 * * * *",
        "* * * foo *",
        "@sometimes",
        "@every",
        "@every 0s",
        "@every soon",
        "TZ=UTC * * * * *",
        "CRON_TZ=UTC 0 0 * * *",
    ],
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError):
        Schedule.parse(text)


def test_a_day_that_never_comes() -> None:
    assert Schedule.parse("0 0 30 2 *").after(datetime(2026, 1, 1, tzinfo=UTC)) is None


def test_clocks_that_are_put_forward_leave_a_time_out_and_back_show_it_twice() -> None:
    assert after("30 2 * * *", "2026-03-28T00:00:00Z", 3, "Europe/Berlin") == [
        "2026-03-28T02:30+01:00",
        "2026-03-30T02:30+02:00",
        "2026-03-31T02:30+02:00",
    ]
    assert after("30 2 * * *", "2026-10-24T12:00:00Z", 3, "Europe/Berlin") == [
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:30+01:00",
        "2026-10-26T02:30+01:00",
    ]
    assert after("0 * * * *", "2026-03-29T00:30:00Z", 2, "Europe/Berlin") == [
        "2026-03-29T03:00+02:00",
        "2026-03-29T04:00+02:00",
    ]
    assert after("0 0 * * *", "2026-01-01T00:00:00Z", 1, "Asia/Kathmandu") == ["2026-01-02T00:00+05:45"]


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "Local", "../etc/passwd", "/etc/localtime"])
def test_no_time_zone(name: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        load_zone(name)


@pytest.mark.parametrize("text", ["*/5 * * * *", "* * * * *", "0 3 * * *", "@every 7m", "30 4 1 * *"])
def test_the_latest_of_many_is_found_as_by_going_through_them(text: str) -> None:
    schedule, start = Schedule.parse(text), datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
    for days in (0.001, 0.0035, 0.5, 3, 40):
        for seconds in (0, 30):
            now = start + timedelta(days=days, seconds=seconds)
            at, last, count = schedule.after(start), None, 0
            while at is not None and at <= now:
                last, count, at = at, count + 1, schedule.after(at)
            due = latest_due(schedule, UTC, start, now)
            assert (due.time if due else None) == last
            assert (due.missed if due else 0) == min(count, TOO_MANY + 1)


@pytest.mark.parametrize(
    ("indexes", "text"),
    [
        (set(), ""),
        ({0}, "0"),
        ({1, 2}, "1,2"),
        ({1, 2, 3}, "1-3"),
        ({7, 3, 4, 5, 1}, "1,3-5,7"),
        ({0, 1, 5, 6, 7}, "0,1,5-7"),
    ],
)
def test_indexes_as_kubernetes_writes_them(indexes: set[int], text: str) -> None:
    assert format_indexes(indexes) == text
    assert parse_indexes(text, 10) == indexes
    assert last_index(text) == max(indexes, default=-1)


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3,1", "1,1", "5-3", "1,,2", "1 ,2", ","])
def test_what_are_no_indexes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_indexes(text, 10)


def test_indexes_beyond_the_last_are_left_out() -> None:
    assert parse_indexes("1,3-1000000000", 5) == {1, 3, 4}
