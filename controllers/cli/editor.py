"""The user's editor on a file of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from controllers.cli.errors import CliError


class Editor:
    """Edits a text. The file stays until `forget`: if something goes wrong, what was typed is not lost."""

    def __init__(self, suffix: str) -> None:
        handle, name = tempfile.mkstemp(prefix="listwatch-edit-", suffix=suffix)
        os.close(handle)
        self.path = Path(name)
        self._command = shlex.split(os.environ.get("KUBE_EDITOR") or os.environ.get("EDITOR") or "vi")

    async def edit(self, text: str) -> str:
        """The text as the user leaves it. Raises `CliError` if the editor cannot be run or fails."""
        self.path.write_text(text, encoding="utf-8")
        name = shlex.join(self._command)
        with _left_to_the_editor():
            try:
                process = await asyncio.create_subprocess_exec(*self._command, str(self.path))
            except OSError as error:
                raise CliError(f'unable to launch the editor "{name}": {error.strerror}') from None
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if code:
            raise CliError(f'there was a problem with the editor "{name}": it ended with exit code {code}')
        try:
            return self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise CliError(f"{self.path}: not UTF-8 text") from None

    def forget(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _left_to_the_editor() -> Iterator[None]:
    """Ctrl-C in the editor is for the editor."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
