"""What a command says when it cannot do what was asked."""

from __future__ import annotations

from collections.abc import Sequence


class CliError(Exception):
    """Ends the command: each of `lines` goes to stderr as `error: ...`. A usage error has exit code 2."""

    def __init__(self, *lines: str, exit_code: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines: Sequence[str] = lines
        self.exit_code = exit_code
