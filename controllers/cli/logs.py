"""The log of a command: lines for people on a terminal, key=value or JSON elsewhere; on stderr by default."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO, TypeAlias

import structlog

LogFormat: TypeAlias = Literal["auto", "console", "logfmt", "json"]
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "console", "logfmt", "json")


def configure_logs(level: str, form: LogFormat = "auto", output: TextIO | None = None) -> None:
    """Send everything that the packages log to `output` (stderr, if None), from `level` on."""
    output = output or sys.stderr
    if form == "auto":
        form = "console" if output.isatty() else "logfmt"
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    match form:
        case "console":
            processors.append(structlog.dev.ConsoleRenderer(colors=output.isatty(), pad_event_to=24))
        case "json":
            processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        case _:
            order = ["timestamp", "level", "event"]
            processors += [structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer(key_order=order)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
