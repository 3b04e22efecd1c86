"""`listwatch serve` for these tests: `python -m tests.robustness.server DIR OUTBOX_BYTES PROGRESS_SECONDS`.

The same server, with a failpoint if the environment names one, and settings that make rare things frequent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from kvstore.node import NodeOptions
from kvstore.server import ServeConfig, serve
from tests.robustness.failpoints import VARIABLE, Failpoint, install

READY = "ready "


class StartError(Exception):
    """The server ended before it answered; `returncode` is that of the process."""

    def __init__(self, returncode: int, said: str) -> None:
        super().__init__(returncode, said)  # as they are: an error of another process travels as its arguments
        self.returncode = returncode


@contextlib.asynccontextmanager
async def serving(
    data_dir: Path, *, outbox_bytes: int = 4 << 20, progress_interval: float = 600.0, failpoint: str = ""
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process, and its `HOST:PORT` once it answers; killed at the end if it still runs. Raises StartError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.robustness.server", str(data_dir), str(outbox_bytes), str(progress_interval)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, VARIABLE: failpoint},
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        if not line:
            _, said = await process.communicate()
            assert process.returncode is not None
            raise StartError(process.returncode, said.decode())
        yield process, line.removeprefix(READY).strip().removeprefix("http://")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def main() -> None:
    name, _, count = os.environ.get(VARIABLE, "").partition(":")
    if name:
        install(Failpoint(name, int(count)), random.Random(int(count)))
    options = NodeOptions(outbox_bytes=int(sys.argv[2]), progress_interval=float(sys.argv[3]))
    config = ServeConfig(Path(sys.argv[1]), ("http://127.0.0.1:0",), node=options)
    asyncio.run(serve(config, lambda server: print(READY + server.client_urls[0], flush=True)))


if __name__ == "__main__":
    main()
