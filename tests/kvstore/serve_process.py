"""A server of ours as a process of its own; `python -m tests.kvstore.serve_process DIR URL` is what it runs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from kvstore.errors import DataDirError
from kvstore.server import ListenError, ServeConfig, serve

READY = "ready "


@contextlib.asynccontextmanager
async def serving(
    data_dir: Path, url: str = "http://127.0.0.1:0"
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process, and its `HOST:PORT` once it answers. Killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.kvstore.serve_process",
        str(data_dir),
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield process, line.removeprefix(READY).strip().removeprefix("http://")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def main() -> None:
    config = ServeConfig(Path(sys.argv[1]), (sys.argv[2],))
    try:
        asyncio.run(serve(config, lambda server: print(READY + server.client_urls[0], flush=True)))
    except (DataDirError, ListenError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
