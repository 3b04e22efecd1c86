"""The seven steps of docs/reconcilers.md, from an empty directory to an elected operator on an etcd cluster."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import LISTWATCH, ROOT, Background, environment
from tests.cluster.members import running_cluster
from tests.etcd_process import free_port

GUIDE = (ROOT / "docs" / "reconcilers.md").read_text()
BLOCKS = dict(re.findall(r"^```\w+ title=(\S+)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE))
SERVED = "127.0.0.1:2379"  # in the guide; the test uses free ports

Start = Callable[..., Background]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with the files of the guide, which the steps run in."""
    for name, text in BLOCKS.items():
        if "." in name:
            (tmp_path / name).write_text(text)
    return tmp_path


def lines(step: str) -> Iterator[list[str]]:
    """The commands of a step, without their program."""
    for line in BLOCKS[step].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "listwatch"
        yield arguments


def call(here: Path, *arguments: str, store: str) -> str:
    done = subprocess.run(
        [LISTWATCH, *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        cwd=here,
        env=environment(here) | {"LISTWATCH_STORE": store},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
    return done.stdout


def use(here: Path, store: str) -> None:
    said = [call(here, *arguments, store=store) for arguments in lines("use")]
    assert said[0] == "site.example.com/hello created\n"
    assert "condition met" in said[1]
    assert "deployment.apps/hello" in said[2]
    assert "DeploymentCreated" in said[3]


def test_run_and_use_it(background: Start, here: Path) -> None:
    port = free_port()
    (arguments,) = lines("run")
    serve = ["--store", str(here / "data"), "--listen-client-urls", f"http://127.0.0.1:{port}"]
    running = background(*arguments, *serve)
    running.line("event=running")
    use(here, f"etcd://127.0.0.1:{port}")
    assert running.interrupt(timeout=10) == 0


def test_its_test_passes(here: Path) -> None:
    python, *arguments = shlex.split(BLOCKS["test"])
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments, "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=here,
        env=environment(here) | {"PYTHONWARNINGS": ""},  # pytest's plugins have some of their own
        check=False,
    )
    assert done.returncode == 0, done
    assert "1 passed" in done.stdout


def test_serve_it_and_let_one_lead(background: Start, here: Path) -> None:
    port = free_port()
    store = f"etcd://127.0.0.1:{port}"

    def here_served(arguments: list[str]) -> list[str]:
        return [argument.replace(SERVED, f"127.0.0.1:{port}") for argument in arguments]

    serve, workloads = lines("serve")
    server = background(*serve, "--listen-client-urls", f"http://127.0.0.1:{port}")
    server.line("on http://127.0.0.1:")
    builtin = background(*here_served(workloads))
    builtin.line("event=running")
    first, second = [background(*here_served(arguments)) for arguments in lines("lead")]
    first.line("event=(leader_elected|leader_is_another)")
    second.line("event=(leader_elected|leader_is_another)")
    use(here, store)
    leader, other = (first, second) if any("leader_elected" in line for line in first.seen) else (second, first)
    assert re.search(r"^site +\S+", call(here, "get", "leases", store=store), re.MULTILINE)
    assert leader.interrupt(timeout=10) == 0
    other.line("event=leader_elected")
    other.process.send_signal(signal.SIGKILL)


async def test_on_a_cluster(background: Start, here: Path, tmp_path: Path) -> None:
    (arguments,) = lines("cluster")

    def steps(store: str) -> None:
        arguments[arguments.index("--store") + 1] = store
        running = background(*arguments, "--workloads")
        running.line("event=running")
        use(here, store)
        assert running.interrupt(timeout=10) == 0

    (tmp_path / "cluster").mkdir()
    async with running_cluster(tmp_path / "cluster") as cluster:
        # In a thread: the members' traffic goes through proxies on this loop.
        await asyncio.to_thread(steps, "etcd://" + ",".join(member.endpoint for member in cluster.members))
