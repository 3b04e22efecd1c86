"""`listwatch run --reload`: a process that runs the command anew when a Python file beside the reconcilers changes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

LOOK_EVERY = 0.3  # seconds
STOP_TIMEOUT = 10.0  # seconds that the old process has to end
MOST_FILES = 5_000  # of a directory tree: more are not a project but a home directory
_SKIPPED = {"__pycache__", "node_modules"}

log = structlog.get_logger("controllers.cli")

Snapshot = dict[Path, tuple[int, int]]


async def run_and_reload(arguments: Sequence[str], files: Sequence[Path]) -> None:
    """Run `listwatch ARGUMENTS` in a process, and again whenever a Python file of the files' directories changes.

    A process that ends by itself, say from a mistake in a file, is started again at the next change. Cancelling it
    stops the process, twice without waiting for what is in progress there, three times at once.
    """
    roots = sorted({file.resolve().parent for file in files})
    seen = look(roots)
    process: asyncio.subprocess.Process | None = None
    try:
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "from controllers.cli import main; main()",
                *arguments,
                # A group of its own: a terminal's Ctrl-C would be its first signal, and ours the second, which it takes
                # for impatience.
                process_group=0,
            )
            ended = asyncio.create_task(process.wait())
            try:
                told = False
                while (now := look(roots)) == seen:
                    if ended.done() and not told:
                        told = True
                        log.warning("ended", exit_code=process.returncode, waiting="for a change")
                    await asyncio.sleep(LOOK_EVERY)
            finally:
                await stop(process)
            changed = sorted(str(path) for path in {*now, *seen} if now.get(path) != seen.get(path))
            log.info("reloading", changed=changed[:5])
            seen = now
    finally:
        if process is not None and process.returncode is None:
            try:
                await stop(process)
            except asyncio.CancelledError:
                process.kill()
                raise


def look(roots: Sequence[Path]) -> Snapshot:
    """Every Python file below the directories, with its time of change and size."""
    found: Snapshot = {}
    for root in roots:
        for directory, names, files in os.walk(root):
            names[:] = [name for name in names if not name.startswith(".") and name not in _SKIPPED]
            if "pyvenv.cfg" in files:
                names.clear()
                continue
            for name in files:
                if name.endswith(".py") and len(found) < MOST_FILES:
                    path = Path(directory, name)
                    try:
                        status = path.stat()
                    except FileNotFoundError:
                        continue  # an editor is replacing it
                    found[path] = (status.st_mtime_ns, status.st_size)
    return found


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process in good order, or after a while in any."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
