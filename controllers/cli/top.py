"""`listwatch top`: what a manager and its store are doing, as it changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import click
import msgspec

from controllers.cli.errors import CliError
from controllers.cli.options import KubectlCommand
from controllers.cli.top_sample import Sample, Source
from controllers.cli.top_view import View, picture, view_of

DEFAULT_MANAGER = "http://127.0.0.1:8080"

Show = Callable[[View], None]


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `top` beside a `listwatch run`, `top --server http://127.0.0.1:2381` for a store alone, "
    "`top --once -o json | jq .stores`. It ends with q or Ctrl-C.",
)
@click.option(
    "--manager",
    envvar="LISTWATCH_HTTP",
    metavar="URL",
    help=f"Where a manager serves its endpoints.  [default: what LISTWATCH_HTTP names, else {DEFAULT_MANAGER}]",
)
@click.option("--server", metavar="URL", help="Where a store's server, ours or etcd's, serves its metrics.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks; rates are over this.",
)
@click.option("--once", is_flag=True, help="Show one interval and end; with exit code 1 if nobody answers.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: a line an interval.")
def top(manager: str | None, server: str | None, interval: float, once: bool, output: Literal["text", "json"]) -> int:
    """Show what a manager and its store are doing: commits, watchers, informers, queues and reconciles.

    Outcomes are those of the last interval.
    """
    if manager is None and server is None:
        manager = DEFAULT_MANAGER
    urls = (_url("--manager", manager), _url("--server", server))
    return asyncio.run(_top(*urls, interval, once=once, output=output))


def _url(option: str, text: str | None) -> str | None:
    if not text:
        return None
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise click.UsageError(f"{option} {text!r}: expected http://HOST:PORT")
    return url.rstrip("/")


async def _top(
    manager: str | None, server: str | None, interval: float, *, once: bool, output: Literal["text", "json"]
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    live = output == "text" and not once and sys.stdout.isatty()
    try:
        async with aiohttp.ClientSession() as session:
            source = Source(session, manager, server)
            if once:
                await _once(source, interval, stop, _shower(output))
                return 0
            with _screen() if live else contextlib.nullcontext(_shower(output)) as show, _keys(stop):
                before: Sample | None = None
                async for sample in _samples(source, interval, stop):
                    show(view_of(manager, before, sample))
                    before = sample
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _once(source: Source, interval: float, stop: asyncio.Event, show: Show) -> None:
    before: Sample | None = None
    async for sample in _samples(source, interval, stop):
        error = sample.error or (sample.server.error if sample.server is not None else "")
        if error:
            who = source.manager if sample.error else source.server
            raise CliError(f"{who}: {error}")
        if before is not None:
            show(view_of(source.manager, before, sample))
            return
        before = sample


async def _samples(source: Source, interval: float, stop: asyncio.Event) -> AsyncIterator[Sample]:
    """One each interval, until `stop` is set."""
    stopping = asyncio.create_task(stop.wait())
    asking: asyncio.Task[Sample] | None = None
    try:
        while not stop.is_set():
            asking = asyncio.create_task(source.sample())
            await asyncio.wait([asking, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                return
            yield asking.result()
            await asyncio.wait([stopping], timeout=interval)
    finally:
        tasks = [task for task in (asking, stopping) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _shower(output: Literal["text", "json"]) -> Show:
    """Prints each view as it comes."""
    if output == "json":
        return lambda view: click.echo(json.dumps(msgspec.to_builtins(view)))
    from rich.console import Console

    # Nobody's screen: as wide as is needed.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)

    def show(view: View) -> None:
        console.print(picture(view))
        console.print()

    return show


@contextlib.contextmanager
def _screen() -> Iterator[Show]:
    """The whole terminal, which is given back as it was."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda view: live.update(picture(view), refresh=True)


@contextlib.contextmanager
def _keys(stop: asyncio.Event) -> Iterator[None]:
    """`q` sets `stop`, where there is a keyboard."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stdout.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    loop, before = asyncio.get_running_loop(), termios.tcgetattr(keyboard)

    def typed() -> None:
        said = os.read(keyboard, 1024)
        if not said or b"q" in said.lower():
            stop.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, typed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
