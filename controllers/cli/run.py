"""`listwatch run`: the built-in controllers and simulated nodes on a store, telling what happens."""

from __future__ import annotations

import asyncio
import signal
from urllib.parse import urlsplit

import click
import structlog

from controllers.builtin import add_workloads
from controllers.cli.logs import FORMATS, LEVELS, LogFormat, configure_logs
from controllers.cli.options import KubectlCommand, Settings, global_options
from controllers.core.types import Event
from controllers.manager import Manager
from controllers.stores import LOCAL_SERVER, open_store
from informer.cache import Stored
from informer.shared import Handler

DEFAULT_URL = f"http://{LOCAL_SERVER}"
STOP_TIMEOUT = 3.0  # seconds that reconciles in progress have to end

log = structlog.get_logger("controllers.cli")


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `run`, `run --nodes 5 --store ./data`, `run --store etcd://127.0.0.1:2379`. In a second "
    "terminal: `listwatch apply -f examples/manifests`, `listwatch get pods -w`.",
)
@click.option("--nodes", type=click.IntRange(0, 1000), default=3, show_default=True, help="How many simulated nodes.")
@click.option(
    "--listen-client-urls",
    "url",
    default=DEFAULT_URL,
    show_default=True,
    metavar="URL",
    help="Where an embedded store also listens, for other processes; empty for nowhere.",
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="auto", help="auto: by whether it is a terminal.")
@global_options
@click.pass_obj
def run(settings: Settings, nodes: int, url: str, log_level: str, log_format: LogFormat) -> None:
    """Run Deployments, ReplicaSets, a scheduler, garbage collection and simulated nodes until Ctrl-C.

    With an embedded store it also serves it, so that other terminals reach it.
    """
    configure_logs(log_level, log_format)
    asyncio.run(_run(settings, nodes, _address(url)))


def _address(url: str) -> str | None:
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise click.UsageError(f"--listen-client-urls {url!r}: {error}") from None
    if parts.scheme != "http" or not host or port is None:
        raise click.UsageError(f"--listen-client-urls {url!r}: expected one http://HOST:PORT")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _run(settings: Settings, nodes: int, address: str | None) -> None:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None
    stop = asyncio.Event()
    started = False

    def on_signal() -> None:
        # The second one does not wait for what is in progress.
        if stop.is_set() or not started:
            main.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        opened = open_store(settings.store, serve=address is not None, local=address or LOCAL_SERVER)
        async with opened as client:
            manager = Manager(client=client, stop_timeout=STOP_TIMEOUT)
            add_workloads(manager, nodes=nodes)
            async with manager:
                manager.informer(Event).add_handler(_Tell(), name="tell")
                started = True
                log.info("running", nodes=nodes, stop="Ctrl-C")
                await stop.wait()
                log.info("stopping")
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Tell(Handler):
    """What controllers record as Events, one line each."""

    def on_add(self, new: Stored, initial: bool) -> None:
        if not initial:
            self._tell(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._tell(new)

    def _tell(self, stored: Stored) -> None:
        event = Event.decode(stored.data, stored.revision)
        about = event.involved_object
        write = log.warning if event.type == "Warning" else log.info
        write(event.reason, object=f"{about.kind.lower()}/{about.name}", message=event.message)
