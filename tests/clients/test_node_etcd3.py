"""The npm package etcd3, unmodified; what it does is in `node_etcd3_session.js`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.api import Put
from kvstore.node import Node, NodeOptions
from kvstore.server import Server
from tests.etcd_process import free_port

NODE, NPM = shutil.which("node"), shutil.which("npm")
PACKAGE = "etcd3@1.1.2"
KEPT = Path(sys.prefix) / "npm" / PACKAGE  # beside the Python packages, so that it is installed only once

pytestmark = [
    pytest.mark.skipif(NODE is None or NPM is None, reason="needs node and npm"),
    pytest.mark.timeout(180),  # the first time npm has to fetch it
]


@pytest.fixture(scope="session")
def installed() -> Path:
    """The directory that the package is installed in."""
    if not KEPT.is_dir():
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT.parent) as directory:
            _install(Path(directory))
            # Another worker may have been faster; its one is as good.
            with contextlib.suppress(OSError):
                (Path(directory) / "package").rename(KEPT)
    return KEPT


def _install(directory: Path) -> None:
    package = directory / "package"
    package.mkdir()
    assert NPM is not None
    done = subprocess.run(
        [NPM, "install", "--no-audit", "--no-fund", "--prefix", str(package), PACKAGE],
        cwd=package,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextlib.asynccontextmanager
async def session(installed: Path, port: int, part: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process; that it ends well is checked when the block is left."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE,
        str(Path(__file__).with_name("node_etcd3_session.js")),
        f"127.0.0.1:{port}",
        part,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"NODE_PATH": str(installed / "node_modules")},
    )
    try:
        async with asyncio.timeout(40):
            yield process
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert (process.returncode, out) == (0, b"done\n"), err.decode()


@pytest.mark.parametrize("part", ["session", "user"])
async def test_a_session(installed: Path, port: int, part: str) -> None:
    async with session(installed, port, part):
        pass


async def test_a_watch_goes_on_after_a_restart(installed: Path, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = NodeOptions(fsync=False)
    async with contextlib.AsyncExitStack() as stack:
        async with Node.open(tmp_path / "node", options) as node, Server(node, [url]):
            process = await stack.enter_async_context(session(installed, port, "restart"))
            assert process.stdout is not None
            assert await process.stdout.readline() == b"watching\n"
        async with Node.open(tmp_path / "node", options) as node:
            await node.put(Put(b"r", b"2"))  # while nobody can be told
            async with Server(node, [url]):
                await node.put(Put(b"r", b"3"))
                await stack.aclose()
