"""Durations, tables, paths: functions that take text and give text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from controllers.cli.columns.pods import pod_status
from controllers.cli.durations import age, human_duration, parse_duration
from controllers.cli.jsonpath import JsonPath
from controllers.cli.page import Page, words
from controllers.cli.table import Table
from controllers.cli.wait import parse_for

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119.9, "119s"),
        (2 * MINUTE, "2m"),
        (2 * MINUTE + 5, "2m5s"),
        (9 * MINUTE + 59, "9m59s"),
        (10 * MINUTE + 5, "10m"),
        (179 * MINUTE, "179m"),
        (3 * HOUR, "3h"),
        (7 * HOUR + 5 * MINUTE, "7h5m"),
        (8 * HOUR + 5 * MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY + 3 * HOUR, "2d3h"),
        (8 * DAY, "8d"),
        (729 * DAY, "729d"),
        (730 * DAY, "2y"),
        (800 * DAY, "2y70d"),
        (3000 * DAY, "8y"),
    ],
)
def test_ages_as_kubectl_shows_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_age_of_a_stamp() -> None:
    assert age("2026-01-01T11:59:30Z", NOW) == "30s"
    assert age("2026-01-01T11:59:30.123456Z", NOW) == "29s"
    assert age(None, NOW) == age("nonsense", NOW) == "<unknown>"


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("30s", 30), ("1m30s", 90), ("1.5h", 5400), ("250ms", 0.25)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5x", "m5", "-5s", "5s5", "1h 5m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


def test_rows_that_come_later_stand_under_the_earlier_ones() -> None:
    table = Table(("NAME", "AGE"))
    assert table.lines([("short", "1s")]) == ["NAME    AGE", "short   1s"]
    assert table.lines([("a", "2s")]) == ["a       2s"]
    assert table.lines([("much-longer", "3s")]) == ["much-longer   3s"]
    assert table.lines([]) == []


def test_a_page_is_aligned_block_by_block() -> None:
    page = Page()
    page.field("Name", "web")
    page.many("Labels", ["a=1", "b=2"])
    with page.section("Spec"):
        page.tree({"podCIDR": "x", "items": [{"name": "n"}, "plain"], "empty": {}, "on": True})
    assert str(page) == (
        "Name:    web\nLabels:  a=1\n         b=2\nSpec:\n  Pod CIDR:  x\n  Items:\n"
        "    Name:  n\n    plain\n  Empty:  <none>\n  On:     true\n"
    )
    assert words("app.kubernetes.io/name") == "app.kubernetes.io/name"


OBJECT = {"status": {"phase": "Running", "list": [{"n": 1}, {"n": 2}], "map": {"a.b": True}, "zero": 0}}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("{.status.phase}", ["Running"]),
        (".status.phase", ["Running"]),
        ("status.phase", ["Running"]),
        ("{$.status.list[0].n}", [1]),
        ("{.status.list[-1].n}", [2]),
        ("{.status.list[*].n}", [1, 2]),
        ("{.status.map['a.b']}", [True]),
        (r"{.status.map.a\.b}", [True]),
        ("{.status.zero}", [0]),
        ("{.status.list[7].n}", []),
        ("{.nothing.there}", []),
        ("{.status.phase.deeper}", []),
    ],
)
def test_jsonpath(path: str, found: list[Any]) -> None:
    assert JsonPath(path).find(OBJECT) == found


@pytest.mark.parametrize("path", ["", "{}", "{.a[}", "{.a[?(@.x==)]}", "{.a[x]}", "{.a[::0]}", "{.a[?(x>1)]}"])
def test_malformed_jsonpath(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        JsonPath(path)


@pytest.mark.parametrize(
    ("text", "raw", "met"),
    [
        ("condition=Ready", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
        ("condition=ready=true", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
        ("condition=Ready=False", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, False),
        ("condition=Ready", {"status": {}}, False),
        (
            "condition=Ready",
            {
                "metadata": {"generation": 2},
                "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]},
            },
            False,
        ),
        ("delete", None, True),
        ("delete", {}, False),
        ("create", {}, True),
        ("create", None, False),
        ("jsonpath={.status.phase}=Running", OBJECT, True),
        ("jsonpath='{.status.phase}'=Running", OBJECT, True),
        ("jsonpath={.status.phase}=Pending", OBJECT, False),
        ("jsonpath={.status.phase}", OBJECT, True),
        ("jsonpath={.status.other}", OBJECT, False),
        ("jsonpath={.status.zero}=0", OBJECT, True),
        ("jsonpath={.status.map['a.b']}=true", OBJECT, True),
        ("jsonpath=.status.phase=Running", OBJECT, True),
        ("jsonpath=.status.phase", OBJECT, True),
    ],
)
def test_what_wait_waits_for(text: str, raw: dict[str, Any] | None, met: bool) -> None:
    assert parse_for(text)(raw) is met


@pytest.mark.parametrize("text", ["", "ready", "condition", "jsonpath=", "delete=x"])
def test_what_wait_cannot_wait_for(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|path"):
        parse_for(text)


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{}], "initContainers": [{}, {}]}, "status": status}


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (pod(phase="Pending"), "Pending"),
        (pod(phase="Running", containerStatuses=[{"ready": True, "state": {"running": {}}}]), "Running"),
        (
            pod(phase="Pending", containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]),
            "ImagePullBackOff",
        ),
        (pod(phase="Failed", reason="Evicted"), "Evicted"),
        (pod(phase="Failed", containerStatuses=[{"state": {"terminated": {"exitCode": 3}}}]), "ExitCode:3"),
        (pod(phase="Failed", containerStatuses=[{"state": {"terminated": {"signal": 9}}}]), "Signal:9"),
        (pod(phase="Pending", initContainerStatuses=[{"state": {"running": {}}}]), "Init:0/2"),
        (pod(phase="Pending", initContainerStatuses=[{"state": {"terminated": {"exitCode": 0}}}, {}]), "Init:1/2"),
        (
            pod(phase="Pending", initContainerStatuses=[{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]),
            "Init:Error",
        ),
        (
            pod(phase="Pending", initContainerStatuses=[{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
            "Init:CrashLoopBackOff",
        ),
        (
            pod(
                phase="Running",
                containerStatuses=[
                    {"state": {"terminated": {"reason": "Completed"}}},
                    {"ready": True, "state": {"running": {}}},
                ],
                **READY,
            ),
            "Running",
        ),
        ({**pod(phase="Running"), "metadata": {"deletionTimestamp": "x"}}, "Terminating"),
        ({**pod(phase="Succeeded"), "metadata": {"deletionTimestamp": "x"}}, "Succeeded"),
        ({**pod(phase="Running", reason="NodeLost"), "metadata": {"deletionTimestamp": "x"}}, "Unknown"),
    ],
)
def test_the_status_of_a_pod(raw: dict[str, Any], text: str) -> None:
    assert pod_status(raw) == text
