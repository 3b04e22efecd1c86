"""`listwatch top`: on real processes, in a terminal, and what it makes of what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from rich.console import Console

from controllers.cli.top_sample import (
    Controller,
    Durations,
    Informer,
    Leader,
    Queue,
    Reflector,
    Report,
    Sample,
    Source,
    Store,
    store_of_metrics,
)
from controllers.cli.top_view import View, picture, view_of
from controllers.endpoints import Endpoints
from controllers.manager import Manager
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.cli.conftest import LISTWATCH, Background, Cli, environment
from tests.cli.test_processes import imported_by
from tests.etcd_process import free_port, running_etcd

Start = Callable[..., Background]


def shown(view: View, width: int = 120) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(picture(view))
    return capture.get()


def sample(at: float, revision: int, runs: int, pid: int = 1, **fields: object) -> Sample:
    controller = Controller(
        workers=2,
        active=1,
        outcomes={"success": runs, "error": 1},
        reconcile_seconds=Durations(counts=(runs, 1), sum=0.002 * (runs + 1)),
        queue=Queue(depth=3, waiting=2, retries=7, oldest_seconds=2.5),
    )
    store = Store("local", revision, 12_300_000, commits=revision // 2, watchers={"synced": 4, "pending_events": 5})
    return Sample(at, Report(pid=pid, controllers={"site": controller}, stores=[store]))


# ---- what it makes of two samples -----------------------------------------------------------------------------------


def test_rates_are_of_the_last_interval() -> None:
    view = view_of("http://a", sample(10, 100, 50), sample(12, 150, 90))
    (store,), (site,) = view.stores, view.controllers
    assert (view.seconds, store.changes, store.commits) == (2, 25, 12.5)
    assert (site.reconciles, site.outcomes["success"], site.outcomes["error"]) == (20, 40, 0)
    assert site.mean == pytest.approx(0.002)
    text = shown(view)
    assert "revision 150 +25.0/s  commits 12.5/s  size 12.3 MB" in text
    assert "watchers 4 synced, 5 events wait" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["site", "1/2", "20.0", "2ms", "40", "0", "0", "0", "0"] in rows
    assert ["site", "3", "2.5s", "2", "7"] in rows


@pytest.mark.parametrize(
    "before", [None, sample(10, 900, 500, pid=2), Sample(10, error="Connection refused")], ids=["first", "new", "away"]
)
def test_a_process_that_began_anew_has_no_rates_yet(before: Sample | None) -> None:
    view = view_of("http://a", before, sample(12, 150, 90))
    assert (view.stores[0].changes, view.stores[0].commits, view.controllers[0].reconciles) == (None, None, None)
    assert view.controllers[0].outcomes["success"] == 90
    assert " +-/s" in shown(view)


def test_what_is_not_well_comes_first() -> None:
    informers = {
        "a": Informer(reflector=Reflector(state="watching")),
        "b": Informer(lag=3.5, reflector=Reflector(state="resuming", behind=2)),
    }
    leaders = [Leader("default/a", True), Leader("default/b", holder="host-2"), Leader("default/c")]
    text = shown(view_of("http://a", None, Sample(0, Report(informers=informers, leaders=leaders))))
    lines = text.splitlines()
    rows = [line.split()[:2] for line in lines if line]
    assert rows.index(["b", "resuming"]) < rows.index(["a", "watching"])
    assert "leader of default/a this process" in lines
    assert "leader of default/b host-2, this process stands by" in lines
    assert "leader of default/c nobody yet, this process stands by" in lines


@pytest.mark.parametrize("width", [1, 5, 16, 33, 60, 90])
def test_no_number_is_cut_on_a_narrow_terminal(width: int) -> None:
    text = shown(view_of("http://a", sample(10, 100, 50), sample(12, 150, 1090)), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    cells = {cell for line in lines for cell in line.split() if cell.replace(".", "").isdigit()}
    assert cells <= {"150", "12.5", "25.0", "12.3", "4", "5", "520", "1040", "0", "3", "2", "7", "1"}


def test_a_manager_that_is_away_and_a_server_that_is_there() -> None:
    view = view_of("http://a", None, Sample(0, error="Connection refused", server=Store("http://s", 7)))
    assert shown(view).splitlines()[:2] == [
        "http://a  unreachable (Connection refused)",
        "store http://s  revision 7 +-/s  size 0 B",
    ]


# ---- what it reads --------------------------------------------------------------------------------------------------


async def test_what_a_manager_tells_is_what_is_read(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False)) as node, aiohttp.ClientSession() as session:
        client = EmbeddedClient(node)
        manager = Manager(client=client, leader_election="here")
        async with Endpoints([manager], "127.0.0.1:0") as served, manager:
            await manager.elected.wait()
            read = await Source(session, f"http://{served.address}", None).sample()
            wrong = await Source(session, f"http://{served.address}/healthz", f"http://{served.address}").sample()
            written = msgspec.json.decode(msgspec.json.encode(await served.report()))
        await client.close()
    assert read.report is not None
    assert (read.error, read.report.pid) == ("", os.getpid())
    assert read.report.stores[0].watchers == written["stores"][0]["watchers"]
    assert read.report.leaders == [Leader("default/here", True, written["leaders"][0]["holder"])]
    assert wrong.error.endswith("/healthz/statistics answered 404")
    assert wrong.server is not None
    assert wrong.server.error == "there are no metrics of an etcd"


def test_every_field_that_is_read_is_told() -> None:
    """A name that only one side knows would be shown as nothing."""
    from controllers import endpoints
    from controllers.controller import ControllerStatistics
    from controllers.leader import LeaderStatistics
    from controllers.workqueue import QueueStatistics
    from informer.cache import CacheStatistics
    from informer.machine import ReflectorStatistics
    from informer.shared import HandlerStatistics, InformerStatistics
    from kvstore import histogram

    from controllers.cli import top_sample as read  # isort: skip

    pairs = [
        (read.Report, endpoints.Report),
        (read.Store, endpoints.StoreReport),
        (read.Controller, ControllerStatistics),
        (read.Queue, QueueStatistics),
        (read.Durations, histogram.Durations),
        (read.Informer, InformerStatistics),
        (read.Reflector, ReflectorStatistics),
        (read.Cache, CacheStatistics),
        (read.HandlerCounts, HandlerStatistics),
        (read.Leader, LeaderStatistics),
    ]
    for reader, writer in pairs:
        assert set(reader.__struct_fields__) <= set(writer.__struct_fields__), reader


def test_the_metrics_of_a_real_etcd_and_of_ours(tmp_path: Path, process: Cli, background: Start) -> None:
    port = free_port()
    background("serve", "--data-dir", tmp_path / "d", "--listen-client-urls", "http://127.0.0.1:0",
               "--listen-metrics-urls", f"http://127.0.0.1:{port}").line("on http://")  # fmt: skip
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd") as endpoint:
        for url in (f"http://127.0.0.1:{port}", f"http://{endpoint}"):
            done = process("top", "--server", url, "--once", "--interval", "0.1", "-o", "json")
            assert (done.code, done.err) == (0, "")
            told = json.loads(done.out)
            (store,) = told["stores"]
            assert (told["manager"], store["name"], store["revision"], store["changes"]) == ("", url, 1, 0)
            assert store["watchers"]["synced"] == 0
            assert store["db_size"] > 0
    with pytest.raises(KeyError):
        store_of_metrics("x", "a 1\n")


# ---- as a process ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a `listwatch run`."""
    home = tmp_path_factory.mktemp("run")
    running = Background(home, "run", "--nodes", "1", "--store", home / "store", "--listen-client-urls", "",
                         "--http", "127.0.0.1:0", "--log-format", "logfmt")  # fmt: skip
    url = running.line("event=endpoints_served url=([^ ]+)")[1]
    running.line("event=running")
    yield url
    running.close()


def test_once_and_for_programs(process: Cli, manager: str) -> None:
    done = process("top", "--manager", manager, "--once", "--interval", "0.1")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].startswith(f"{manager}  process ")
    assert done.lines[1].startswith("store local  revision ")
    assert any(line.startswith("deployment ") for line in done.lines)
    told = json.loads(process("top", "--manager", manager, "--once", "--interval", "0.1", "-o", "json").out)
    assert {each["state"] for each in told["informers"]} == {"watching"}
    assert told["stores"][0]["changes"] is not None


def test_it_finds_what_the_environment_names_and_loads_no_controllers(process: Cli, manager: str) -> None:
    address = manager.removeprefix("http://")
    assert process("top", "--once", "--interval", "0.1", LISTWATCH_HTTP=address).lines[0].startswith(manager)
    assert not {"informer", "controllers.manager", "grpc", "rich.live"} & imported_by("top", "--help")


def test_nobody_there(process: Cli) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = process("top", "--manager", url, "--once")
    assert (done.code, done.out, done.err) == (1, "", f"error: {url}: Connection refused\n")
    assert process("top", "--manager", "a:b:c", "--once").code == 2
    assert process("top", "--interval", "0").code == 2


def test_a_port_that_is_taken_is_told_and_run_goes_on(background: Start, manager: str, tmp_path: Path) -> None:
    second = background("run", "--nodes", "1", "--store", tmp_path / "other", "--listen-client-urls", "",
                        "--http", manager.removeprefix("http://"), "--log-format", "logfmt")  # fmt: skip
    second.line("event=endpoints_not_served .*the port is in use")
    second.line("event=running")
    assert second.interrupt() == 0


RECONCILER = """
from controllers import Manager
from informer import Resource

class Greeting(Resource, group="example.com", version="v1"): ...

manager = Manager()
other = Manager(stop_timeout=1)

@manager.reconciler(Greeting)
@other.reconciler(Greeting, workers=2)
async def greet(ctx, request): ...
"""


def test_run_gives_its_settings_to_every_manager_and_warns_once(
    background: Start, process: Cli, tmp_path: Path
) -> None:
    (tmp_path / "greet.py").write_text(RECONCILER)
    (tmp_path / "s.yaml").write_text("workers: 7\nhttp: 127.0.0.1:0\n")
    running = background("run", "greet.py", "--no-workloads", "--config", "s.yaml", "--store", tmp_path / "store",
                         "--listen-client-urls", "", "--log-format", "logfmt",
                         LISTWATCH_WORKER="3", LISTWATCH_HANDLER_QUEUE_LIMIT="64")  # fmt: skip
    url = running.line("event=endpoints_served url=([^ ]+)")[1]
    running.line("event=running")
    told = json.loads(process("top", "--manager", url, "--once", "--interval", "0.1", "-o", "json").out)
    assert {each["name"]: each["workers"] for each in told["controllers"]} == {"greeting": 7, "greeting #2": 2}
    assert running.interrupt() == 0
    (warning,) = (line for line in running.seen if "settings_unknown" in line)
    assert "did you mean LISTWATCH_WORKERS?" in warning


def test_a_bad_file_of_settings_is_one_line(process: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("stop_timeout: soon\n")
    done = process("run", "--config", "s.yaml", "--store", tmp_path / "store")
    expected = "error: stop_timeout (s.yaml): expected a number of seconds, at least 0, got 'soon'\n"
    assert (done.code, done.err) == (1, expected)


class Terminal:
    """`listwatch top` on a terminal of its own."""

    def __init__(self, home: Path, *arguments: str, columns: int = 100) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        variables = {name: value for name, value in environment(home).items() if name != "COLUMNS"}
        self.process = subprocess.Popen(
            [LISTWATCH, "top", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=home,
            env=variables | {"TERM": "xterm-256color"}, start_new_session=True,
        )  # fmt: skip
        self.text = ""

    def until(self, wanted: str, patience: float = 20) -> None:
        deadline = time.monotonic() + patience
        while wanted not in self.text:
            assert select.select([self._ours], [], [], deadline - time.monotonic())[0], self.text[-2000:]
            self.text += os.read(self._ours, 65536).decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> int:
        """The exit code; the terminal is as it was before."""
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._ours], [], [], 0.05)[0]:
                self.text += os.read(self._ours, 65536).decode(errors="replace")
        code = self.process.wait(1)
        assert termios.tcgetattr(self._theirs) == self.before
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextlib.contextmanager
def terminal(home: Path, *arguments: str, columns: int = 100) -> Iterator[Terminal]:
    opened = Terminal(home, *arguments, columns=columns)
    try:
        yield opened
    finally:
        opened.end()


def test_live_it_survives_the_manager_and_ends_with_q(background: Start, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    run = ("run", "--nodes", "1", "--store", tmp_path / "store", "--listen-client-urls", "", "--http", address)
    with terminal(tmp_path, "--manager", address, "--interval", "0.1") as screen:
        screen.until("unreachable")
        first = background(*run)
        screen.until(f"process {first.process.pid}")
        assert first.interrupt() == 0
        screen.text = ""
        screen.until("unreachable")
        second = background(*run)
        screen.until(f"process {second.process.pid}")
        screen.type("q")
        assert screen.close() == 0
        assert "\x1b[?1049l" in screen.text  # the screen as it was before


def test_it_ends_with_ctrl_c_also_on_a_tiny_terminal(tmp_path: Path, manager: str) -> None:
    with terminal(tmp_path, "--manager", manager, "--interval", "0.1", columns=10) as screen:
        screen.until("\x1b[")
        screen.until("http")
        screen.process.send_signal(signal.SIGINT)
        assert screen.close() == 0
        assert "Traceback" not in screen.text


def test_a_pipe_gets_a_block_each_interval(background: Start, manager: str) -> None:
    top = background("top", "--manager", manager, "--interval", "0.1")
    for _ in range(3):
        top.line(f"^{manager}  process ")
    assert top.interrupt() == 0
    lines = background("top", "--manager", manager, "--interval", "0.1", "-o", "json")
    lines.line(r"^\{.*\}$")
    lines.line(r"^\{.*\}$")
    assert lines.interrupt() == 0


async def test_an_answer_without_end_is_cut_off() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" " * 65536)
                await writer.drain()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server, aiohttp.ClientSession() as session:
        port = server.sockets[0].getsockname()[1]
        told = await Source(session, f"http://127.0.0.1:{port}", None).sample()
    assert "told more than" in told.error or "no answer within" in told.error
