"""`listwatch demo --full`: the hours that do something, one right after the other; and how they are shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from controllers.cli.demo.day import hours
from controllers.cli.demo.day.command import run_day
from controllers.cli.demo.day.hours import HOURS
from controllers.cli.demo.day.picture import DayPicture
from controllers.cli.demo.day.shop import OPENS, Shop, customers, open_shop
from controllers.cli.demo.runner import Outcome, Step
from controllers.cli.logs import configure_logs
from controllers.simulation.virtual_time import TimeLapseLoop
from tests.cli.conftest import Cli

AT_ONCE = (hours.open_up, hours.bad_release, hours.lose_a_node, hours.drain_a_node, hours.good_release)


@pytest.mark.virtual_time
async def test_what_happens_to_the_shop(tmp_path: Path) -> None:
    configure_logs("critical")
    async with open_shop(tmp_path) as shop:
        told: list[str] = []

        async def tell(text: str) -> None:
            told.append(text)

        for act in AT_ONCE:
            await act(shop, tell)
        text = "\n".join(told)
        for words in ("ImagePullBackOff", "undone; never fewer", "is dead", "with the same volume", "is empty"):
            assert words in text
        assert max(len(f"       {line}") for line in told) <= 80, "it would be cut off on a terminal"
        picture = DayPicture(shop, [step.title for step in HOURS])
        picture.begin(1, HOURS[0].title, 1)
        picture.end(Outcome(HOURS[0].title, 1.0, 1))
        picture.detail("all is well", 1)
        out = io.StringIO()
        Console(file=out, width=80, height=24).print(picture.render())
        shown = out.getvalue().splitlines()
        assert len(shown) <= 24
        assert max(map(len, shown)) <= 80
        for words in ("Monday", "customers", "shop/web:43", "node-4", "StatefulSet", "all is well", "07:00"):
            assert any(words in line for line in shown), words


async def fail(shop: Shop, tell: object) -> None:
    await shop.until("customers from the moon", lambda: False, 1)


def test_an_hour_that_fails_gives_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_day(0, terminal=False, hours=[Step("06:00 first", fail), *HOURS]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "FAILED at step 1 of 12, 06:00 first: expected within 1 minutes: customers from the moon"


def test_as_lines_an_hour_does_not_tell_how_many_seconds_of_the_day_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    async def wait(shop: Shop, tell: object) -> None:
        await shop.until_hour(6.1)

    configure_logs("critical")
    assert run_day(0, terminal=False, hours=[Step("06:06 early", wait)]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert (first.partition(" (")[0], second.partition(" (")[0]) == ("[1/1] 06:06 early", "      ok")


def test_a_day_that_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async def wait(shop: Shop, tell: object) -> None:
        await shop.until_hour(6.1)

    assert run_day(300, terminal=True, hours=[Step("06:06 early", wait)]) == 0
    out = capsys.readouterr().out
    assert "06:06 early" in out
    assert "all 1 steps reached what they should" in out


def test_customers_come_and_go() -> None:
    counts = [customers(OPENS.replace(hour=hour)) for hour in (3, 8, 12, 22)]
    assert counts == pytest.approx([0.1, 0.3, 1.0, 0.26666], abs=1e-3)


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "1e9"])
def test_a_day_takes_some_time_and_no_longer_than_a_day(cli: Cli, seconds: str) -> None:
    result = cli("demo", "--full", f"--day-seconds={seconds}")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: Invalid value for '--day-seconds': ")


def test_hours_of_a_day_go_with_a_whole_day(cli: Cli) -> None:
    result = cli("demo", "--day-seconds", "5")
    assert (result.code, result.out) == (2, "")
    assert "--day-seconds goes with --full" in result.err


def test_a_time_lapse_waits_no_longer_than_it_has_to() -> None:
    loop = TimeLapseLoop(1000.0)
    try:
        assert 0 < loop.pause_before(3600.0) <= 3.6
    finally:
        loop.close()
