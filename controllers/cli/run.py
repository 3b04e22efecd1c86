"""`listwatch run`: reconcilers from files, or the built-in controllers and simulated nodes, telling what happens."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import msgspec
import structlog

from controllers.builtin import add_workloads
from controllers.cli.errors import CliError
from controllers.cli.logs import FORMATS, LEVELS, LogFormat, configure_logs
from controllers.cli.options import KubectlCommand, Settings, global_options
from controllers.cli.reconciler_files import load_managers, where
from controllers.cli.reload import run_and_reload
from controllers.core.stages import StageError, check_stages
from controllers.core.types import Event
from controllers.errors import EndpointError
from controllers.manager import Manager
from controllers.settings import Settings as ManagerSettings
from controllers.stores import LOCAL_SERVER, open_store
from informer.cache import Stored
from informer.shared import Handler
from kvstore.api import Client
from kvstore.client.embedded import EmbeddedClient
from kvstore.collector import collect_less

DEFAULT_URL = f"http://{LOCAL_SERVER}"
DEFAULT_HTTP = "127.0.0.1:8080"  # controller-runtime's port, on this machine only
STOP_TIMEOUT = 3.0  # seconds that reconciles in progress have to end

log = structlog.get_logger("controllers.cli")


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `run`, `run --nodes 5 --store ./data`, `run examples/website.py --reload`, "
    "`run --store etcd://127.0.0.1:2379`. In a second terminal: `listwatch apply -f examples/manifests`, "
    "`listwatch get pods -w`.",
)
@click.argument("files", nargs=-1, metavar="[FILE.py]...", type=click.Path(path_type=Path))
@click.option("--nodes", type=click.IntRange(0, 1000), default=3, show_default=True, help="How many simulated nodes.")
@click.option(
    "--stages",
    multiple=True,
    metavar="FILE|DIR|SET",
    help="How pods behave: stages in YAML, or a set: general (the ground), fast instead of it, chaos besides.",
)
@click.option(
    "--workloads/--no-workloads",
    default=None,
    help="Run the built-in controllers and the nodes.  [default: yes, but with FILE.py only on an embedded store]",
)
@click.option(
    "--leader-elect/--no-leader-elect",
    default=None,
    help="Act only while no other process does.  [default: yes, on servers; for FILE.py as its Manager says]",
)
@click.option("--reload", is_flag=True, help="For development: start anew when a Python file beside FILE.py changes.")
@click.option(
    "--listen-client-urls",
    "url",
    default=DEFAULT_URL,
    show_default=True,
    metavar="URL",
    help="Where an embedded store also listens, for other processes; empty for nowhere.",
)
@click.option(
    "--http",
    default=None,
    metavar="HOST:PORT",
    help=f"Where metrics, health and what `listwatch top` shows are; '' for nowhere.  [default: {DEFAULT_HTTP}]",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="A YAML file of settings.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="auto", help="auto: by whether it is a terminal.")
@global_options
@click.pass_obj
def run(
    settings: Settings,
    files: tuple[Path, ...],
    nodes: int,
    stages: tuple[str, ...],
    workloads: bool | None,
    leader_elect: bool | None,
    reload: bool,
    url: str,
    http: str | None,
    config: Path | None,
    log_level: str,
    log_format: LogFormat,
) -> None:
    """Run the reconcilers of FILE.py, or the built-in controllers of Kubernetes' workloads, a scheduler and simulated
    nodes, until Ctrl-C.

    A FILE.py has `manager = Manager()` at its top level. With an embedded store it also serves it, so that other
    terminals reach it.
    """
    configure_logs(log_level, log_format)
    if reload:
        if not files:
            raise click.UsageError("--reload is for FILE.py: name one")
        asyncio.run(_reload(files, settings))
        return
    address = _address(url)
    numbers = ManagerSettings.load(config)
    numbers = msgspec.structs.replace(numbers, http=(numbers.http or DEFAULT_HTTP) if http is None else http)
    try:
        check_stages(stages)
    except StageError as error:
        raise CliError(str(error)) from None
    plan = _Plan(load_managers(files), nodes, stages, workloads, leader_elect, numbers)
    try:
        asyncio.run(_run(settings, plan, address))
    except Exception as error:
        if (place := where(files, error)) is None:
            raise
        raise CliError(f"{place}: {type(error).__name__}: {error}") from error


class _Plan(NamedTuple):
    """What to run. workloads, leader_elect: None = as the store suggests."""

    managers: list[Manager]
    nodes: int
    stages: tuple[str, ...]
    workloads: bool | None
    leader_elect: bool | None
    settings: ManagerSettings

    def prepare(self, client: Client) -> tuple[list[Manager], Manager | None]:
        """All managers, on this client, and the one of the built-in controllers."""
        embedded = isinstance(client, EmbeddedClient)
        builtin = None
        if self.workloads if self.workloads is not None else embedded or not self.managers:
            elect = self.leader_elect if self.leader_elect is not None else not embedded
            election = "kube-system/listwatch-controllers" if elect else None
            builtin = Manager(leader_election=election, stop_timeout=STOP_TIMEOUT)
            builtin.use_client(client, self.settings)
            add_workloads(builtin, nodes=self.nodes, stages=self.stages)
        for n, manager in enumerate(self.managers):
            manager.use_client(client, self.settings)
            if self.leader_elect is False:
                manager.leader_election = None
            elif self.leader_elect and manager.leader_election is None:
                names = "-".join(sorted(manager.controller_names)) or f"manager-{n}"
                manager.leader_election = names
        # The built-in ones first: they are to be there when a reconciler begins, and are no user's to stop.
        return [*([builtin] if builtin else []), *self.managers], builtin


async def _reload(files: Sequence[Path], settings: Settings) -> None:
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--reload", "--reload=true")]
    main = asyncio.current_task()
    assert main is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, main.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await run_and_reload(arguments, files)


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


async def _run(settings: Settings, plan: _Plan, address: str | None) -> None:
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
        opened = open_store(
            settings.store or plan.settings.store or None,
            serve=address is not None,
            local=address or LOCAL_SERVER,
            connect_timeout=plan.settings.connect_timeout,
        )
        async with opened as client, contextlib.AsyncExitStack() as stack:
            managers, builtin = plan.prepare(client)
            collect_less()
            await _serve_http(managers, plan.settings, stack)
            for manager in managers:
                await stack.enter_async_context(manager)
            if builtin is not None:
                builtin.informer(Event).add_handler(_Tell(), name="tell")
            started = True
            names = sorted(name for manager in managers for name in manager.controller_names)
            log.info("running", controllers=names, nodes=plan.nodes if builtin else 0, stop="Ctrl-C")
            await _first([stop.wait(), *(manager.wait_stopped() for manager in plan.managers)])
            log.info("stopping")
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _serve_http(managers: Sequence[Manager], settings: ManagerSettings, stack: contextlib.AsyncExitStack) -> None:
    """Serve what all of them tell; a port that is taken is no reason not to run."""
    if not settings.http:
        return
    from controllers.endpoints import Endpoints, parse_address

    parse_address(settings.http)
    try:
        endpoints = await stack.enter_async_context(Endpoints(managers, settings.http, settings))
    except EndpointError as error:
        log.warning("endpoints_not_served", reason=str(error), hint="--http HOST:PORT chooses another address")
    else:
        log.info("endpoints_served", url=f"http://{endpoints.address}", paths="/metrics /healthz /readyz /statistics")


async def _first(waits: Sequence[Coroutine[Any, Any, object]]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


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
