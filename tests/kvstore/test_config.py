"""Settings by etcd's names: flags, environment, file, their order and their errors; and auto compaction."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from structlog.testing import capture_logs

from controllers.cli.serve import serve as serve_command
from kvstore.api import Put
from kvstore.autocompact import HOUR
from kvstore.client import EmbeddedClient, RemoteClient
from kvstore.errors import KvError
from kvstore.node import Node, NodeOptions
from kvstore.server import AutoCompaction, LogConfig, ServeConfig, Server, ServerTLS, serve
from kvstore.server.settings import CONFIG_FILE, SETTINGS, SettingError, load_config, parse_duration

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
DATA = {"data-dir": "/d"}


# ---- where settings come from ---------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_dataclasses() -> None:
    assert load_config(DATA, {}) == ServeConfig(Path("/d"))


def test_a_flag_wins_over_its_variable() -> None:
    environ = {"ETCD_NAME": "by-variable", "ETCD_MAX_TXN_OPS": "7", "ETCD_UNRELATED": "x"}
    config = load_config(DATA | {"name": "by-flag"}, environ)
    assert config.node.name == "by-flag"
    assert config.node.max_txn_ops == 7


def test_everything_at_once() -> None:
    flags = {
        "data-dir": "/d",
        "name": "m1",
        "listen-client-urls": "https://127.0.0.1:1, http://[::1]:2",
        "advertise-client-urls": "https://a.example:1",
        "listen-client-http-urls": "http://127.0.0.1:3",
        "listen-metrics-urls": "http://127.0.0.1:4,http://127.0.0.1:5",
        "cert-file": "c",
        "key-file": "k",
        "trusted-ca-file": "a",
        "client-cert-auth": "true",
        "quota-backend-bytes": "1000000",
        "max-request-bytes": "10",
        "max-txn-ops": "11",
        "max-concurrent-streams": "4294967295",  # etcd's default, more than gRPC in Python takes
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": "1000",
        "watch-progress-notify-interval": "1m30s",
        "auth-token": "simple",
        "auth-token-ttl": "60",
        "bcrypt-cost": "4",
        "auto-disarm": "true",
        "log-level": "warn",
        "log-format": "json",
        "log-outputs": "/var/log/x",
    }
    assert flags.keys() == {setting.name for setting in SETTINGS}
    expected = ServeConfig(
        Path("/d"),
        listen_client_urls=("https://127.0.0.1:1", "http://[::1]:2"),
        advertise_client_urls=("https://a.example:1",),
        listen_client_http_urls=("http://127.0.0.1:3",),
        listen_metrics_urls=("http://127.0.0.1:4", "http://127.0.0.1:5"),
        max_concurrent_streams=2**31 - 1,
        tls=ServerTLS(Path("c"), Path("k"), Path("a"), client_cert_auth=True),
        auto_compaction=AutoCompaction("revision", 1000),
        log=LogConfig("warn", "json", "/var/log/x"),
        node=NodeOptions(
            name="m1",
            max_txn_ops=11,
            max_request_bytes=10,
            quota_bytes=1_000_000,
            progress_interval=90.0,
            bcrypt_cost=4,
            auth_token_ttl=60.0,
            auto_disarm=True,
        ),
    )
    assert load_config(flags, {}) == expected
    environ = {"ETCD_" + name.upper().replace("-", "_"): value for name, value in flags.items()}
    assert load_config({}, environ) == expected


def test_the_older_name_of_a_setting() -> None:
    name = "experimental-watch-progress-notify-interval"
    assert load_config(DATA | {name: "5s"}, {}).node.progress_interval == 5.0
    environ = {"ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL": "6s"}
    assert load_config(DATA, environ).node.progress_interval == 6.0
    environ["ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL"] = "7s"
    assert load_config(DATA, environ).node.progress_interval == 7.0


FILE = """
# As etcd's own sample has it, with much that is for clusters.
name: 'from-file'
data-dir: /from/file
wal-dir:
snapshot-count: 10000
quota-backend-bytes: 5000000
listen-peer-urls: http://localhost:2380
listen-client-urls: http://127.0.0.1:2379,http://127.0.0.1:4001
advertise-client-urls: http://localhost:2379
initial-cluster-state: 'new'
client-transport-security:
  cert-file: c.pem
  key-file: k.pem
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
peer-transport-security:
  cert-file: peer.pem
log-level: debug
log-outputs: [stderr]
auto-compaction-mode: periodic
auto-compaction-retention: "1"
experimental-watch-progress-notify-interval: 30000000000
"""


def test_a_file_in_etcds_form(tmp_path: Path) -> None:
    file = tmp_path / "etcd.yaml"
    file.write_text(FILE)
    expected = ServeConfig(
        Path("/from/file"),
        listen_client_urls=("http://127.0.0.1:2379", "http://127.0.0.1:4001"),
        advertise_client_urls=("http://localhost:2379",),
        tls=ServerTLS(Path("c.pem"), Path("k.pem")),
        auto_compaction=AutoCompaction("periodic", HOUR),
        log=LogConfig("debug"),
        node=NodeOptions(name="from-file", quota_bytes=5_000_000, progress_interval=30.0),
    )
    # As in etcd, nothing else counts beside a file.
    assert load_config({"config-file": str(file), "name": "by-flag"}, {"ETCD_MAX_TXN_OPS": "5"}) == expected
    assert load_config({}, {"ETCD_CONFIG_FILE": str(file)}) == expected


def test_what_a_file_has_in_vain_is_said(tmp_path: Path) -> None:
    file = tmp_path / "etcd.yaml"
    file.write_text(FILE)
    with capture_logs() as said:
        load_config({"config-file": str(file), "name": "by-flag"}, {})
    unknown, ignored = sorted(said, key=lambda line: line["event"], reverse=True)
    assert (ignored["event"], ignored["settings"]) == ("settings_ignored", ["name"])
    assert unknown["event"] == "settings_unknown"
    assert unknown["settings"] == [
        "client-transport-security.auto-tls",
        "initial-cluster-state",
        "listen-peer-urls",
        "peer-transport-security",
        "snapshot-count",
        "wal-dir",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not YAML"),
        ("- a", "expected `name: value` lines"),
        ("client-transport-security: x", "is no section"),
        ("name: x", "Missing option '--data-dir'"),
        ("data-dir: /d\nmax-txn-ops: many", "--max-txn-ops: expected a whole number from 1 on, got 'many'"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "etcd.yaml"
    file.write_text(text)
    with pytest.raises(SettingError) as caught:
        load_config({"config-file": str(file)}, {})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match="No such file"):
        load_config({"config-file": str(tmp_path / "none")}, {})


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"quota-backend-bytes": "-1"}, "--quota-backend-bytes: expected a whole number from 0 on, got '-1'"),
        ({"max-request-bytes": "0"}, "--max-request-bytes: expected a whole number from 1 on"),
        ({"max-txn-ops": "9" * 30}, "--max-txn-ops"),
        ({"max-txn-ops": ""}, "--max-txn-ops"),
        ({"bcrypt-cost": "32"}, "--bcrypt-cost: expected a whole number from 4 to 31, got '32'"),
        ({"listen-client-urls": " , "}, "--listen-client-urls names no URL"),
        ({"listen-metrics-urls": "http://127.0.0.1:2379"}, "--listen-metrics-urls needs a port of its own"),
        ({"watch-progress-notify-interval": "10"}, "expected a duration such as 90s, 10m or 1h30m, got '10'"),
        ({"watch-progress-notify-interval": "0s"}, "expected a time above 0"),
        ({"auto-compaction-mode": "daily", "auto-compaction-retention": "1"}, "expected periodic or revision"),
        ({"auto-compaction-retention": "soon"}, "--auto-compaction-retention: expected a duration"),
        ({"auto-compaction-retention": "10ms"}, "expected at least 1s"),
        ({"auto-compaction-mode": "revision", "auto-compaction-retention": "1h"}, "expected a whole number"),
        ({"auth-token": "jwt,sign-method=RS256"}, "--auth-token: only simple tokens are made here, got 'jwt,sign-"),
        ({"cert-file": "c"}, "--key-file is missing"),
        ({"key-file": "k"}, "--cert-file is missing"),
        ({"trusted-ca-file": "a"}, "need --cert-file and --key-file"),
        ({"cert-file": "c", "key-file": "k", "client-cert-auth": "true"}, "needs --trusted-ca-file"),
        ({"client-cert-auth": "perhaps"}, "expected one of true, false"),
        ({"log-level": "loud"}, "--log-level: expected one of debug"),
        ({"log-format": "xml"}, "--log-format"),
        ({"log-outputs": "stdout,stderr"}, "expected one output"),
    ],
)
def test_settings_that_cannot_be(flags: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_config(DATA | flags, {})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "retention", "expected"),
    [
        ("periodic", "0", None),
        ("periodic", "", None),
        ("periodic", "0s", None),
        ("periodic", "8", AutoCompaction("periodic", 8 * HOUR)),
        ("periodic", "30m", AutoCompaction("periodic", 1800.0)),
        ("periodic", "72h", AutoCompaction("periodic", 72 * HOUR)),
        ("revision", "0", None),
        ("revision", "1000", AutoCompaction("revision", 1000)),
    ],
)
def test_what_auto_compaction_keeps(mode: str, retention: str, expected: AutoCompaction | None) -> None:
    flags = {"auto-compaction-mode": mode, "auto-compaction-retention": retention}
    assert load_config(DATA | flags, {}).auto_compaction == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("200ms", 0.2),
        ("1m0.5s", 60.5),
        ("0", 0.0),
        ("5000ns", 5e-6),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("logs_as_before")
def test_the_command_has_every_setting(tmp_path: Path) -> None:
    shown = CliRunner().invoke(serve_command, ["--help"], terminal_width=200).output
    for setting in (*SETTINGS, CONFIG_FILE):
        assert f"--{setting.name}" in shown
        assert f"env {setting.variable}" in shown
    file = tmp_path / "file"
    file.write_text("")
    for arguments, says in (
        (["--data-dir", "d", "--max-txn-ops", "x"], "--max-txn-ops: expected a whole number"),
        ([], "Missing option '--data-dir'"),
        (["--data-dir", "d", "--client-cert-auth=true"], "need --cert-file and --key-file"),
        (["--config-file", str(file)], "expected `name: value` lines"),
    ):
        result = CliRunner().invoke(serve_command, arguments)
        assert result.exit_code == 2
        assert says in result.output


def test_the_guide_has_every_setting() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `--")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    told = {row[0].split("`")[1]: row for row in cells}
    assert told.keys() == {f"--{setting.name}" for setting in (*SETTINGS, CONFIG_FILE)}
    for setting in (*SETTINGS, CONFIG_FILE):
        _, variable, unit, default, _ = told[f"--{setting.name}"]
        assert variable == f"`{setting.variable}`"
        assert unit == setting.unit
        assert default == (f"`{setting.default}`" if setting.default else "")


@asynccontextmanager
async def serving(config: ServeConfig) -> AsyncIterator[Server]:
    """`serve` in a task of this loop."""
    ready: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(config, ready.set_result))
    try:
        first: list[asyncio.Future[Any]] = [task, ready]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield ready.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_process_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from controllers.cli import main; main()",
        "serve",
        *("--data-dir", str(tmp_path / "d"), "--listen-client-urls", "http://127.0.0.1:0"),
        *("--listen-metrics-urls", "http://127.0.0.1:0", "--log-outputs", str(log), "--log-format=json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"serving .* on http://127.0.0.1:(\d+), http://127.0.0.1:(\d+), Ctrl-C stops\n", line)
        assert found is not None, line
        async with RemoteClient([f"127.0.0.1:{found[1]}"]) as client:
            await client.compact((await client.put(b"a", b"1")).header.revision)
            with pytest.raises(KvError):
                await client.put(b"", b"1")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            rest, errors = await process.communicate()
        assert (process.returncode, rest, errors) == (0, b"stopped\n", b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert all(json.loads(line)["level"] for line in log.read_text().splitlines())


async def test_what_serve_makes_of_them(tmp_path: Path) -> None:
    config = load_config(
        {
            "data-dir": str(tmp_path),
            "listen-client-urls": "http://127.0.0.1:0",
            "advertise-client-urls": "http://etcd.example:2379",
            "name": "m1",
            "auto-compaction-retention": "1h",
        },
        {},
    )
    async with serving(config) as server:
        async with RemoteClient(server.client_urls) as client:
            (member,) = (await client.member_list()).members
            assert (member.name, member.client_urls) == ("m1", ["http://etcd.example:2379"])
        assert [task for task in asyncio.all_tasks() if task.get_name() == "auto compaction"]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "auto compaction"]


# ---- auto compaction ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def compacting(directory: Path, mode: AutoCompaction, put_every: float) -> AsyncIterator[Node]:
    """A node that compacts itself, and a key that is written every `put_every` seconds."""
    options = NodeOptions(fsync=False, inline_commits=True)
    async with Node.open(directory, options) as node:
        tasks = [asyncio.create_task(mode.run(node)), asyncio.create_task(writing(node, put_every))]
        try:
            yield node
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def writing(node: Node, every: float) -> None:
    for number in itertools.count():
        await node.put(Put(b"k", b"%d" % number))
        await asyncio.sleep(every)


@pytest.mark.virtual_time
async def test_periodic_keeps_the_period(tmp_path: Path) -> None:
    async with compacting(tmp_path / "n", AutoCompaction("periodic", 600.0), put_every=1.0) as node:
        await asyncio.sleep(590)
        assert node.compacted == -1
        await asyncio.sleep(30)  # 620: compacted to what was the revision ten minutes before
        assert 0 < node.compacted <= 25
        for _ in range(20):
            await asyncio.sleep(600)
            behind = node.revision - node.compacted
            assert 540 <= behind <= 1300  # what is younger than the period stays


@pytest.mark.virtual_time
async def test_a_long_period_is_compacted_every_hour(tmp_path: Path) -> None:
    async with compacting(tmp_path / "n", AutoCompaction("periodic", 5 * HOUR), put_every=10.0) as node:
        await asyncio.sleep(5 * HOUR - 5)
        assert node.compacted == -1
        steps = []
        for _ in range(6):
            await asyncio.sleep(HOUR)
            steps.append(node.compacted)
            assert node.revision - node.compacted >= 5 * 360 - 40
        growth = [later - earlier for earlier, later in itertools.pairwise(steps)]
        assert all(300 <= grown <= 400 for grown in growth), growth


@pytest.mark.virtual_time
async def test_by_revisions(tmp_path: Path) -> None:
    async with compacting(tmp_path / "n", AutoCompaction("revision", 1000), put_every=1.0) as node:
        await asyncio.sleep(901)
        assert node.compacted == -1  # fewer than that were written
        await asyncio.sleep(300)
        compacted = node.compacted
        assert 150 <= compacted <= 210
        await asyncio.sleep(290)
        assert node.compacted == compacted  # it looks every five minutes
        await asyncio.sleep(20)
        assert node.compacted == compacted + 300


@pytest.mark.virtual_time
async def test_an_idle_store_and_one_compacted_by_hand(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "n", NodeOptions(fsync=False, inline_commits=True)) as node:
        for mode in (AutoCompaction("periodic", 60.0), AutoCompaction("revision", 1)):
            task = asyncio.create_task(mode.run(node))
            await asyncio.sleep(2000)
            assert not task.done()
            client = EmbeddedClient(node)
            for _ in range(5):
                response = await client.put(b"a", b"1")
            await client.compact(response.header.revision)
            await asyncio.sleep(2000)
            assert not task.done()
            task.cancel()
            await asyncio.wait([task])
