"""etcdctl as others use Go's client: every command has a test somewhere, and a watch outlives the server."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from kvstore.node import Node, NodeOptions
from kvstore.server import Server
from tests.clients.etcdctl_commands import COMMANDS, differences
from tests.etcd_process import ETCDCTL, free_port
from tests.kvstore.test_etcdctl import TIMEOUT, Etcdctl

TESTS = [
    Path(__file__).parents[1] / "kvstore" / name
    for name in ("test_etcdctl.py", "test_auth_etcdctl.py", "test_connections.py", "test_etcd_snapshot.py")
]

NOT_COMPARED = {
    "check perf": "a minute of load; `python -m tests.clients.check_perf` runs it",
    "help": "asks no server",
}


def commands() -> list[str]:
    shown = subprocess.run([str(ETCDCTL), "help"], capture_output=True, text=True, timeout=20, check=True).stdout
    listed = shown.partition("COMMANDS:\n")[2].partition("\n\n")[0]
    return [line.split("\t")[1] for line in listed.splitlines()]


def test_every_command_is_compared() -> None:
    text = "\n".join(test.read_text() for test in TESTS)
    words = {name: [re.escape(word) for word in name.split()] for name in commands()}
    # As the words of one string, or as strings one after the other, perhaps behind what fills in a user.
    missing = {
        name
        for name, parts in words.items()
        if not re.search(r'["} ]' + r'(?: |", ?")'.join(parts) + r'["\\ ]', text) and name not in NOT_COMPARED
    }
    assert not missing
    assert len(words) > 40
    assert set(words) >= set(NOT_COMPARED)


async def test_commands_end_as_on_etcd() -> None:
    """Some of them, in one format; the module's own entry runs all in every format."""
    assert await differences("fields", COMMANDS[::4]) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["get"],
        ["get", "a", "--limit=many"],
        ["compaction", "nonsense"],
        ["lease", "grant", "nonsense"],
        ["lease", "revoke", "nonsense"],
        ["member", "remove", "not hexadecimal"],
        ["put", "a", "1", "--lease=123"],
        ["put", "a", "1", "--ignore-value"],
        ["put", ""],
        ["get", ""],
        ["get", "a", "--rev=1000000"],
        ["compaction", "1000000"],
        ["watch", "b", "a"],
    ],
    ids=" ".join,
)
async def test_what_fails_fails_alike(port: int, etcd: str, arguments: list[str]) -> None:
    said = []
    for endpoint in (f"127.0.0.1:{port}", etcd):
        code, out = await Etcdctl(endpoint)(*arguments)
        said.append((code, re.sub(r'^{"level".*}\n', "", out, flags=re.MULTILINE)))
    assert said[0] == said[1]
    assert said[0][0] != 0


async def test_a_lock_is_handed_on(port: int) -> None:
    ctl = Etcdctl(f"127.0.0.1:{port}")
    async with ctl.started("lock", "{p}lock") as holder, asyncio.timeout(TIMEOUT):
        assert holder.stdout is not None
        assert (await holder.stdout.readline()).decode().startswith(f"{ctl.prefix}lock/")
        waiter = asyncio.create_task(ctl("lock", "{p}lock", "/bin/echo", "next"))
        while (await ctl("get", "{p}lock", "--prefix", "--keys-only"))[1].count("{p}") < 2:
            pass
        holder.terminate()
        assert await waiter == (0, "next\n")


async def test_a_watch_goes_on_after_a_restart(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ctl = Etcdctl(url.removeprefix("http://"))
    options = NodeOptions(fsync=False)
    async with Node.open(tmp_path / "node", options) as node, Server(node, [url]):
        process_context = ctl.started("watch", "{p}a", "--rev=1")
        process = await process_context.__aenter__()
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            assert (await ctl("put", "{p}a", "1"))[0] == 0
            assert [await process.stdout.readline() for _ in range(3)][2] == b"1\n"
    try:
        async with Node.open(tmp_path / "node", options) as node, Server(node, [url]), asyncio.timeout(TIMEOUT):
            assert (await ctl("put", "{p}a", "2"))[0] == 0
            assert [await process.stdout.readline() for _ in range(3)][2] == b"2\n"
    finally:
        await process_context.__aexit__(None, None, None)
